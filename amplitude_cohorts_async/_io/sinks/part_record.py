"""
The record beside an unfinished file: what it is to become, and what of it is on disk.

One line names the object, and each further one a range of it that was written and
synced, with a check sum. Lines are only ever appended, so that a process that is
killed leaves at most one that is torn; reading ends before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

_LONGEST_TAG = 1024
_LARGEST = 1 << 62


@attrs.frozen(kw_only=True)
class PartKey:
    """What an unfinished file is to become: of which export, where, in which format."""

    request_id: str
    target: str
    format: str


@attrs.frozen(kw_only=True)
class Source:
    """The object in the store, by its strong tag; its size where the store says it."""

    etag: str
    total: int | None


@attrs.frozen
class Span:
    """A range of bytes, and the CRC-32 of what was written there."""

    start: int
    end: int
    crc: int


@attrs.frozen(kw_only=True)
class PartRecord:
    """
    What a record says.

    Attributes:
        size: Bytes of the record that could be read.
    """

    key: PartKey
    source: Source
    spans: Sequence[Span]
    size: int


def head_line(key: PartKey, source: Source) -> bytes:
    """Return the first line of a record."""
    facts = {"version": 1, **attrs.asdict(key), **attrs.asdict(source)}

    return json.dumps(facts).encode() + b"\n"


def span_line(span: Span) -> bytes:
    """Return the line of one more range."""
    return json.dumps(attrs.astuple(span)).encode() + b"\n"


def read_record(data: bytes) -> PartRecord | None:
    """Return what a record says, up to its first bad line; None without a first one."""
    lines = data.split(b"\n")[:-1]
    head = _read_head(lines[0]) if lines else None

    if head is None:
        return None

    spans: list[Span] = []
    size = len(lines[0]) + 1

    for line in lines[1:]:
        if (span := _read_span(line)) is None:
            break
        spans.append(span)
        size += len(line) + 1

    key, source = head
    return PartRecord(key=key, source=source, spans=spans, size=size)


def joined(spans: Sequence[Span], *, limit: int) -> list[tuple[int, int]]:
    """Return the ranges that spans cover below a limit, in order and not touching."""
    found: list[tuple[int, int]] = []

    for span in sorted(spans, key=lambda span: span.start):
        start, end = span.start, min(span.end, limit)

        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        elif start < end:
            found.append((start, end))

    return found


def gaps_between(
    ranges: Sequence[tuple[int, int]], *, total: int
) -> list[tuple[int, int]]:
    """Return what is missing between ranges in order, up to the total."""
    starts = [0, *(end for _, end in ranges)]
    ends = [*(start for start, _ in ranges), total]

    return [
        (start, end) for start, end in zip(starts, ends, strict=True) if start < end
    ]


def _read_head(line: bytes) -> tuple[PartKey, Source] | None:
    match _read_json(line):
        case {
            "version": 1,
            "request_id": str() as request_id,
            "target": str() as target,
            "format": str() as suffix,
            "etag": str() as etag,
            "total": (int() | None) as total,
        }:
            key = PartKey(request_id=request_id, target=target, format=suffix)
        case _:
            return None

    # The tag goes into a header.
    is_tag = etag.isascii() and etag.isprintable() and etag.startswith('"')

    if not is_tag or not 0 < (total or 1) < _LARGEST or len(etag) > _LONGEST_TAG:
        return None

    return key, Source(etag=etag, total=total)


def _read_span(line: bytes) -> Span | None:
    match _read_json(line):
        case [int() as start, int() as end, int() as crc] if (
            0 <= start < end < _LARGEST
        ):
            return Span(start, end, crc)
        case _:
            return None


def _read_json(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
