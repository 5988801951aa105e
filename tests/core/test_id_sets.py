"""Sets of ids: what came before, and what makes one set into another."""

from __future__ import annotations

from itertools import chain, compress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.id_sets import Diff, SeenIds
from amplitude_cohorts_async.errors import InvalidInputError

SLICES = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=6)


def test_more_than_a_cohort_holds_has_other_ways() -> None:
    """The page names them: the error does, too."""
    with pytest.raises(InvalidInputError, match=r"Kinesis.*webhook.*Profile API"):
        SeenIds(most=1).add(["a", "b"])


@given(SLICES)
def test_each_id_is_new_once(slices: list[list[str]]):
    """What the flags let through is each id once, at its first place."""
    seen = SeenIds()
    fresh = [id_ for ids in slices for id_ in compress(ids, seen.add(ids))]
    ids = [id_ for part in slices for id_ in part]

    assert list(dict.fromkeys(ids)) == fresh
    assert len(fresh) == seen.count
    assert ids == seen.among(ids)
    assert [] == seen.among(["never seen before"])


def test_more_ids_than_a_cohort_holds_are_refused():
    """The one too many is noticed, with the number in the message."""
    seen = SeenIds(most=3)
    seen.add(["a", "b", "c", "a"])

    with pytest.raises(InvalidInputError, match="more than 3 different ids"):
        seen.add(["d"])


def in_order(slices: list[list[str]]) -> list[str]:
    """Each id once, at its first place."""
    return list(dict.fromkeys(id_ for ids in slices for id_ in ids))


@given(SLICES, SLICES)
def test_a_diff_is_three_differences_of_sets(
    wanted: list[list[str]], current: list[list[str]]
):
    """Ids enter, exit or exist; in order, each once, however often they came."""
    diff = Diff()

    for ids in wanted:
        diff.want(ids)

    for ids in current:
        diff.see(ids)

    want, have = in_order(wanted), in_order(current)

    assert [i for i in want if i not in have] == [*chain(*diff.added())]
    assert [i for i in have if i not in want] == [*chain(*diff.removed())]
    assert [i for i in want if i in have] == [*chain(*diff.unchanged())]
    assert len(want) == diff.wanted
    assert len([i for i in want if i in have]) == diff.kept


def test_slices_are_small():
    """No slice is longer than a millisecond's work."""
    diff = Diff()
    diff.want([str(number) for number in range(2_500)])

    assert [500] * 5 == [len(ids) for ids in diff.added()]
