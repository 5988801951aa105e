"""What a journal says about a write that was cut off."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.batching import Batch
from amplitude_cohorts_async._core.journal import (
    WriteProgress,
    WrittenBatch,
    attempt_line,
    batch_line,
    check_same,
    done_line,
    parse,
    start_line,
)
from amplitude_cohorts_async.errors import InvalidInputError

NOW = datetime(2026, 11, 22, tzinfo=UTC)
FIRST = WrittenBatch(operation="upload", count=2, digest="d1", matched=1)
SECOND = WrittenBatch(operation="upload", count=1, digest="d2", matched=None)
LINES = [
    start_line("upload", {"name": "n"}),
    attempt_line(NOW),
    batch_line("c", FIRST, adopted=True),
    batch_line("c", SECOND, adopted=True),
    done_line(),
]


def a_batch(digest: str) -> Batch:
    """A batch of one id."""
    return Batch(index=0, count=1, digest=digest, pieces=[b"1"])


def test_a_whole_journal_is_read():
    """All that was noted comes back."""
    reading = parse(b"".join(LINES))

    assert ("upload", {"name": "n"}) == (reading.kind, reading.parameters)
    assert (
        WriteProgress(cohort_id="c", adopted=True, written=[FIRST, SECOND], done=True)
        == reading.progress
    )


@given(st.integers(0, len(b"".join(LINES))))
def test_a_journal_may_be_cut_anywhere(cut: int):
    """Whole lines count, the torn one does not, and its start is told."""
    reading = parse(b"".join(LINES)[:cut])
    whole = b"".join(LINES)[: reading.good]

    assert reading.good <= cut
    assert whole.count(b"\n") == len([end for end in ends() if end <= cut])
    assert reading.progress == parse(whole).progress


def ends() -> list[int]:
    """Where the lines end."""
    return [len(b"".join(LINES[: number + 1])) for number in range(len(LINES))]


def test_an_attempt_is_open_until_it_is_answered():
    """A refusal closes it, and so does the first batch."""
    assert NOW == parse(b"".join(LINES[:2])).progress.attempted_at
    assert (
        parse(b"".join([*LINES[:2], attempt_line(None)])).progress.attempted_at is None
    )
    assert parse(b"".join(LINES[:3])).progress.attempted_at is None


@pytest.mark.parametrize(
    "content",
    [b"ann", b"ann\nbob\n", b"{}\n", b'{"journal":2,"kind":"x","parameters":{}}\n'],
)
def test_another_file_is_no_journal(content: bytes):
    """A file of ids given by mistake is refused, so that nobody cuts it."""
    with pytest.raises(InvalidInputError, match="not a journal"):
        parse(content)


@pytest.mark.parametrize("start", [b"", LINES[0]])
def test_a_deeply_nested_line_is_damage(start: bytes):
    """It is an error of ours, and not one of Python's stack."""
    with pytest.raises(InvalidInputError, match="damaged, at line"):
        parse(start + b'{"journal":' + b"[" * 200_000 + b"\n")


def test_damage_is_told_with_its_line():
    """Rubbish before the end is no torn line."""
    with pytest.raises(InvalidInputError, match="at line 2"):
        parse(LINES[0] + b"rubbish\n" + LINES[1])


def test_other_parameters_are_refused():
    """The message names the one that differs, then and now."""
    reading = parse(LINES[0])

    assert WriteProgress() == check_same(reading, "upload", {"name": "n"})
    assert WriteProgress() == check_same(parse(b""), "upload", {})
    with pytest.raises(InvalidInputError, match="name='n', and this one has 'm'"):
        check_same(reading, "upload", {"name": "m"})
    with pytest.raises(InvalidInputError, match="another kind of write, upload"):
        check_same(reading, "membership", {"name": "n"})


def test_other_ids_are_refused():
    """Another digest, another operation, fewer or more batches: all are told."""
    progress = WriteProgress(written=[FIRST, SECOND])

    assert progress.has("upload", a_batch("d1"), index=0)
    assert not progress.has("upload", a_batch("d3"), index=2)
    progress.check_end(2)
    with pytest.raises(InvalidInputError, match="batch 1 differs"):
        progress.has("upload", a_batch("d1"), index=1)
    with pytest.raises(InvalidInputError, match="batch 0 differs"):
        progress.has("add", a_batch("d1"), index=0)
    with pytest.raises(InvalidInputError, match="batch 1 differs"):
        progress.check_end(1)

    progress.done = True
    with pytest.raises(InvalidInputError, match="batch 2 differs"):
        progress.has("upload", a_batch("d3"), index=2)
