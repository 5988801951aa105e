"""The place "-" of the commands that save files: stdout."""

from __future__ import annotations

import asyncio
import io
import os
import select
import stat
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import typer

from .. import ExportJob
from ..errors import MissingExtraError, StorageError
from .common import FORMATS, Connection

__all__ = ("STDOUT", "check_stdout", "to_stdout")

STDOUT = Path("-")

_LOOK_SECONDS = 0.1
"""A reader that is behind is waited for so long before an interruption is noticed."""

_FILE_PIECE = 1 << 20


def check_stdout(connection: Connection, format: str | None) -> None:  # noqa: A002
    """Refuse what stdout cannot take, before anything is spent."""
    if connection.as_json:
        raise typer.BadParameter("pass either -o - or --json: both need stdout")

    if format not in {None, *FORMATS}:
        raise typer.BadParameter(f"{format!r} is no format: pass {', '.join(FORMATS)}")

    if format == "parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("the format parquet", extra="parquet")


async def to_stdout(
    job: ExportJob,
    *,
    format: str | None,  # noqa: A002
    timeout: float,
) -> None:
    """
    Copy a job's file to stdout once it is whole, and count it as delivered then.

    Who reads a pipe gets no part of a file that fails.
    """
    async with job.file(format=format or "csv", timeout=timeout) as file:
        is_stopped = threading.Event()
        try:
            await asyncio.to_thread(_copy, file, is_stopped)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageError(
                f"stdout cannot be written: {error.strerror or error}; fix that and "
                f"continue with `resume_export()`, which spends no export",
                request_id=job.request_id,
                cohort_id=job.cohort_id,
                token=job.token,
            ) from error
        finally:
            is_stopped.set()


def _copy(file: BinaryIO, is_stopped: threading.Event) -> None:
    out, piece = sys.stdout.buffer, _piece_size()

    while data := file.read(piece):
        while not _has_room():
            if is_stopped.is_set():
                return
        out.write(data)
        # What is buffered is with nobody yet.
        out.flush()


def _has_room() -> bool:
    try:
        return bool(select.select([], [sys.stdout], [], _LOOK_SECONDS)[1])
    except (OSError, ValueError):  # no handle; or Windows, which waits for sockets only
        return True


def _piece_size() -> int:
    # A pipe that has room takes so much without waiting for its reader.
    try:
        is_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, io.UnsupportedOperation):
        is_file = True

    return _FILE_PIECE if is_file else getattr(select, "PIPE_BUF", _FILE_PIECE)
