"""
What a run over many cohorts has spent and saved, line by line on disk.

A line is written when an export was requested and when its file is whole, so
that a run that died is taken up without spending anything twice. No secrets,
and no ids of people.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import anyio
import attrs

from .._core.shapes import mapping_of
from ..errors import CohortsError, InvalidInputError, StorageError
from ..models import SavedExport
from .disk.saved_file import from_record, to_record
from .threads import in_thread

_logger = logging.getLogger(__name__)

NAME = ".amplitude-exports.jsonl"
_VERSION = 1

_TRIES = 50
_BETWEEN = 0.02
"""
How often to ask for the record to be left alone, and seconds between.
"""


@attrs.define
class Past:
    """
    What earlier lines told.

    Attributes:
        requested: Tokens of exports whose file is not whole yet, by key.

        saved: Files that are whole, by key.

        in_run: Keys of the files that the run that died had saved already.
    """

    requested: dict[str, str] = attrs.field(factory=dict[str, str])
    saved: dict[str, SavedExport] = attrs.field(factory=dict[str, SavedExport])
    in_run: set[str] = attrs.field(factory=set[str])


class Ledger:
    """
    One directory's record of its exports; several processes may keep it.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._thread = anyio.CapacityLimiter(1)

    async def begun(self) -> Past:
        """
        Begin a run: read what earlier ones wrote, and see that it can go on.

        A line cut by a crash is passed over.

        Raises:
            InvalidInputError: No record can be kept; nothing was spent.
        """
        return await in_thread(self._begin, self._thread)

    async def requested(self, key: str, token: str) -> None:
        """
        Take note of an export that was spent.
        """
        await self._append(lambda: {"key": key, "token": token})

    async def over(self, key: str) -> None:
        """
        Take note that an export that was spent will never have a file.
        """
        await self._append(lambda: {"key": key, "over": True})

    async def saved(self, key: str, saved: SavedExport) -> None:
        """
        Take note of a file that is whole.
        """
        await self._append(lambda: _line(key, saved))

    async def finished(self) -> None:
        """
        Take note that the run came to its end, and forget how.

        Exports that were spent and whose file is not whole are remembered.

        Raises:
            StorageError: The disk refused.
        """
        await in_thread(self._compact, self._thread)

    async def _append(self, line: Callable[[], Mapping[str, object]]) -> None:
        # In a worker thread, because a digest may have to be worked out. The
        # outcome tells the token and the file even if the disk is full by now.
        try:
            await in_thread(lambda: self._write(line()), self._thread)
        except OSError as error:
            if isinstance(error, CohortsError):
                raise
            _logger.warning("the record of exports cannot be written", exc_info=True)

    def _begin(self) -> Past:
        try:
            past = self._load()
            self._write({"begun": _VERSION})
        except OSError as error:
            raise InvalidInputError(
                f"no record of exports can be kept at {self._path} "
                f"({error.strerror or error}), and without one a run that dies would "
                f"spend twice; mend that, nothing was spent"
            ) from error

        return past

    def _load(self) -> Past:
        past = Past()

        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return past

        for text in lines:
            # What a crash cut short was not promised to anybody.
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                _read(mapping_of(json.loads(text)), past)

        return past

    def _write(self, line: Mapping[str, object]) -> None:
        with _alone(self._path.parent), self._path.open("a+b") as file:
            # A line that a crash cut must not swallow the next one.
            start = b"" if _ends_in_newline(file) else b"\n"
            file.write(start + json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _compact(self) -> None:
        try:
            with _alone(self._path.parent):
                self._rewrite(self._load())
        except OSError as error:
            raise StorageError(
                f"{self._path} could not be written ({error.strerror or error}), so the "
                f"next run will take this one for unfinished; mend that, or remove it",
                request_id="",
            ) from error

    def _rewrite(self, past: Past) -> None:
        # From the disk, because another process may keep it as well.
        lines = [_line(key, saved) for key, saved in past.saved.items()]
        lines += [{"finished": _VERSION}]
        lines += [{"key": key, "token": token} for key, token in past.requested.items()]
        part = self._path.with_suffix(".part")

        with part.open("wb") as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

        part.replace(self._path)


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """
    Keep other processes from this folder's record for a moment.
    """
    try:
        import fcntl  # noqa: PLC0415 - not everywhere
    except ImportError:  # pragma: no cover - Windows keeps no such lock
        yield
        return

    handle = os.open(folder, os.O_RDONLY)

    try:
        for _ in range(_TRIES):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                # Somebody may hold the folder for long, or it knows no locks.
                time.sleep(_BETWEEN)
            else:
                break
        yield
    finally:
        os.close(handle)


def _line(key: str, saved: SavedExport) -> dict[str, object]:
    # In a worker thread: the digest may have to be worked out.
    return {"key": key, "saved": to_record(saved)}


def _read(line: Mapping[str, object], past: Past) -> None:
    key, token = line.get("key"), line.get("token")

    if "finished" in line:
        past.in_run.clear()
    elif not isinstance(key, str):
        return
    elif "over" in line:
        past.requested.pop(key, None)
    elif isinstance(token, str):
        past.requested[key] = token
    elif saved := mapping_of(line.get("saved")):
        past.saved[key] = from_record(saved)
        past.requested.pop(key, None)
        past.in_run.add(key)


def _ends_in_newline(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))

    return file.read(1) in {b"", b"\n"}
