"""When the loop may write by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.inline_writes import InlineWritePolicy

BRIEF = 0.0005
LONG = 0.05


def test_nobody_is_trusted_unseen():
    """The first write is not the loop's; one brief write makes the next one so."""
    trust = InlineWritePolicy()
    assert not trust.holds

    trust.note(BRIEF)
    assert trust.holds


def test_a_slow_disk_is_never_trusted():
    """Writes that are slow each time are never made on the loop."""
    trust = InlineWritePolicy()
    for _ in range(1000):
        trust.note(LONG)
        assert not trust.holds


@given(st.integers(2, 40))
def test_a_disk_that_stalls_now_and_then_holds_up_ever_more_rarely(period: int):
    """One slow write in every few: fewer and fewer of them happen on the loop."""
    trust = InlineWritePolicy()
    on_the_loop = [0, 0]

    for number in range(20_000):
        is_slow = number % period == 0
        if is_slow and trust.holds:
            on_the_loop[number >= 10_000] += 1
        trust.note(LONG if is_slow else BRIEF)

    assert on_the_loop[1] <= on_the_loop[0] <= 20
