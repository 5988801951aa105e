"""
A file that grows under a hidden name, and is renamed when it is whole.

Every call may block. Bytes are written at positions that the caller names, so that
several connections may fill one file.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

from .saved_file import NO_TIME, LocalFile

_ACL = "system.posix_acl_access"

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

_CLOSED = -1

TAKES_RANGES = sys.platform != "win32"
"""Whether files here can be written at a position without moving another writer."""


class PartFile:
    """
    A file that gets its name when it is whole, and not before.

    Until then only its owner may read it. It exists from `open()` on. The target is
    absolute, and no link; a *mode* of None is what the umask leaves.
    """

    def __init__(self, target: Path, *, mode: int | None = None) -> None:
        self._target = target
        self._mode = mode
        self._new_mode = 0
        # Random, so that two downloads of one target never meet; and cut, so that it
        # is not too long where the target's own name is not.
        name = f".{target.name[:48]}.{secrets.token_hex(4)}.part"
        self.part = target.with_name(name)
        self._end = 0
        self._file = _CLOSED

    def open(self) -> None:
        """Make the file, empty; what was written before is removed."""
        self.discard()
        self._end = 0

        self._new_mode = (
            _new_file_mode(self._target.parent) if self._mode is None else self._mode
        )
        self._file = os.open(self.part, _FLAGS, 0o600)

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*, all of it."""
        self._end = self.write_at(self._end, data)

    def write_at(self, start: int, data: bytes | memoryview) -> int:
        """Write *data* at a position, all of it; return the position behind it."""
        view = memoryview(data)

        while view:
            count = _write(self._file, view, start)
            start += count
            view = view[count:]

        return start

    def reserve(self, size: int) -> None:
        """Set the file's final length, to be filled in any order."""
        os.ftruncate(self._file, size)
        self._end = size

    def finish(self) -> None:
        """Do nothing: the filters have ended, and the owner calls `publish()`."""

    def publish(self) -> LocalFile:
        """Make the file durable, rename it to its target, and return it."""
        _set_permissions(self._file, self._target, mode=self._new_mode)
        written = os.fstat(self._file).st_mtime_ns

        # A file that is written twice within a tick of the disk's clock keeps its
        # time. That clock never shows the nanosecond before again, so every later
        # write changes the time that is set here.
        with suppress(OSError):
            os.utime(self.part, ns=(written, written - 1))

        os.fsync(self._file)
        found = os.fstat(self._file)
        self._close()
        self.part.replace(self._target)
        sync_folder(self._target.parent)

        return LocalFile(
            path=self._target,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns if found.st_mtime_ns < written else NO_TIME,
        )

    def discard(self) -> None:
        """Remove what was written, unless it has its name; safe at any time."""
        self._close()
        self.part.unlink(missing_ok=True)

    def _close(self) -> None:
        file, self._file = self._file, _CLOSED

        if file != _CLOSED:
            os.close(file)


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


def _new_file_mode(folder: Path) -> int:
    # The umask can only be read by setting it, for all threads at once; and the
    # folder may have a default access list. So let the system make a file.
    probe = folder / f".{secrets.token_hex(4)}.part"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))

    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()


def _set_permissions(file: int, target: Path, *, mode: int) -> None:
    # A file that is replaced passes on its mode, its access list and, where this
    # user may set them, its owner and group. A new one gets `mode`.
    try:
        replaced = target.lstat()
    except FileNotFoundError:
        _chmod(file, mode)
        return

    if not stat.S_ISREG(replaced.st_mode):
        raise FileExistsError(f"{target} is no regular file any more")

    _chmod(file, _inherit_permissions(file, target, replaced))


def _inherit_permissions(file: int, target: Path, replaced: os.stat_result) -> int:
    # Returns the mode that may be set after that.
    mode = replaced.st_mode & 0o777

    if sys.platform == "win32":
        return mode

    is_kept = _chown(file, replaced.st_uid, replaced.st_gid)

    if not is_kept and not _chown(file, -1, replaced.st_gid):
        # The group is another one: it gets no more than all others had.
        return mode & (0o707 | (mode & 0o007) << 3)

    if sys.platform == "linux":
        # With an access list, the mode's group bits are the list's mask: without
        # it, they would let the group in.
        with suppress(OSError):
            os.setxattr(file, _ACL, os.getxattr(target, _ACL))

    return mode


def _chown(file: int, user: int, group: int) -> bool:
    try:
        os.fchown(file, user, group)
    except OSError:
        return False

    return True


def _chmod(file: int, mode: int) -> None:
    # Windows has no `fchmod` before Python 3.13.
    if sys.platform != "win32":
        os.fchmod(file, mode)
