"""Where a command saves a file: at a path, or to stdout."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import typer

__all__ = ("STDOUT", "destination")

STDOUT = Path("-")


@contextmanager
def destination(
    output: Path,
    *,
    format: str | None,  # noqa: A002
    as_json: bool,
) -> Generator[Path]:
    """
    Yield the path to save a file at.

    For "-" it is a temporary one, which is copied to stdout when it is whole: who
    reads a pipe gets no part of a file that fails.
    """
    if output != STDOUT:
        yield output
        return

    if as_json:
        raise typer.BadParameter("pass either -o - or --json: both need stdout")

    with tempfile.TemporaryDirectory(prefix="amplitude-cohorts-") as folder:
        path = Path(folder, f"members.{format or 'csv'}")
        yield path

        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
