"""
Where a file may go.

Everything here blocks and is called in worker threads.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from enum import Enum
from pathlib import Path

import attrs

from ...errors import InvalidInputError
from .partfile import place_of


class Format(Enum):
    """
    What a target file holds.

    Attributes:
        CSV: Decoded text.

        GZIP: Compressed text: the bytes as served, if they are compressed.

        PARQUET: Columns; needs the extra ``parquet``.
    """

    CSV = "csv"
    GZIP = "csv.gz"
    PARQUET = "parquet"


@attrs.frozen
class Target:
    """
    A path a whole file may be put at.
    """

    path: Path
    format: Format


def checked_target(to: str | os.PathLike[str], format: str | None) -> Target:  # noqa: A002
    """
    Tell where a download goes, before anything is spent on it.

    Args:
        to: The file; replaced when it exists.

        format: "csv", "csv.gz" or "parquet"; None reads it off the name.

    Raises:
        InvalidInputError: There can be no such file, or nobody knows its format.
    """
    try:
        path = Path(to)
    except TypeError:
        raise InvalidInputError(f"the target is a path, got {to!r}") from None

    chosen = _format_of(path, format)

    try:
        _check_place(path)
    except InvalidInputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"{str(path)!r} cannot be written ({reason}); name another file"
        ) from error

    return Target(path, chosen)


def _check_place(path: Path) -> None:
    # Complains of names that no file can have, and of links in a circle.
    with suppress(FileNotFoundError, NotADirectoryError):
        path.stat()

    if path.is_dir():
        raise InvalidInputError(
            f"{path} is a directory; name a file in it, as in {path / 'members.csv'}"
        )

    place = place_of(path)

    # A rename onto a device or a pipe would replace it. A link in /proc may also
    # lead to an open file that has no name.
    if path.exists() and not place.is_file():
        raise InvalidInputError(f"{path} is no regular file; name another one")

    folder = place.absolute().parent

    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no directory; make it first")

    # Nothing but trying tells all: rights, read-only disks, folders like /proc.
    with tempfile.TemporaryFile(dir=folder):
        pass


def checked_format(format: str) -> Format:  # noqa: A002
    """
    Tell which format a word names.

    Raises:
        InvalidInputError: It names none.
    """
    try:
        return Format(format.lower().lstrip("."))
    except ValueError:
        raise InvalidInputError(
            f"{format!r} is no format; pass one of {_KNOWN}"
        ) from None


_KNOWN = ", ".join(repr(member.value) for member in Format)


def _format_of(path: Path, format: str | None) -> Format:  # noqa: A002
    if format is not None:
        return checked_format(format)

    name = path.name.lower()

    for member in Format:
        if name.endswith(f".{member.value}"):
            return member

    raise InvalidInputError(
        f"the name {path.name!r} does not say its format; end it in .csv, .csv.gz or "
        f".parquet, or pass format= with one of {_KNOWN}"
    )
