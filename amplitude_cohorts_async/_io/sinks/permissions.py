"""The permissions of a new file: those of what it replaces, or the system's."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from .part_lock import new_part, remove_part

_ACL = "system.posix_acl_access"


def new_file_mode(target: Path) -> int:
    """Return the mode that the system gives to a new file in a target's folder."""
    # The umask can only be read by setting it, for all threads at once; and the
    # folder may have a default access list. So let the system make a file. It is
    # named like an unfinished one: killed right here, it is removed like one.
    probe, file, _ = new_part(target, mode=0o666)

    try:
        return stat.S_IMODE(os.fstat(file).st_mode)
    finally:
        remove_part(probe, file)


def set_permissions(file: int, target: Path, *, like: Path, mode: int) -> None:
    """
    Give a file the mode and access list of another, or *mode* if there is none.

    Where this user may set them, also its owner and group. The other is the one that
    is replaced at the target, as a rule. What is no regular file is not replaced.
    """
    _check_regular(target)

    try:
        model = like.lstat()
    except FileNotFoundError:
        _chmod(file, mode)
    else:
        _chmod(file, _inherit_permissions(file, like, model))


def _check_regular(target: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(target.lstat().st_mode):
            raise FileExistsError(f"{target} is no regular file any more")


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
