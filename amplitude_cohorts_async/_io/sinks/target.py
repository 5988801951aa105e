"""
The formats that a file of members can be saved in.

A format is one object here: its filters, and what it needs. All else asks it.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import attrs

from ..._core.csvtext import RecordCounter
from ...errors import InvalidInputError
from .arrow import AmplitudeId, ParquetWriter, require_arrow
from .filters import Count, Deflate, Filter, Inflate, InThread, Tee, TextCheck

_READ_SIZE = 1 << 20


@attrs.frozen(kw_only=True)
class Options:
    """
    How the bytes of a file are taken.

    Attributes:
        not_text: What the first byte of text cannot be.

        amplitude_id: What Amplitude's ids become, where columns have types.
    """

    not_text: bytes = b"<{["
    amplitude_id: AmplitudeId = "text"


class Counter(Protocol):
    """A filter that counts members."""

    @property
    def rows(self) -> int | None:
        """Members so far; None when there were too many to count."""
        ...


@attrs.frozen(kw_only=True)
class Chain:
    """
    The filters between the bytes as served and the file.

    Attributes:
        is_verbatim: Whether they only look at the bytes, and pass on each of
            them: then bytes may also be written to the file in any order.
    """

    first: Filter
    counter: Counter
    is_verbatim: bool = False


@attrs.frozen(kw_only=True)
class Format:
    """
    What a file holds.

    Attributes:
        suffix: What its name ends in, and what it is called.

        build_filters: Makes the filters in front of the one that is the file,
            for bytes that are compressed or not.

        count_rows: Counts the members of a finished file of the service's own
            text; None where the filters always do.

        require: Raises `MissingExtraError` where a package is missing.
    """

    suffix: str
    build_filters: Callable[[Filter, bool, Options], Chain]
    count_rows: Callable[[BinaryIO], int] | None = None
    require: Callable[[], None] = lambda: None


def count_csv(file: BinaryIO) -> int:
    """Return how many members a file of text holds."""
    counter = RecordCounter()

    while data := file.read(_READ_SIZE):
        counter.feed(data)

    return counter.rows


def count_csv_gz(file: BinaryIO) -> int:
    """Return how many members a file of compressed text holds."""
    return count_csv(cast("BinaryIO", gzip.GzipFile(fileobj=file)))


def _to_csv(file: Filter, is_gzip: bool, options: Options) -> Chain:
    counter = Count(InThread(file) if is_gzip else file)
    text = TextCheck(counter, not_text=options.not_text)
    first = InThread(Inflate(text)) if is_gzip else text

    return Chain(first=first, counter=counter, is_verbatim=not is_gzip)


def _to_csv_gz(file: Filter, is_gzip: bool, options: Options) -> Chain:
    counter = Count()
    text = TextCheck(counter, not_text=options.not_text)
    # Inflating what is stored compressed proves its check sum.
    first = Tee(Inflate(text), file) if is_gzip else Tee(text, Deflate(file))

    return Chain(first=first, counter=counter)


def _to_parquet(file: Filter, is_gzip: bool, options: Options) -> Chain:
    writer = ParquetWriter(file, amplitude_id=options.amplitude_id)
    text = TextCheck(writer, not_text=options.not_text)

    return Chain(first=Inflate(text) if is_gzip else text, counter=writer)


FORMATS: dict[str, Format] = {
    each.suffix: each
    for each in (
        Format(suffix="csv", build_filters=_to_csv, count_rows=count_csv),
        Format(suffix="csv.gz", build_filters=_to_csv_gz, count_rows=count_csv_gz),
        Format(suffix="parquet", build_filters=_to_parquet, require=require_arrow),
    )
}


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
