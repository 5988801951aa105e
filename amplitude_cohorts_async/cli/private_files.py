"""Files that are the user's alone: written as a whole, and told from those of others."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

__all__ = ("is_closed", "is_own", "is_private", "write_private")

_OF_OTHERS = 0o077


def write_private(path: Path, text: str) -> None:
    """
    Replace a file as a whole; nobody else can read it at any moment.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes it with mode 0600.
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")

    try:
        with open(number, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_own(facts: os.stat_result) -> bool:
    """Whether a file belongs to this user."""
    # Windows has no such number: the folders in question are the user's own.
    return not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()


def is_closed(facts: os.stat_result) -> bool:
    """Whether nobody but its owner can open a file."""
    # Windows makes up the mode.
    return not hasattr(os, "geteuid") or not stat.S_IMODE(facts.st_mode) & _OF_OTHERS


def is_private(facts: os.stat_result) -> bool:
    """Whether a file belongs to this user, and nobody else can open it."""
    return is_own(facts) and is_closed(facts)
