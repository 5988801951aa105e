"""
The record of a directory's exports: what was requested, spent and saved.

Lines of JSON in a hidden file, so that a run that died is taken up without
spending an export twice. Holds no secrets and no ids of people.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import anyio
import attrs

from .._core.json_stream import mapping_of
from .._io.cancellation import in_thread
from .._io.sinks.saved_file import from_record, to_record
from ..errors import CohortsError, InvalidInputError, StorageError
from ..models import SavedExport

_logger = logging.getLogger(__name__)

NAME = ".amplitude-exports.jsonl"
_VERSION = 1

_LOCK_ATTEMPTS = 50
_LOCK_INTERVAL = 0.02
"""How often to try to lock the record, and seconds between."""


class AttemptLog(Protocol):
    """
    Where the requests for one export are written down.

    In this order: `attempted()`, then `refused()` and `attempted()` once more
    for each retry, then `requested()`, unless it is unknown what became of the
    last request.
    """

    async def attempted(self) -> None:
        """
        Write durably that a request is about to be sent.

        Raises:
            Exception: Nothing must be sent.
        """
        ...

    async def refused(self) -> None:
        """Write that the last request spent nothing."""
        ...

    async def requested(self, token: str) -> None:
        """Write the token of the export that was spent, or joined; never raises."""
        ...


@attrs.define
class RunHistory:
    """
    What the lines of earlier runs say, by key.

    Attributes:
        attempted: Exports whose request has no known outcome.

        requested: Tokens of exports whose file is not whole yet.

        saved: Files that are whole.

        in_run: Files that were saved by the run that did not come to its end.
    """

    attempted: set[str] = attrs.field(factory=set[str])
    requested: dict[str, str] = attrs.field(factory=dict[str, str])
    saved: dict[str, SavedExport] = attrs.field(factory=dict[str, SavedExport])
    in_run: set[str] = attrs.field(factory=set[str])

    def read(self, line: Mapping[str, object]) -> None:
        """Add what one line says."""
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

    def lines(self) -> Sequence[Mapping[str, object]]:
        """Return the lines that say the same to the next run."""
        saved = [_saved_line(key, saved) for key, saved in self.saved.items()]
        requested = [{"key": k, "token": token} for k, token in self.requested.items()]
        attempted = [{"key": key, "attempt": _VERSION} for key in self.attempted]

        return [*saved, {"finished": _VERSION}, *requested, *attempted]

    def _forget(self, key: str) -> None:
        self.attempted.discard(key)
        self.requested.pop(key, None)


class RunRecord:
    """
    The record in one directory; several processes may write to it.

    Attributes:
        path: The hidden file.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._thread = anyio.CapacityLimiter(1)

    async def open(self) -> RunHistory:
        """
        Begin a run and return what earlier ones wrote.

        A line that a crash cut is skipped.

        Raises:
            InvalidInputError: The record cannot be written; no export was spent.
        """
        return await in_thread(self._open, self._thread)

    def of(self, key: str) -> ExportRecord:
        """Return the part of the record that is about one export."""
        return ExportRecord(self, key)

    async def close(self) -> None:
        """
        Write that the run came to its end.

        Exports whose file is not whole, and open attempts, are kept.

        Raises:
            StorageError: The disk refused.
        """
        await in_thread(self._compact, self._thread)

    async def append(self, line: Callable[[], Mapping[str, object]]) -> None:
        """
        Write a line durably, even if the caller is cancelled.

        Args:
            line: Called in the worker thread, because a digest may be computed.

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
                f"({error.strerror or error}), and without one a run that dies would "
                f"spend twice; fix this: no export was spent"
            ) from error

        return history

    def _load(self) -> RunHistory:
        history = RunHistory()

        with suppress(FileNotFoundError):
            for text in self.path.read_bytes().splitlines():
                # A line that a crash cut short is no JSON.
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    history.read(mapping_of(json.loads(text)))

        return history

    def _write(self, line: Mapping[str, object]) -> None:
        with _locked(self.path.parent), self.path.open("a+b") as file:
            # A line that a crash cut must not swallow the next one.
            start = b"" if _ends_in_newline(file) else b"\n"
            file.write(start + _encoded(line))
            file.flush()
            os.fsync(file.fileno())

    def _compact(self) -> None:
        try:
            with _locked(self.path.parent):
                # From the disk, because other processes write to it as well.
                self._replace(self._load().lines())
        except OSError as error:
            raise StorageError(
                f"{self.path} could not be written ({error.strerror or error}), so the "
                f"next run will take this one for unfinished; fix this, or remove it",
                request_id="",
            ) from error

    def _replace(self, lines: Iterable[Mapping[str, object]]) -> None:
        part = self.path.with_suffix(".part")

        with part.open("wb") as file:
            file.writelines(map(_encoded, lines))
            file.flush()
            os.fsync(file.fileno())

        part.replace(self.path)


@attrs.frozen
class ExportRecord:
    """The `AttemptLog` of one export, and what became of its file."""

    _record: RunRecord
    _key: str

    async def attempted(self) -> None:
        """
        Write durably that a request is about to be sent.

        Raises:
            StorageError: The line was not written; nothing must be sent.
        """
        try:
            await self._record.append(lambda: {"key": self._key, "attempt": _VERSION})
        except BaseException as error:
            # The line may be on the disk all the same.
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
        """Write that the last request spent nothing."""
        await self._append(lambda: {"key": self._key, "refused": True})

    async def requested(self, token: str) -> None:
        """Write the token of an export that was spent, or joined; never raises."""
        # The export goes on: its outcome has the token as well.
        if not await self._append(lambda: {"key": self._key, "token": token}):
            _logger.warning("export not on record, its token is %s", token)

    async def over(self) -> None:
        """Write that an export that was spent will never have a file."""
        await self._append(lambda: {"key": self._key, "over": True})

    async def saved(self, saved: SavedExport) -> None:
        """Write that a file is whole."""
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
    """Keep other processes from this folder's record for a moment."""
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
