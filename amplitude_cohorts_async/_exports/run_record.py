"""
The run record of `export_many()`: what was requested, spent and saved.

Lines of JSON in a hidden file of the target directory. A run that was killed goes on
from it without spending an export twice. It never holds secrets or members' ids.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import anyio
import attrs

from .._core.json_stream import mapping_of
from .._io.cancellation import in_thread
from .._io.sinks.saved_file import from_record, to_record
from ..errors import CohortsError, InvalidInputError, StorageError
from ..models import SavedExport
from .memory import AttemptLog

_logger = logging.getLogger(__name__)

NAME = ".amplitude-exports.jsonl"
_VERSION = 1

_LOCK_ATTEMPTS = 50
_LOCK_INTERVAL = 0.02  # seconds


@attrs.define
class RunHistory:
    """
    The state that the lines of earlier runs add up to, by key.

    Attributes:
        attempted: Exports whose request has no known outcome.
        requested: Tokens of exports whose file is not complete.
        in_run: What the run that did not end has saved.
    """

    attempted: set[str] = attrs.field(factory=set[str])
    requested: dict[str, str] = attrs.field(factory=dict[str, str])
    saved: dict[str, SavedExport] = attrs.field(factory=dict[str, SavedExport])
    in_run: set[str] = attrs.field(factory=set[str])

    def read(self, line: Mapping[str, object]) -> None:
        """Apply one line."""
        key, token = line.get("key"), line.get("token")

        if "finished" in line:
            self.in_run.clear()
        elif not isinstance(key, str):
            return
        elif "attempt" in line:
            self.attempted.add(key)
        elif "refused" in line:
            self.attempted.discard(key)
        elif "over" in line:
            self._forget(key)
        elif isinstance(token, str):
            self._forget(key)
            self.requested[key] = token
        elif saved := mapping_of(line.get("saved")):
            self.saved[key] = from_record(saved)
            self._forget(key)
            self.in_run.add(key)

    def lines(self) -> Iterable[Mapping[str, object]]:
        """Return the shortest record of this state, with the run ended."""
        saved = [_saved_line(key, saved) for key, saved in self.saved.items()]
        requested = [{"key": k, "token": token} for k, token in self.requested.items()]
        attempted = [{"key": key, "attempt": _VERSION} for key in self.attempted]

        return [*saved, {"finished": _VERSION}, *requested, *attempted]

    def _forget(self, key: str) -> None:
        self.attempted.discard(key)
        self.requested.pop(key, None)


class RunRecord:
    """The run record in one directory; several processes may write to it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._thread = anyio.CapacityLimiter(1)

    async def open(self) -> RunHistory:
        """
        Begin a run and return the state that earlier ones left.

        Raises:
            InvalidInputError: The record cannot be written; no export was spent.
        """
        return await in_thread(self._open, self._thread)

    async def close(self) -> None:
        """
        Record the end of the run; unfinished exports and open attempts are kept.

        Raises:
            StorageError: The record cannot be written.
        """
        await in_thread(self._compact, self._thread)

    async def append(self, line: Callable[[], Mapping[str, object]]) -> None:
        """
        Write a line durably, even if the caller is cancelled.

        *line* is called in the worker thread, because it may compute a digest.

        Raises:
            OSError: The line was not written.
        """
        await in_thread(lambda: self._write(line()), self._thread)

    def _open(self) -> RunHistory:
        try:
            history = self._load()
            self._write({"begun": _VERSION})
        except OSError as error:
            raise InvalidInputError(
                f"no record of exports can be kept at {self.path} "
                f"({error.strerror or error}), and without one the next run could "
                f"spend an export twice; fix this: no export was spent"
            ) from error

        return history

    def _load(self) -> RunHistory:
        history = RunHistory()

        with suppress(FileNotFoundError):
            for text in self.path.read_bytes().splitlines():
                # A line that a crash cut short is not JSON, and is skipped.
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    history.read(mapping_of(json.loads(text)))

        return history

    def _write(self, line: Mapping[str, object]) -> None:
        with _locked(self.path.parent), self.path.open("a+b") as file:
            # This line must not be appended to one that a crash cut short.
            start = b"" if _ends_in_newline(file) else b"\n"
            file.write(start + _encoded(line))
            file.flush()
            os.fsync(file.fileno())

    def _compact(self) -> None:
        try:
            with _locked(self.path.parent):
                # Read again, because other processes write to it as well.
                self._replace(self._load().lines())
        except OSError as error:
            raise StorageError(
                f"{self.path} could not be written ({error.strerror or error}), so the "
                f"next run will treat this one as unfinished; fix this, or remove it",
                request_id="",
            ) from error

    def _replace(self, lines: Iterable[Mapping[str, object]]) -> None:
        part = self.path.with_suffix(".part")

        # A new file: a link left at this name must not lead to another's file.
        part.unlink(missing_ok=True)

        with part.open("xb") as file:
            file.writelines(map(_encoded, lines))
            file.flush()
            os.fsync(file.fileno())

        part.replace(self.path)


@attrs.frozen
class ExportRecord(AttemptLog):
    """The lines of one export in a run record."""

    _record: RunRecord
    _key: str

    async def attempted(self) -> None:
        """Record durably that a request is about to be sent, or raise `StorageError`."""
        try:
            await self._record.append(lambda: {"key": self._key, "attempt": _VERSION})
        except BaseException as error:
            # The line may have reached the disk.
            await self.refused()
            if not isinstance(error, OSError):
                raise
            raise StorageError(
                f"the record of exports at {self._record.path} cannot be written "
                f"({error.strerror or error}), so the export was not requested; fix "
                f"this and call again: no export was spent",
                request_id="",
            ) from error

    async def refused(self) -> None:
        """Record that the last request spent no export."""
        await self._append(lambda: {"key": self._key, "refused": True})

    async def requested(self, token: str) -> None:
        """Record the token of an export that was spent or joined."""
        # The export goes on if this fails: its outcome has the token as well.
        if not await self._append(lambda: {"key": self._key, "token": token}):
            _logger.warning("export not recorded, its token is %s", token)

    async def over(self) -> None:
        """Record that an export will never have a file."""
        await self._append(lambda: {"key": self._key, "over": True})

    async def saved(self, saved: SavedExport) -> None:
        """Record that the file of an export is complete."""
        await self._append(lambda: _saved_line(self._key, saved))

    async def _append(self, line: Callable[[], Mapping[str, object]]) -> bool:
        try:
            await self._record.append(line)
        except OSError as error:
            if isinstance(error, CohortsError):
                raise
            _logger.warning("the record of exports cannot be written", exc_info=True)
            return False
        return True


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Lock a folder's record; go on without the lock after a second."""
    try:
        import fcntl  # noqa: PLC0415 - not everywhere
    except ImportError:  # pragma: no cover - Windows has no such lock
        yield
        return

    handle = os.open(folder, os.O_RDONLY)

    try:
        for _ in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                # Held by another process, or the file system has no locks.
                time.sleep(_LOCK_INTERVAL)
            else:
                break
        yield
    finally:
        os.close(handle)


def _saved_line(key: str, saved: SavedExport) -> dict[str, object]:
    # In a worker thread: the digest may have to be computed.
    return {"key": key, "saved": to_record(saved)}


def _encoded(line: Mapping[str, object]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _ends_in_newline(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))

    return file.read(1) in {b"", b"\n"}
