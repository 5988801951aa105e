"""
A file that grows under a hidden name, and is renamed when it is whole.

Every call may block. Bytes are written at positions that the caller names, so that
several connections may fill one file. What a process left that was killed, cancelled
or given up is taken up by the next one, if a record beside it proves it.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs

from .filters import crc32
from .part_lock import (
    abandoned_parts,
    create_record,
    is_named,
    is_private,
    new_part,
    record_path,
    remove_part,
    reopen_record,
)
from .part_record import (
    PartKey,
    PartRecord,
    Source,
    Span,
    head_line,
    joined,
    read_record,
    span_line,
)
from .permissions import new_file_mode, set_permissions
from .saved_file import NO_TIME, LocalFile

_CLOSED = -1

_READ_SIZE = 1 << 20

_LARGEST_RECORD = 16 << 20
"""Bytes: 400,000 ranges, which is a download of nine days."""

_GIVEN_BACK = 64 * 1024
"""Bytes given back to a full disk, so that it has room for the record of the rest."""

TAKES_RANGES = sys.platform != "win32"
"""Whether files here can be written at a position without moving another writer."""


class Damaged(OSError):  # noqa: N818 - no error: the download starts over
    """Bytes of an unfinished file are not those that were written."""


@attrs.frozen(kw_only=True)
class Kept:
    """The part of an object that is on disk: ranges in order, the first from 0 on."""

    source: Source
    ranges: tuple[tuple[int, int], ...]


@attrs.define
class Extent:
    """A range of the file that grows; its record ends at *recorded*."""

    end: int
    recorded: int


class PartFile:
    """
    A file that gets its name when it is whole, and not before.

    Until then only this user may read it. It exists from `open()` on. The target is
    absolute, and no link.

    Attributes:
        source: The object whose bytes are written; None if they are not its own, or
            nothing would prove that.

    Args:
        mode: Of a new file; None is what the umask leaves.
        key: What the file is to become; without it, nothing is taken up or left.
        like: A file whose permissions are taken, instead of those of what is replaced.
    """

    source: Source | None

    def __init__(
        self,
        target: Path,
        *,
        mode: int | None = None,
        key: PartKey | None = None,
        like: Path | None = None,
    ) -> None:
        self._target = target
        self._mode = mode
        self._key = key
        self._like = like or target
        self._new_mode = 0
        self.part = target
        self._file = _CLOSED
        self._record = _CLOSED
        self._is_locked = False
        self._reset()
        # A sync may take seconds, while the file goes on to be written. The lock is
        # for what closes it.
        self._syncing = threading.RLock()

    def open(self) -> None:
        """Make the file, empty; what was written before is removed."""
        self.discard()
        self._reset()
        self._choose_mode()
        self.part, self._file, self._is_locked = new_part(self._target)

    def take_up(self) -> Kept | None:
        """
        Open what an earlier process left for the same key, and return what it has.

        Everything else that is left for this target is removed, unless a process
        still writes to it. The file takes no bytes until `replay()` has ended.
        """
        self.discard()
        found: PartRecord | None = None

        for part, file in abandoned_parts(self._target):
            other = self._read_record(part, file)
            if other is None or (found and _covered(other) <= _covered(found)):
                remove_part(part, file)
            else:
                self.discard()
                self.part, self._file, self._is_locked = part, file, True
                found = other

        if found is None:
            return None

        try:
            self._record = reopen_record(self.part)
            os.ftruncate(self._record, found.size)
            self._choose_mode()
        except OSError:
            self.discard()
            return None

        self._reset()
        self._is_replaying = True
        self.source = found.source
        return Kept(source=found.source, ranges=_kept_ranges(found))

    def replay(self) -> Iterator[bytes]:
        """
        Yield the bytes on disk from the start to the first gap, for the filters.

        What they write is counted, not written. All ranges are compared with their
        check sums; a wrong one raises `Damaged`.
        """
        record = self._read_record(self.part, self._file)
        if record is None:
            raise Damaged

        (_, wanted), *_ = _kept_ranges(record)
        done = 0

        for span in sorted(record.spans, key=lambda span: span.start):
            at = span.start
            for piece in self._checked(span):
                if at <= done < at + len(piece):
                    fresh = piece[done - at : wanted - at]
                    done += len(fresh)
                    yield fresh
                at += len(piece)

        self._is_replaying = False

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*, all of it."""
        extent = self._in_order

        if self._is_replaying:
            extent.end += len(data)
            extent.recorded = extent.end
        else:
            self.append_to(extent, data)

    def append_to(self, extent: Extent, data: bytes | memoryview) -> None:
        """Write *data* at the end of a range, all of it."""
        view = memoryview(data)

        while view:
            count = _write(self._file, view, extent.end)
            # Counted after it is written: `checkpoint()` looks at it at any time.
            extent.end += count
            view = view[count:]

    def extent_at(self, start: int) -> Extent:
        """Return a new range, empty, that a writer of its own lets grow."""
        extent = Extent(start, start)
        self._extents.append(extent)

        return extent

    def resize(self, size: int) -> None:
        """Set the file's length: its final one, or that of what is kept of it."""
        os.ftruncate(self._file, size)

    @property
    def unrecorded(self) -> int:
        """Bytes that were written since the last `checkpoint()`."""
        return sum(extent.end - extent.recorded for extent in [*self._extents])

    def checkpoint(self) -> None:
        """
        Sync what was written so far, and list it in the record; others may write.

        The first one makes the record: most downloads are over before.
        """
        with self._syncing:
            key, source = self._key, self.source

            if key is None or source is None or self._file == _CLOSED:
                return

            # Without a lock, it could not be seen that it has no owner any more.
            if not self._is_locked:
                return

            ends = [(extent, extent.end) for extent in [*self._extents]]
            grown = [(extent, end) for extent, end in ends if end > extent.recorded]

            if grown:
                _sync_data(self._file)
                spans = [self._span(extent.recorded, end) for extent, end in grown]
                self._append(key, source, spans)

            for extent, end in grown:
                extent.recorded = end

    def leave(self) -> None:
        """Close the file for the next one; remove it if nothing is recorded."""
        try:
            self.checkpoint()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                self._make_room()

        if (
            self.source is None
            or self._record == _CLOSED
            or not is_named(self._file, self.part)
        ):
            self.discard()
        else:
            self._close()

    def finish(self) -> None:
        """Do nothing: the filters have ended, and the caller calls `publish()`."""

    def publish(self) -> LocalFile:
        """Make the file durable, rename it to its target, and return it."""
        written = os.fstat(self._file).st_mtime_ns

        # A file that is written twice within a tick of the disk's clock keeps its
        # time. That clock never shows the nanosecond before again, so every later
        # write changes the time that is set here.
        with suppress(OSError):
            os.utime(_by_handle(self._file, self.part), ns=(written, written - 1))

        os.fsync(self._file)
        found = os.fstat(self._file)
        # Not before the sync: as long as that takes, a kill leaves a file that is
        # this user's own, which can be taken up.
        set_permissions(self._file, self._target, like=self._like, mode=self._new_mode)
        # A record that is made meanwhile would stay.
        with self._syncing:
            self._rename()
        sync_folder(self._target.parent)

        return LocalFile(
            path=self._target,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns if found.st_mtime_ns < written else NO_TIME,
        )

    def reader(self) -> int:
        """Return a handle of the file's own, at its start; the caller closes it."""
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.dup(self._file)

    def discard(self) -> None:
        """Remove what was written, unless it has its name; safe at any time."""
        with self._syncing:
            file, self._file = self._file, _CLOSED
            self._close_record()

            if file != _CLOSED:
                remove_part(self.part, file)

    def _rename(self) -> None:
        # Who may write in the folder can put another file under our hidden name: it
        # must not get the target's. Between the look and the rename there is a
        # moment left, because no call renames an open file; so the target is looked
        # at as well: it is this file, or one of this user's that was published right
        # after it. What other users of the folder do to the target itself, then or
        # later, cannot be prevented.
        if not is_named(self._file, self.part):
            raise FileExistsError(f"somebody replaced or removed {self.part}")

        if sys.platform == "win32":
            self._close()  # what is open cannot be renamed there
            self.part.replace(self._target)
            return

        self.part.replace(self._target)

        # A reader that waits for the file may have taken it already.
        with suppress(FileNotFoundError):
            if self._target.lstat().st_uid != os.fstat(self._file).st_uid:
                raise FileExistsError(f"somebody replaced {self._target} just now")

        # Closed last: until it has its name, the lock keeps others away.
        record_path(self.part).unlink(missing_ok=True)
        self._close()

    def _reset(self) -> None:
        self.source = None
        self._is_replaying = False
        self._in_order = Extent(0, 0)
        self._extents = [self._in_order]

    def _choose_mode(self) -> None:
        self._new_mode = (
            new_file_mode(self._target) if self._mode is None else self._mode
        )

    def _read_record(self, part: Path, file: int) -> PartRecord | None:
        # None unless its bytes are for the same key, and may be taken.
        if self._key is None:
            return None

        try:
            if not is_private(file):
                return None
            record = reopen_record(part)
        except OSError:
            return None

        try:
            found = read_record(_read_all(record))
        except OSError:
            return None
        finally:
            os.close(record)

        if found is None or found.key != self._key or not _kept_ranges(found):
            return None

        return found

    def _checked(self, span: Span) -> Iterator[bytes]:
        check = 0

        for piece in self._pieces(span.start, span.end):
            check = crc32(piece, check)
            yield piece

        if check != span.crc:
            raise Damaged

    def _span(self, start: int, end: int) -> Span:
        # Read back, by this thread: the way of the bytes to the disk costs nothing
        # more, and most downloads are over before the first check sum. It takes a
        # second of processor time for each 2.3 GB, or 8 GB with isal.
        check = 0

        for piece in self._pieces(start, end):
            check = crc32(piece, check)

        return Span(start, end, check)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            piece = os.pread(self._file, min(_READ_SIZE, end - start), start)
            if not piece:
                raise Damaged("the file is shorter than was written")
            yield piece
            start += len(piece)

    def _append(self, key: PartKey, source: Source, spans: list[Span]) -> None:
        lines = b"".join(map(span_line, spans))

        if self._record == _CLOSED:
            lines = head_line(key, source) + lines
            self._record = create_record(self.part)

        end = os.lseek(self._record, 0, os.SEEK_END)

        try:
            _write_all(self._record, lines)
        except OSError:
            self._forget_lines(end)
            raise

    def _forget_lines(self, end: int) -> None:
        # Half a line would spoil the next one.
        with suppress(OSError):
            os.ftruncate(self._record, end)

        if end == 0:
            record_path(self.part).unlink(missing_ok=True)
            self._close_record()

    def _make_room(self) -> None:
        # The record needs a block of its own, and the disk has none.
        extent = self._in_order

        if len(self._extents) == 1:
            keep = max(extent.end // 2, extent.end - _GIVEN_BACK)
            extent.end = max(extent.recorded, keep)

            with suppress(OSError):
                os.ftruncate(self._file, extent.end)
                self.checkpoint()

    def _close(self) -> None:
        with self._syncing:
            file, self._file = self._file, _CLOSED
            self._close_record()

            if file != _CLOSED:
                os.close(file)

    def _close_record(self) -> None:
        record, self._record = self._record, _CLOSED

        if record != _CLOSED:
            os.close(record)


class UnnamedFile(PartFile):
    """A temporary file that never gets a name: nothing of it stays after a kill."""

    def __init__(self) -> None:
        super().__init__(Path())

    def open(self) -> None:
        """Make the file, empty; what was written before is dropped."""
        self.discard()
        self._reset()
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())

    def take_up(self) -> None:
        """Return None: nothing is ever left."""

    def discard(self) -> None:
        """Close the file, which is the end of it; safe at any time."""
        self._close()


def write_small(target: Path, data: bytes, *, mode: int | None, like: Path) -> None:
    """Write a small file in one step, with the permissions of another."""
    part = PartFile(target, mode=mode, like=like)
    part.take_up()

    try:
        part.open()
        part.write(data)
        part.publish()
    finally:
        part.discard()


def _covered(record: PartRecord) -> int:
    return sum(end - start for start, end in _kept_ranges(record))


def _kept_ranges(record: PartRecord) -> tuple[tuple[int, int], ...]:
    # Without the last byte: so the store is always asked, and says whether it still
    # has this object, and how long that is.
    total = record.source.total
    limit = (max(span.end for span in record.spans) if total is None else total) - 1
    ranges = joined(record.spans, limit=limit)

    # The filters need the start.
    return tuple(ranges) if ranges and ranges[0][0] == 0 else ()


def _read_all(file: int) -> bytes:
    data = b""

    while piece := os.pread(file, _READ_SIZE, len(data)):
        data += piece
        if len(data) > _LARGEST_RECORD:
            return b""

    return data


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync_data(file: int) -> None:
    # macOS and Windows have no `fdatasync`.
    getattr(os, "fdatasync", os.fsync)(file)


def _by_handle(file: int, path: Path) -> int | Path:
    return file if os.utime in os.supports_fd else path


def _write(file: int, view: memoryview, start: int) -> int:
    if sys.platform == "win32":
        # Only ever in order: see TAKES_RANGES.
        return os.write(file, view)

    return os.pwrite(file, view, start)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where it can be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders, and one may be closed to readers
        return

    try:
        os.fsync(handle)
    finally:
        os.close(handle)
