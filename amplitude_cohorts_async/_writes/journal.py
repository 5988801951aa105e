"""A journal on disk: each step is durable before the next one begins."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path

import anyio
import anyio.to_thread

from .._core.journal import WriteProgress, check_same, parse, start_line
from ..errors import InvalidInputError


class Journal:
    """The progress of one write, and its journal if it has one."""

    def __init__(self, progress: WriteProgress, file: FileIO | None = None) -> None:
        self.progress = progress
        self._file = file

    async def append(self, line: bytes) -> None:
        """Append a line and wait until the disk has it."""
        file = self._file

        if file is None:
            return

        # What has happened has to be recorded even if the caller is cancelled.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_append, file, line)


@asynccontextmanager
async def open_journal(
    path: str | os.PathLike[str] | None, kind: str, parameters: Mapping[str, object]
) -> AsyncGenerator[Journal]:
    """
    Begin a journal, or go on with the one that is there; None keeps none.

    Raises:
        InvalidInputError: The file is no journal, or that of another write, or
            another process is writing it now.
    """
    if path is None:
        yield Journal(WriteProgress())
        return

    place = Path(path)
    file, progress = await anyio.to_thread.run_sync(_open, place, kind, parameters)

    try:
        yield Journal(progress, file)
    finally:
        file.close()


def _open(
    path: Path, kind: str, parameters: Mapping[str, object]
) -> tuple[FileIO, WriteProgress]:
    try:
        # Unbuffered: what a full disk refused would be written again by closing,
        # and the error of that would hide the one that says what was done.
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise InvalidInputError(f"no journal can be kept at {path}: {error}") from error

    try:
        return file, _begin(file, path, kind, parameters)
    except BaseException:
        file.close()
        raise


def _begin(
    file: FileIO, path: Path, kind: str, parameters: Mapping[str, object]
) -> WriteProgress:
    _lock(file, path)
    file.seek(0)
    parsed = parse(file.read())
    progress = check_same(parsed, kind, parameters)

    # The torn end of a crash goes before anything is written behind it.
    file.truncate(parsed.good)

    if parsed.kind is None:
        _append(file, start_line(kind, parameters))
        _keep_name(path)

    return progress


def _append(file: FileIO, line: bytes) -> None:
    end = file.seek(0, os.SEEK_END)
    view = memoryview(line)

    try:
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())
    except OSError:
        # Half a line would swallow the next one.
        file.truncate(end)
        raise


def _lock(file: FileIO, path: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - not everywhere
    except ImportError:  # pragma: no cover - Windows keeps no such lock
        return

    try:
        # Two runs with one journal could make two cohorts.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InvalidInputError(
            f"the journal {path} is in use by another run; wait until it has ended"
        ) from error


def _keep_name(path: Path) -> None:
    # A file that was just made is found after a power cut only if its folder
    # reached the disk as well.
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError:  # pragma: no cover - Windows opens no folders
        return

    try:
        os.fsync(folder)
    finally:
        os.close(folder)
