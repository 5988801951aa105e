"""Which ids go in which request."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.batching import (
    MOST_CHARACTERS,
    MOST_IDS,
    MOST_MEMBERS,
    Batch,
    Batcher,
    checked_member_ids,
)
from amplitude_cohorts_async.errors import InvalidInputError

IDS = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=9
).filter(lambda text: not text.isspace())


def batches_of(slices: list[list[str]], size: int) -> list[Batch]:
    """Feed slices, and take everything that comes out."""
    batcher = Batcher(size=size)
    batches = [batch for ids in slices for batch in batcher.feed(ids)]

    return [*batches, *batcher.flush()]


def json_of(batch: Batch) -> bytes:
    """Join what the batch sends."""
    return b"".join([b"[", *batch.pieces, b"]"])


def ids_in(batch: Batch) -> list[str]:
    """Decode what the batch sends."""
    return list(json.loads(json_of(batch)))


def test_the_numbers_are_the_documented_ones():
    """A request holds 100,000 ids and a cohort two million members."""
    assert 100_000 == MOST_IDS
    assert 2_000_000 == MOST_MEMBERS


@given(st.lists(st.lists(IDS, max_size=9), max_size=9), st.integers(1, 12))
def test_nothing_is_lost_doubled_or_moved(slices: list[list[str]], size: int):
    """The batches hold all ids in order; all but the last are full."""
    batches = batches_of(slices, size)
    ids = [id_ for part in slices for id_ in part]

    assert ids == [id_ for batch in batches for id_ in ids_in(batch)]
    assert list(range(len(batches))) == [batch.index for batch in batches]
    assert all(size == batch.count for batch in batches[:-1])
    assert all(0 < batch.count <= size for batch in batches)
    assert [len(ids_in(batch)) for batch in batches] == [b.count for b in batches]


@given(st.lists(st.lists(IDS, max_size=9), max_size=9), st.integers(1, 12))
def test_slices_leave_no_trace(slices: list[list[str]], size: int):
    """However the ids come, the batches are the same, byte for byte."""
    together = [id_ for part in slices for id_ in part]

    whole, cut = batches_of([together], size), batches_of(slices, size)

    assert list(map(json_of, whole)) == list(map(json_of, cut))
    assert [each.digest for each in whole] == [each.digest for each in cut]


@given(st.lists(st.lists(IDS, min_size=1, max_size=9), min_size=1, max_size=9))
def test_encoding_is_that_of_json_dumps(slices: list[list[str]]):
    """Pieces joined by hand are what one call would have written."""
    (batch,) = batches_of(slices, 100)
    ids = [id_ for part in slices for id_ in part]

    assert json.dumps(ids, separators=(",", ":")).encode() == json_of(batch)


def test_digest_is_that_of_the_ids_as_lines():
    """Anybody can compute the digest of a batch with sha256sum."""
    (batch,) = batches_of([["ann", "böb"]], 10)

    assert hashlib.sha256("ann\nböb\n".encode()).hexdigest() == batch.digest


@given(st.lists(IDS | st.integers()))
def test_numbers_are_sent_as_their_digits(ids: list[str | int]):
    """Text stays as it is, and a whole number becomes its decimal string."""
    assert [str(id_) for id_ in ids] == checked_member_ids(ids)


@pytest.mark.parametrize(
    ("id_", "reason"),
    [
        ("", "is empty"),
        (" \u00a0", "is empty"),
        ("a\nb", "line break"),
        ("a\tb", "control character"),
        ("a\x00", "control character"),
        ("a\u2028b", "line break"),
        ("\ud800", "control character"),
        ("a" * (MOST_CHARACTERS + 1), "1,025 characters"),
        (None, "leave out what has no id"),
        (True, "is a bool"),
        (12.0, "read the column as text"),
        (b"ann", "decode it"),
        (["ann"], "is a list"),
    ],
)
def test_what_is_no_id_is_named_with_its_place(id_: object, reason: str):
    """The message says which id it is, counted from the first of all, and why."""
    with pytest.raises(InvalidInputError, match=f"id number 1003 .*{reason}"):
        checked_member_ids(["ann", "bob", id_], position=1000)


@pytest.mark.parametrize("id_", ["ann", "user-1", "a@b.c", "-5", "3f2b-11", "²", "٣"])
def test_what_is_no_amplitude_id_is_named_with_its_place(id_: str):
    """A name among numbers is of another type than the caller says."""
    with pytest.raises(InvalidInputError, match=r"id number 1002 .*IdType\.USER_ID"):
        checked_member_ids([111, id_], position=1000, amplitude=True)


@pytest.mark.parametrize("id_", ["356896327775", 7, "10101010101010ID1"])
def test_amplitude_ids_are_taken(id_: object):
    """Numbers, and those of the vendor's own example, which end in letters."""
    assert [str(id_)] == checked_member_ids([id_], amplitude=True)


@pytest.mark.parametrize("id_", ["a b", "zoë", "👩‍💻", "x" * MOST_CHARACTERS, "#1"])
def test_unusual_ids_are_ids(id_: str):
    """Spaces inside, other scripts and joined emoji are fine."""
    assert [id_] == checked_member_ids([id_])
