"""When exports can start, as arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.schedule import binding_rates, earliest_starts
from amplitude_cohorts_async.limits import DOCUMENTED, UNLIMITED, Limits, Rate
from support.counting import most_in_any

FOUR_A_MINUTE = Rate(4, per=60)


def test_none_start_never():
    """A plan for nothing is empty."""
    assert [] == earliest_starts(0, DOCUMENTED)


def test_a_free_window_is_used_whole():
    """Four at once, the fifth when the first one's place is free again."""
    starts = earliest_starts(5, DOCUMENTED, now=100.0, latency=0.5)

    assert [100.0] * 4 == starts[:4]
    assert pytest.approx(100 + 0.5 + 60.31) == starts[4]


def test_the_past_counts():
    """Places that are taken are waited for, the first free one first."""
    taken = {FOUR_A_MINUTE: [30.0, 10.0, 20.0]}
    starts = earliest_starts(3, DOCUMENTED, now=0.0, taken_until=taken)

    assert [0.0, 10.0, 20.0] == starts


def test_only_the_newest_of_a_longer_past_count():
    """A window of four cares for four."""
    taken = {FOUR_A_MINUTE: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}

    assert [3.0] == earliest_starts(1, DOCUMENTED, taken_until=taken)


def test_spacing_spreads_starts_out():
    """After a 429 exports keep a distance."""
    starts = earliest_starts(3, DOCUMENTED, spacing=15.0)

    assert [0.0, 15.0, 30.0] == starts


def test_nothing_waits_without_rates():
    """Unlimited means now."""
    assert [7.0] * 100 == earliest_starts(100, UNLIMITED, now=7.0)


def test_two_hundred_take_fifty_minutes():
    """The plan for 200 exports at half a second."""
    starts = earliest_starts(200, DOCUMENTED, latency=0.5)

    assert pytest.approx(49 * 60.81) == starts[-1]


def test_rates_that_others_keep_anyway_are_left_out():
    """Four a minute are forty in ten minutes at most."""
    assert [FOUR_A_MINUTE] == binding_rates(DOCUMENTED.exports)
    both = [Rate(7, per=60), Rate(60, per=600)]
    assert both[::-1] == binding_rates(both)


@given(
    st.integers(0, 150),
    st.lists(st.builds(Rate, st.integers(1, 9), per=st.floats(1, 99)), max_size=3),
    st.floats(0, 5),
    st.floats(0, 20),
)
def test_no_window_ever_holds_too_many(
    count: int, rates: list[Rate], latency: float, spacing: float
):
    """Whatever the rates, each holds in any window, in order."""
    limits = Limits(exports=rates)
    starts = earliest_starts(count, limits, latency=latency, spacing=spacing)

    assert count == len(starts)
    assert sorted(starts) == starts
    for rate in rates:
        assert most_in_any(starts, rate.per) <= rate.count


@given(st.lists(st.builds(Rate, st.integers(1, 9), per=st.floats(1, 99)), max_size=3))
def test_the_rates_that_bind_keep_the_others(rates: list[Rate]):
    """Whoever keeps the former keeps all."""
    limits = Limits(exports=binding_rates(rates))
    starts = earliest_starts(60, limits, latency=0.0)

    for rate in rates:
        assert most_in_any(starts, rate.per) <= rate.count
