"""Options of the commands that save files, and what these say of a file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from ..models import SavedExport
from . import render
from .common import FORMATS, Connection
from .resume_hints import (
    StartedJobs,
    command_line,
    option_arguments,
    resume_hints,
)

__all__ = (
    "JOB_TIMEOUT",
    "FileMode",
    "Format",
    "Timeout",
    "file_named",
    "octal_text",
    "place_text",
    "resume_commands",
    "saving_hints",
    "tell",
)

JOB_TIMEOUT = 1800.0
"""Seconds."""


Format = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(FORMATS),
        help="Format; by default the file name's.",
    ),
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", help="How long to wait for each export.")
]


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not an octal number; pass permission bits, as in 640"
        ) from None


FileMode = Annotated[
    int | None,
    typer.Option(
        parser=_octal,
        metavar="OCTAL",
        help="Permissions of new files, as in 640; by default the umask's.",
    ),
]


def tell(connection: Connection, saved: SavedExport | None, **more: object) -> None:
    """Print the facts of a saved file; None if stdout has the file itself."""
    if saved is not None:
        facts = {**render.facts(saved), **more}
        connection.print("export", facts, lambda _: render.saved(saved))


def saving_hints(
    connection: Connection,
    jobs: StartedJobs,
    *,
    to: Callable[[], Path],
    format: str | None,  # noqa: A002 - named like the option
    file_mode: int | None,
    again: Callable[[StartedJobs], str | None] = lambda _: None,
) -> AbstractContextManager[None]:
    """
    Add the commands that bring the started exports to a file to an error's notes.

    Args:
        to: Returns the file, which may be known only when the export is.
        again: As for `resume_hints()`.
    """
    return resume_hints(
        lambda error: resume_commands(
            connection,
            jobs.resumable_after(error),
            to=to(),
            format=format,
            file_mode=file_mode,
        ),
        jobs,
        again,
    )


def resume_commands(
    connection: Connection,
    request_ids: list[str],
    *,
    to: Path,
    format: str | None,  # noqa: A002
    file_mode: int | None,
) -> list[str]:
    """Return the commands that save the files of some exports, and spend none."""
    options = [
        *option_arguments(format=format, file_mode=octal_text(file_mode)),
        *connection.arguments,
    ]

    return [
        command_line("resume", request_id, "-o", place_text(to), *options)
        for request_id in request_ids
    ]


def place_text(to: Path) -> str:
    """Return a target as it is typed: a path has one slash of an address's two."""
    scheme, colon, rest = str(to).partition(":/")
    is_address = scheme in {"s3", "gs", "az"} and colon and not rest.startswith("/")

    return f"{scheme}://{rest}" if is_address else str(to)


def octal_text(file_mode: int | None) -> str | None:
    """Return permission bits as the option takes them."""
    return None if file_mode is None else f"{file_mode:o}"


def file_named(stem: str, format: str | None) -> Path:  # noqa: A002
    """Return the name of a cohort's file."""
    # A quoted id cannot point outside the folder.
    return Path(f"{quote(stem, safe='')}.{format or 'csv'}")
