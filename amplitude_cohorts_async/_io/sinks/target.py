"""
Where a file may go.

Everything here blocks and is called in worker threads.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import attrs

from ...errors import InvalidInputError
from .formats import FORMATS, Format


@attrs.frozen
class Target:
    """
    A path that a whole file may be put at.

    Attributes:
        place: Where that file is: at the path, or where its links lead.
    """

    path: Path
    place: Path
    format: Format


def checked_target(to: str | os.PathLike[str], format: str | None) -> Target:  # noqa: A002
    """
    Return where a download goes, before anything is spent on it.

    Args:
        to: The file; replaced when it exists, written through if it is a link.

        format: One of `FORMATS`; None reads it off the name.

    Raises:
        InvalidInputError: There can be no such file, or its format is unknown.

        MissingExtraError: Its format needs an extra that is not installed.
    """
    try:
        path = Path(to)
    except TypeError:
        raise InvalidInputError(f"the target is a path, got {to!r}") from None

    chosen = checked_format(format) if format is not None else _format_of(path)
    chosen.require()

    try:
        return Target(path, _checked_place(path), chosen)
    except InvalidInputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"{str(path)!r} cannot be written ({reason}); name another file"
        ) from error


def checked_format(format: str) -> Format:  # noqa: A002
    """
    Return the format that a text names.

    Raises:
        InvalidInputError: It names none.
    """
    try:
        return FORMATS[format.lower().lstrip(".")]
    except KeyError:
        raise InvalidInputError(
            f"{format!r} is no format; pass one of {_known()}"
        ) from None


def _checked_place(path: Path) -> Path:
    # Complains of names that no file can have, and of links in a circle.
    with suppress(FileNotFoundError, NotADirectoryError):
        path.stat()

    if path.is_dir():
        raise InvalidInputError(
            f"{path} is a directory; name a file in it, as in {path / 'members.csv'}"
        )

    place = Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()

    # A rename onto a device or a pipe would replace it. A link in /proc may also
    # lead to an open file that has no name.
    if path.exists() and not place.is_file():
        raise InvalidInputError(f"{path} is no regular file; name another one")

    folder = place.parent

    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no directory; make it first")

    # Nothing but trying tells all: rights, read-only disks, folders like /proc.
    with tempfile.TemporaryFile(dir=folder):
        return place


def _format_of(path: Path) -> Format:
    name = path.name.lower()

    for suffix, each in FORMATS.items():
        if name.endswith(f".{suffix}"):
            return each

    raise InvalidInputError(
        f"the name {path.name!r} does not say its format; end it in one of {_known('.')}"
        f", or pass format= with one of {_known()}"
    )


def _known(before: str = "") -> str:
    return ", ".join(repr(f"{before}{suffix}") for suffix in FORMATS)
