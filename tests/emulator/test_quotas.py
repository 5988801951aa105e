"""The three ways to count starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async.testing import Quotas
from amplitude_cohorts_async.testing.quotas import WindowKind, window_counters

GAPS = st.lists(st.floats(0, 100).map(lambda gap: round(gap, 3)), max_size=60)


def admitted(quotas: Quotas, starts: list[float]) -> list[float]:
    """Return the starts that one window lets through."""
    (counter,) = window_counters(quotas)
    through = []

    for start in starts:
        if counter.has_room(start):
            counter.count_start(start)
            through.append(start)

    return through


def times(gaps: list[float]) -> list[float]:
    """Return the moments that lie these gaps apart."""
    return [sum(gaps[: number + 1]) for number in range(len(gaps))]


@given(GAPS)
def test_a_log_admits_no_more_than_its_count_in_any_window(gaps: list[float]) -> None:
    """Four in any sixty seconds, wherever they begin; and it refuses no other."""
    starts = times(gaps)
    through = admitted(Quotas(windows=((4, 60),)), starts)

    for start in starts:
        before = [one for one in through if start - 60 < one < start]
        assert 4 >= len([one for one in through if start <= one < start + 60])
        assert (start in through) or 4 <= len(before)


@given(GAPS)
def test_a_fixed_window_admits_its_count_between_two_strokes(
    gaps: list[float],
) -> None:
    """The count starts anew with every period."""
    through = admitted(Quotas(windows=((4, 60),), window="fixed"), times(gaps))

    for period in {int(one // 60) for one in through}:
        assert 4 >= len([one for one in through if int(one // 60) == period])


@pytest.mark.parametrize(
    ("window", "most"),
    [("log", 4), ("fixed", 8), ("bucket", 7)],
)
def test_the_kinds_differ_in_what_a_minute_admits(
    window: WindowKind, most: int
) -> None:
    """From second 56 on, a log admits four, two fixed windows eight, a bucket 2n-1."""
    starts = [56 + number / 10 for number in range(599)]
    through = admitted(Quotas(windows=((4, 60),), window=window), starts)

    assert most == len(through)


def test_unlimited_has_no_windows() -> None:
    """Without limits, nothing is counted."""
    quotas = Quotas.unlimited()

    assert [] == window_counters(quotas)
    assert quotas.concurrent is None
    assert quotas.month is None
