"""
The record beside an unfinished file: whose it is, and which bytes of it are on disk.

One line names the object, and each further one a range of it that was written and
synced, with a check sum. Lines are only ever appended, so that a process that is
killed leaves at most one that is torn; reading ends before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

_VERSION = 1
_LONGEST_TEXT = 1024
_LARGEST = 1 << 62


@attrs.frozen(kw_only=True)
class Owner:
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

    owner: Owner
    source: Source
    spans: Sequence[Span]
    size: int


def head_line(owner: Owner, source: Source) -> bytes:
    """Return the first line of a record."""
    facts = {"version": _VERSION, **attrs.asdict(owner), **attrs.asdict(source)}

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

    owner, source = head
    return PartRecord(owner=owner, source=source, spans=spans, size=size)


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


def _read_head(line: bytes) -> tuple[Owner, Source] | None:
    facts = _read_json(line)

    if not isinstance(facts, dict) or facts.pop("version", None) != _VERSION:
        return None

    total = facts.pop("total", None)
    names = {"request_id", "target", "format", "etag"}

    if facts.keys() != names or not (total is None or _is_position(total)):
        return None

    if not all(
        isinstance(text, str) and text.isprintable() and len(text) <= _LONGEST_TEXT
        for text in facts.values()
    ):
        return None

    etag = facts.pop("etag")

    # It goes into a header.
    if not etag.isascii() or not etag.startswith('"'):
        return None

    return Owner(**facts), Source(etag=etag, total=total)


def _read_span(line: bytes) -> Span | None:
    match _read_json(line):
        case [int() as start, int() as end, int() as crc] if (
            0 <= start < end < _LARGEST
        ):
            return Span(start, end, crc)

    return None


def _read_json(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_position(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST
