"""The record beside an unfinished file: read as far as it is good, believed never."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async._io.sinks.file_sink import FileSink
from amplitude_cohorts_async._io.sinks.part_file import Damaged
from amplitude_cohorts_async._io.sinks.part_record import (
    PartKey,
    Source,
    Span,
    gaps_between,
    head_line,
    joined,
    read_record,
    span_line,
)
from amplitude_cohorts_async._io.sinks.target import Options, checked_target

KEY = PartKey(request_id="Sf7M9j", target="members.csv", format="csv")
SOURCE = Source(etag='"0123"', total=900)
SPANS = [Span(0, 100, 7), Span(300, 400, 8), Span(100, 200, 9)]
RECORD = head_line(KEY, SOURCE) + b"".join(map(span_line, SPANS))
TEXT = b'"user_id"\n' + b"".join(b'"%06d"\n' % number for number in range(2_000))


def test_a_record_says_what_was_written() -> None:
    """What is read is what was recorded, to the last line."""
    found = read_record(RECORD)

    assert found is not None
    assert (KEY, SOURCE, SPANS) == (found.key, found.source, found.spans)
    assert len(RECORD) == found.size


@given(st.integers(0, len(RECORD)))
def test_a_torn_record_says_what_its_whole_lines_say(end: int) -> None:
    """A record that was cut anywhere is good up to the last line end before."""
    found = read_record(RECORD[:end])
    lines = RECORD[:end].count(b"\n")

    assert (found.spans if found else []) == SPANS[: max(0, lines - 1)]
    assert (found is None) == (lines == 0)


@given(st.binary())
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    """What is no record says nothing."""
    assert read_record(data) is None or data.startswith(b"{")


def test_a_tag_that_is_no_header_is_refused() -> None:
    """A line end in a tag would be another header."""
    bad = Source(etag='"0123\r\nX-More: 1"', total=900)

    assert read_record(head_line(KEY, bad)) is None


def test_a_deeply_nested_line_is_no_line() -> None:
    """It ends neither the process nor the reading of what came before."""
    found = read_record(RECORD + b"[" * 100_000 + b"\n")

    assert found is not None
    assert SPANS == found.spans


def test_ranges_are_joined_and_cut() -> None:
    """What touches is one range, and nothing goes beyond the limit."""
    assert [(0, 200), (300, 350)] == joined(SPANS, limit=350)
    assert [(200, 300), (350, 900)] == gaps_between([(0, 200), (300, 350)], total=900)


def sink_at(target: Path) -> FileSink:
    """Make the sink of one export's file."""
    return FileSink(
        checked_target(target, None),
        options=Options(),
        file_mode=None,
        request_id=KEY.request_id,
    )


edits = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 4), st.binary(max_size=6)),
    max_size=4,
)


@given(
    edits=edits,
    junk=edits,
    at=st.integers(1, 13_000),
    is_packed=st.booleans(),
)
@settings(max_examples=150)
def test_a_damaged_part_is_never_a_wrong_file(
    edits: list[tuple[int, int, bytes]],
    junk: list[tuple[int, int, bytes]],
    at: int,
    is_packed: bool,
) -> None:
    """Whatever happened to record and part: what is taken up are the store's bytes."""
    body = gzip.compress(TEXT, mtime=0) if is_packed else TEXT
    at = min(at, len(body) - 1)

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "members.csv.gz" if is_packed else "members.csv")
        sink = sink_at(target)
        sink.begin()
        sink.comes_from(Source(etag='"0123"', total=len(body)))
        sink.write(body[: at // 2])
        sink.checkpoint(most=len(body))
        sink.write(body[at // 2 : at])
        sink.leave()
        for path in Path(folder).iterdir():
            path.write_bytes(
                edited(path.read_bytes(), edits if path.suffix == ".ranges" else junk)
            )

        sink = sink_at(target)
        start = taken_up(sink)
        # The store checks the tag and the size, and sends the rest.
        sink.write(body[start:])
        sink.finish(is_delimited=True)
        sink.publish()

        assert body == target.read_bytes()
        assert [target] == [*Path(folder).iterdir()]


def taken_up(sink: FileSink) -> int:
    """Take up what is there; tell how many bytes of it are kept."""
    if (kept := sink.take_up()) is not None:
        try:
            while sink.replay_some(1):
                pass
        except Damaged:
            pass
        else:
            (_, end), *_ = kept.ranges
            sink.cut(end)
            return end

    sink.begin()
    return 0


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace some bytes by others, here and there."""
    for at, count, new in edits:
        data = data[:at] + new + data[at + count :]

    return data
