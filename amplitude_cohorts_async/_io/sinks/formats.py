"""
The formats that a file of members can be saved in.

A format is one object here: its filters, and what it needs. All else asks it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import BinaryIO, Protocol, cast

import attrs

from ..._core.csvtext import RecordCounter
from .arrow import AmplitudeId, require_arrow
from .filters import Count, Deflate, Filter, Inflate, InThread, Tee, TextCheck
from .parquet import ParquetWriter

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
