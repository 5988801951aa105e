"""
The formats that a file of members can be saved in.

A format is one object here: its filters, and what it needs. All else asks it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import BinaryIO, Protocol, cast

import attrs

from ..._core.csvblocks import RecordCounter
from .arrow import AmplitudeId, require_arrow
from .parquet import ParquetWriter
from .stages import Count, Deflate, Filter, Inflate, InThread, Tee, TextCheck

_READ_SIZE = 1 << 20


@attrs.frozen(kw_only=True)
class Content:
    """
    What the bytes are, and what is wanted of them.

    Attributes:
        is_gzip: Whether they are compressed.

        not_text: What the first byte of their text cannot be.

        amplitude_id: What Amplitude's ids become, where columns have types.
    """

    is_gzip: bool
    not_text: bytes = b"<{["
    amplitude_id: AmplitudeId = "text"


class Counter(Protocol):
    """
    A filter that counts members.
    """

    @property
    def rows(self) -> int | None:
        """
        Members so far; None when there were too many to count.
        """
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

        build_filters: Makes the filters in front of the one that is the file.

        count_rows: Counts the members of a finished file of the service's own
            text; None where the filters always do.

        require: Raises `MissingExtraError` where a package is missing.
    """

    suffix: str
    build_filters: Callable[[Filter, Content], Chain]
    count_rows: Callable[[BinaryIO], int] | None = None
    require: Callable[[], None] = lambda: None


def count_csv(file: BinaryIO) -> int:
    """
    Return how many members a file of text holds.
    """
    counter = RecordCounter()

    while data := file.read(_READ_SIZE):
        counter.feed(data)

    return counter.rows


def count_csv_gz(file: BinaryIO) -> int:
    """
    Return how many members a file of compressed text holds.
    """
    return count_csv(cast("BinaryIO", gzip.GzipFile(fileobj=file)))


def _to_csv(file: Filter, content: Content) -> Chain:
    counter = Count(InThread(file) if content.is_gzip else file)
    text = TextCheck(counter, not_text=content.not_text)
    first = InThread(Inflate(text)) if content.is_gzip else text

    return Chain(first=first, counter=counter, is_verbatim=not content.is_gzip)


def _to_csv_gz(file: Filter, content: Content) -> Chain:
    counter = Count()
    text = TextCheck(counter, not_text=content.not_text)
    # Inflating what is stored compressed proves its check sum.
    first = Tee(Inflate(text), file) if content.is_gzip else Tee(text, Deflate(file))

    return Chain(first=first, counter=counter)


def _to_parquet(file: Filter, content: Content) -> Chain:
    writer = ParquetWriter(file, amplitude_id=content.amplitude_id)
    text = TextCheck(writer, not_text=content.not_text)

    return Chain(first=Inflate(text) if content.is_gzip else text, counter=writer)


FORMATS: dict[str, Format] = {
    each.suffix: each
    for each in (
        Format(suffix="csv", build_filters=_to_csv, count_rows=count_csv),
        Format(suffix="csv.gz", build_filters=_to_csv_gz, count_rows=count_csv_gz),
        Format(suffix="parquet", build_filters=_to_parquet, require=require_arrow),
    )
}
