"""
Files that members can be saved in: their formats, and the check of a path.

A format is one object in `FORMATS`: its filters, and what it needs; all other code
asks it. Every call blocks and is made in a worker thread.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import attrs

from ..._core.csvtext import RecordCounter
from ..._core.manifest import SUFFIX
from ..._locations import address_of, check_shown
from ...errors import InvalidInputError
from .arrow import AmplitudeId, ParquetWriter, require_arrow
from .destination import Destination, ObjectDestination
from .filters import Count, Deflate, Filter, Inflate, InThread, Tee, TextCheck

_READ_SIZE = 1 << 20


@attrs.frozen(kw_only=True)
class Options:
    """
    How the bytes of a file are read.

    Attributes:
        has_header: Whether the first record names the columns: see `TextCheck`.
        max_size: Bytes of text at most; None for any number.
        amplitude_id: The type of Amplitude's ids, where columns have types.
        counts_all: Whether members are counted in passing, however many: an object
            cannot be counted later.
    """

    has_header: bool = True
    max_size: int | None = None
    amplitude_id: AmplitudeId = "text"
    counts_all: bool = False


Counter: TypeAlias = Count | ParquetWriter


@attrs.frozen(kw_only=True)
class Chain:
    """
    The filters between the bytes as served and the file.

    Attributes:
        is_as_stored: Whether the file is the object of the store, byte for byte.
        is_verbatim: Whether they also need not see each byte: any order will then do.
    """

    first: Filter
    text: TextCheck
    counter: Counter
    is_as_stored: bool = False
    is_verbatim: bool = False


@attrs.frozen(kw_only=True)
class Format:
    """
    One format of a file.

    Attributes:
        suffix: Its name, and how names of such files end.
        build_filters: Returns the filters to a file, by whether the bytes are
            compressed.
        count_rows: Returns the number of members in such a file; None when its
            filters count them in any case.
        require: Raises `MissingExtraError` when a package is missing.
    """

    suffix: str
    build_filters: Callable[[Filter, bool, Options], Chain]
    count_rows: Callable[[BinaryIO], int] | None = None
    require: Callable[[], object] = lambda: None


def _count_csv(file: BinaryIO) -> int:
    counter = RecordCounter()

    while data := file.read(_READ_SIZE):
        counter.feed(data)

    return counter.rows


def _count_csv_gz(file: BinaryIO) -> int:
    return _count_csv(cast("BinaryIO", gzip.GzipFile(fileobj=file)))


def _to_csv(file: Filter, is_gzip: bool, options: Options) -> Chain:
    # With two threads inflating, writing and the wire overlap; see docs/design.md.
    counter = Count(InThread(file) if is_gzip else file, counts_all=options.counts_all)
    text = TextCheck(counter, has_header=options.has_header, max_size=options.max_size)
    first = InThread(Inflate(text)) if is_gzip else text

    return Chain(
        first=first,
        text=text,
        counter=counter,
        is_as_stored=not is_gzip,
        is_verbatim=not is_gzip,
    )


def _to_csv_gz(file: Filter, is_gzip: bool, options: Options) -> Chain:
    counter = Count(counts_all=options.counts_all)
    text = TextCheck(counter, has_header=options.has_header, max_size=options.max_size)
    # What is stored compressed is inflated as well, to prove its check sum.
    first = Tee(Inflate(text), file) if is_gzip else Tee(text, Deflate(file))

    return Chain(first=first, text=text, counter=counter, is_as_stored=is_gzip)


def _to_parquet(file: Filter, is_gzip: bool, options: Options) -> Chain:
    writer = ParquetWriter(file, amplitude_id=options.amplitude_id)
    text = TextCheck(writer, has_header=options.has_header, max_size=options.max_size)

    return Chain(first=Inflate(text) if is_gzip else text, text=text, counter=writer)


FORMATS: dict[str, Format] = {
    format_.suffix: format_
    for format_ in (
        Format(suffix="csv", build_filters=_to_csv, count_rows=_count_csv),
        Format(suffix="csv.gz", build_filters=_to_csv_gz, count_rows=_count_csv_gz),
        Format(suffix="parquet", build_filters=_to_parquet, require=require_arrow),
    )
}


@attrs.frozen(kw_only=True)
class Target:
    """
    A path for a whole file.

    Attributes:
        place: Where it is written: if the path is a link, where that leads.
        resolved: The same without links in its folder: one file has one such path.
        manifest: The place of its manifest; None if there will be none.
        expected_rows: Members that its cohort was listed with, if that is known.
        destination: Where it is written instead, if it is no file; the three paths
            are then its location, for messages.
    """

    path: Path
    place: Path
    resolved: Path
    format: Format
    manifest: Path | None = None
    expected_rows: int | None = None
    destination: Destination | None = None

    @property
    def location(self) -> str | None:
        """The address of its destination; None for a file."""
        return None if self.destination is None else self.destination.location

    @property
    def name(self) -> str:
        """What messages call it: its path, or its location."""
        return self.location or str(self.path)


def checked_target(
    to: str | os.PathLike[str] | Destination,
    format: str | None,  # noqa: A002
    manifest: bool = False,
) -> Target:
    """Return where a download goes; see `ExportJob.download()` for what it refuses."""
    if isinstance(to, Destination):
        return _checked_destination(to, format, manifest)

    try:
        path = Path(to)
    except TypeError:
        raise InvalidInputError(
            f"the target is a path, an address or a Destination, got "
            f"{type(to).__name__}"
        ) from None

    address = address_of(path if isinstance(to, Path) else os.fspath(to))
    if address is not None:
        return _checked_destination(ObjectDestination.at(address), format, manifest)

    chosen = checked_format(format) if format is not None else _format_of(path)
    chosen.require()

    try:
        place = _checked_place(path)
        beside = path.with_name(path.name + SUFFIX)
        return Target(
            path=path,
            place=place,
            resolved=Path(os.path.realpath(path)),
            format=chosen,
            manifest=_checked_place(beside) if manifest else None,
        )
    except InvalidInputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"{str(path)!r} cannot be written ({reason}); name another file"
        ) from error


def _checked_destination(
    to: Destination,
    format: str | None,  # noqa: A002
    manifest: bool,
) -> Target:
    # A custom address is kept as well: it may hold no secret either.
    check_shown(to.location)
    path = Path(to.location)
    chosen = checked_format(format) if format is not None else _format_of(path)
    chosen.require()

    return Target(
        path=path,
        place=path,
        resolved=path,
        format=chosen,
        manifest=path.with_name(path.name + SUFFIX) if manifest else None,
        destination=to,
    )


def checked_format(format: str) -> Format:  # noqa: A002
    """Return the format with this name, or raise `InvalidInputError`."""
    try:
        return FORMATS[format.lower().lstrip(".")]
    except KeyError:
        raise InvalidInputError(
            f"{format!r} is no format; pass one of {_suffixes()}"
        ) from None


def _checked_place(path: Path) -> Path:
    # Raises for names that no file can have, and for links in a circle.
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

    # Only a trial shows all: rights, read-only disks, folders like /proc.
    with tempfile.TemporaryFile(dir=folder):
        return place


def _format_of(path: Path) -> Format:
    name = path.name.lower()

    for suffix, format_ in FORMATS.items():
        if name.endswith(f".{suffix}"):
            return format_

    raise InvalidInputError(
        f"the name {path.name!r} does not say its format; end it in one of "
        f"{_suffixes('.')}, or pass format= with one of {_suffixes()}"
    )


def _suffixes(before: str = "") -> str:
    return ", ".join(repr(f"{before}{suffix}") for suffix in FORMATS)
