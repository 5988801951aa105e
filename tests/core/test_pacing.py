"""What follows from a 429, as values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.pacing import (
    Pace,
    Refusal,
    earliest_starts,
)
from amplitude_cohorts_async.limits import DOCUMENTED, UNLIMITED, Limits, Rate
from support.counting import most_in_any

RATES = (Rate(60, per=600), Rate(4, per=60))
CROWDED = "Too Many Requests: Exceeded concurrent limit with query of cost 1"


def refusal(**attributes: object) -> Refusal:
    """Make a 429 of an export, at 100 s."""
    defaults = {"kind": "export", "sent_at": 100.0, "at": 100.0}
    return Refusal(**{**defaults, **attributes})


def test_a_fresh_pace_holds_nobody_up():
    """No pause and no spacing before the service has complained."""
    assert -math.inf == Pace().paused_until
    assert 0.0 == Pace().spacing(RATES)


@pytest.mark.parametrize("asked", [None, -1.0, math.nan, math.inf])
def test_our_own_pause_is_fifteen_seconds(asked: float | None):
    """Without a Retry-After, or with a senseless one."""
    assert 115.0 == Pace().refused(refusal(retry_after=asked)).paused_until


@pytest.mark.parametrize("asked", [0.0, 7.5, 3600.0])
def test_a_retry_after_is_honoured(asked: float):
    """The service knows best."""
    assert 100.0 + asked == Pace().refused(refusal(retry_after=asked)).paused_until


def test_being_crowded_is_no_matter_of_pace():
    """Two seconds, no spacing, and the next pause is not longer."""
    pace = Pace().refused(refusal(details=CROWDED))

    assert 102.0 == pace.paused_until
    assert (0, 0) == (pace.step, pace.pauses)


def test_words_about_rate_are_not_about_concurrency():
    """The service's text tells them apart; no text means rate."""
    assert refusal(details=CROWDED).crowded
    assert not refusal(details="Exceeded rate limit with query of cost 415").crowded
    assert not refusal().crowded


def test_a_429_of_a_call_that_does_not_count_does_not_spread_exports_out():
    """The Dashboard REST API has limits of its own."""
    pace = Pace().refused(refusal(kind="other"))

    assert 105.0 == pace.paused_until
    assert 0.0 == pace.spacing(RATES)


def test_a_poll_refused_without_a_word_is_weather():
    """A short pause, and nothing is learned of windows."""
    pace = Pace().refused(refusal(kind="poll", details=""))

    assert 105.0 == pace.paused_until
    assert {"export"} == pace.counted
    assert 0.0 == pace.spacing(RATES)


def test_what_was_learned_of_polls_is_forgotten():
    """Ten minutes without another such word, and polls are free again."""
    details = "Exceeded rate limit with query of cost 1"
    pace = Pace().refused(refusal(kind="poll", details=details))

    assert {"export", "poll", "file"} == pace.counted
    assert pace.counted == pace.answered("poll", sent_at=699.0).counted
    assert {"export"} == pace.answered("poll", sent_at=701.0).counted


def test_steps_are_shares_of_the_shortest_window():
    """One export each 15, 20, 30, 60 seconds."""
    assert [0.0, 15.0, 20.0, 30.0, 60.0] == [
        Pace(step=step).spacing(RATES) for step in range(5)
    ]
    assert 0.0 == Pace(step=4).spacing(())


def test_an_answer_to_what_was_sent_before_a_pause_does_not_end_it():
    """Pauses go on doubling until something sent after one went well."""
    paused = Pace().refused(refusal())

    assert 1 == paused.answered("export", sent_at=99.0).pauses
    assert 1 == paused.answered("poll", sent_at=120.0).pauses
    assert 0 == paused.answered("export", sent_at=120.0).pauses


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(("export", "poll", "file", "other")),
            st.floats(0, 1000),
            st.none() | st.floats(0, 1000),
            st.sampled_from(("", CROWDED)),
        )
    )
)
def test_a_pause_is_never_shortened(history: list[tuple]):
    """Whatever comes, the moment only moves on, and the step stays in bounds."""
    pace, now = Pace(), 0.0

    for refused, kind, seconds, asked, details in history:
        now += seconds
        before = pace.paused_until
        if refused:
            pace = pace.refused(
                Refusal(
                    kind=kind,
                    sent_at=now - seconds / 2,
                    at=now,
                    retry_after=asked,
                    details=details,
                )
            )
        else:
            pace = pace.answered(kind, sent_at=now)

        assert pace.paused_until >= before
        assert 0 <= pace.step <= 4
        assert pace.spacing(RATES) <= 60.0


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
