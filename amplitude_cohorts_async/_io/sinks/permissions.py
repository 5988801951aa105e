"""Who may read a file that the library wrote."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

_ACL = "system.posix_acl_access"


def new_file_mode(folder: Path) -> int:
    """Return the mode that a new file in a folder gets without being asked for."""
    # The umask can only be read by setting it, for all threads at once; and the
    # folder may have a default access list. So let the system make a file.
    probe = folder / f".{secrets.token_hex(4)}.part"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))

    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()


def set_permissions(file: int, target: Path, *, mode: int | None = None) -> None:
    """
    Give an open file the permissions that it will have at its target.

    What it replaces passes on its mode, its access list and, where this user
    may set them, its owner and group.

    Args:
        mode: For a new file; None leaves it as it is.

    Raises:
        FileExistsError: Something at the target is no regular file.
    """
    try:
        replaced = target.lstat()
    except FileNotFoundError:
        if mode is not None:
            _chmod(file, mode)
        return

    if not stat.S_ISREG(replaced.st_mode):
        raise FileExistsError(f"{target} is no regular file any more")

    _chmod(file, _take_over(file, target, replaced))


def _take_over(file: int, target: Path, replaced: os.stat_result) -> int:
    # Returns the mode that may be set after that.
    mode = replaced.st_mode & 0o777

    if sys.platform == "win32":
        return mode

    is_kept = _chown(file, replaced.st_uid, replaced.st_gid)

    if not is_kept and not _chown(file, -1, replaced.st_gid):
        # Another group than the old one may do what everyone else might, no more.
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
    # Windows has nothing of the kind before Python 3.13.
    if sys.platform != "win32":
        os.fchmod(file, mode)
