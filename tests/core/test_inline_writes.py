"""When the loop may write by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.inline_writes import InlineWritePolicy

BRIEF = 0.0005
LONG = 0.05


def test_the_first_write_is_made_in_a_thread():
    """The first write is not the loop's; one brief write makes the next one so."""
    policy = InlineWritePolicy()
    assert not policy.allows

    policy.record(BRIEF)
    assert policy.allows


def test_a_slow_disk_is_never_written_on_the_loop():
    """Writes that are slow each time are never made on the loop."""
    policy = InlineWritePolicy()
    for _ in range(1000):
        policy.record(LONG)
        assert not policy.allows


@given(st.integers(2, 40))
def test_a_disk_that_stalls_now_and_then_holds_up_ever_more_rarely(period: int):
    """One slow write in every few: fewer and fewer of them happen on the loop."""
    policy = InlineWritePolicy()
    on_the_loop = [0, 0]

    for number in range(20_000):
        is_slow = number % period == 0
        if is_slow and policy.allows:
            on_the_loop[number >= 10_000] += 1
        policy.record(LONG if is_slow else BRIEF)

    assert on_the_loop[1] <= on_the_loop[0] <= 20
