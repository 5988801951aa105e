"""
Names of unfinished files, and the locks that tell which of them have an owner.

The owner of one is the process that writes it. Until it ends it holds an exclusive
lock (flock) on the file, or on one in a folder of such files. The system releases the
lock then, however the process ends, and not while it is only stopped. So a process
that gets the lock knows that no other one writes to the file any more. Where there are
no such locks (Windows, some network disks), nothing is taken up.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_REOPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""No link is followed, and opening a pipe of that name does not wait."""

_RECORD = ".ranges"
_FOLDER_LOCK = "lock"
_LONGEST_STEM = 48
_KEPT_STEM = 39


def new_part(target: Path, *, mode: int = 0o600) -> tuple[Path, int, bool]:
    """
    Make an unfinished file for a target; by default only this user may read it.

    Returns its path, its handle, and whether it is locked.
    """
    while True:
        # Random, so that two downloads of one target never meet.
        part = target.with_name(f".{_stem(target)}.{secrets.token_hex(4)}.part")

        if found := _open_locked(part, _CREATE, mode):
            return part, *found


def record_path(part: Path) -> Path:
    """Return the path of the record beside an unfinished file."""
    return part.with_name(part.name + _RECORD)


def abandoned_parts(target: Path) -> Iterator[tuple[Path, int]]:
    """
    Yield path and handle of each unfinished file of a target that has no owner.

    They are locked; the caller closes them. Records without a file are removed.
    """
    pattern = re.compile(rf"\.{re.escape(_stem(target))}\.[0-9a-f]{{8}}\.part")
    names = _names_in(target.parent)

    for name in names:
        if name.endswith(_RECORD) and pattern.fullmatch(name.removesuffix(_RECORD)):
            record = target.with_name(name)
            # A record is made after its file and removed with it.
            if not os.path.lexists(target.with_name(name.removesuffix(_RECORD))):
                with suppress(OSError):
                    record.unlink()

    for name in names:
        if pattern.fullmatch(name):
            part = target.with_name(name)
            file = _claim(part)
            if file is not None:
                yield part, file


def remove_part(part: Path, file: int) -> None:
    """Remove a locked file that was not finished, with its record, and close it."""
    is_ours = is_named(file, part)

    if sys.platform == "win32":
        os.close(file)  # what is open cannot be removed there

    with suppress(OSError):
        record_path(part).unlink(missing_ok=True)

    with suppress(OSError):
        if is_ours:
            part.unlink()

    if sys.platform != "win32":
        os.close(file)


def reopen_record(part: Path) -> int:
    """Return a handle of the record beside a file; an `OSError` if it is not ours."""
    file = os.open(record_path(part), _REOPEN)

    if not is_private(file):
        os.close(file)
        raise PermissionError(f"{record_path(part)} may be another user's")

    return file


def create_record(part: Path) -> int:
    """Make the record beside a file, empty, and return its handle."""
    return os.open(record_path(part), _CREATE, 0o600)


def new_folder(beside: Path, prefix: str) -> tuple[Path, int]:
    """
    Make a folder for unfinished files; only this user may read it.

    Returns its path, and the handle of its lock.
    """
    while True:
        folder = beside / f"{prefix}{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700, parents=True)

        with suppress(FileNotFoundError):
            if found := _lock_folder(folder):
                return folder, found[0]


def remove_folder(folder: Path, lock: int) -> None:
    """Remove a locked folder with what is in it, and close its lock."""
    if sys.platform == "win32":
        os.close(lock)  # what is open cannot be removed there

    shutil.rmtree(folder, ignore_errors=True)

    if sys.platform != "win32":
        os.close(lock)


def remove_abandoned_folders(beside: Path, prefix: str) -> None:
    """Remove the folders for unfinished files that have no owner."""
    pattern = re.compile(rf"{re.escape(prefix)}[0-9a-f]{{16}}")

    for name in _names_in(beside):
        folder = beside / name
        if pattern.fullmatch(name) and folder.is_dir() and not folder.is_symlink():
            with suppress(OSError):
                _remove_if_abandoned(folder)


def is_named(file: int, path: Path) -> bool:
    """Whether a path still leads to this open file, and not by a link."""
    try:
        named = path.lstat()
    except OSError:
        return False

    return os.path.samestat(named, os.fstat(file))


def is_private(file: int) -> bool:
    """
    Whether an open file is regular and this user's, and no other user may touch it.

    Only such a file is taken up: who may write in a folder of ours must not be able
    to put bytes under our names.
    """
    found = os.fstat(file)

    return (
        sys.platform != "win32"
        and stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and found.st_nlink == 1
        and found.st_mode & 0o077 == 0
    )


def _stem(target: Path) -> str:
    # Cut, so that it is not too long where the target's own name is not.
    name = target.name

    if len(name) <= _LONGEST_STEM:
        return name

    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f"{name[:_KEPT_STEM]}-{digest[:8]}"


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is needed
    except OSError:  # one may write in a folder that one may not list
        return []


def _remove_if_abandoned(folder: Path) -> None:
    if sys.platform == "win32":
        # What its owner has open cannot be removed there.
        (folder / _FOLDER_LOCK).unlink()
        shutil.rmtree(folder, ignore_errors=True)
        return

    if found := _lock_folder(folder):
        file, is_locked = found
        if is_locked:
            remove_folder(folder, file)
        else:
            os.close(file)


def _lock_folder(folder: Path) -> tuple[int, bool] | None:
    # The lock is made by whoever comes first: so one that was killed before it had
    # made its own, or while it removed the folder, leaves nothing either.
    return _open_locked(folder / _FOLDER_LOCK, _REOPEN | os.O_CREAT, 0o600)


def _open_locked(path: Path, flags: int, mode: int) -> tuple[int, bool] | None:
    # Returns the handle, and whether it is locked; None if another process, which
    # removes what is abandoned, was faster.
    file = os.open(path, flags, mode)

    try:
        is_locked = _try_lock(file)
        if is_locked is not False and is_named(file, path):
            return file, is_locked is True
    except BaseException:
        os.close(file)
        raise

    os.close(file)
    return None


def _claim(part: Path) -> int | None:
    if sys.platform == "win32":
        # What its owner has open cannot be removed there.
        with suppress(OSError):
            part.unlink()
        return None

    try:
        file = os.open(part, _REOPEN)
    except OSError:
        return None

    with suppress(OSError):
        # The name is asked for under the lock: the owner may have published the
        # file in between, and the file is under its target's name now.
        if (
            stat.S_ISREG(os.fstat(file).st_mode)
            and _try_lock(file)
            and is_named(file, part)
        ):
            return file

    os.close(file)
    return None


def _try_lock(file: int) -> bool | None:
    # None where there are no locks. Not fcntl's other lock: it is lost as soon as
    # this process closes any handle of the file.
    if sys.platform == "win32":
        return None

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None

    return True
