"""
When a job is asked.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.polling import first_delay, next_delay
from amplitude_cohorts_async.policies import Polling

POLLING = st.builds(
    Polling,
    initial_delay=st.floats(0, 1e4),
    interval=st.floats(0.01, 1e4),
    jitter=st.floats(0, 0.99),
)
SHARE = st.floats(0, 1)


@given(POLLING, st.floats(-1e6, 1e6), SHARE)
def test_the_first_question(polling: Polling, age: float, share: float) -> None:
    """
    It never comes later than the initial delay and its jitter, however old the job is said to be.
    """
    delay = first_delay(polling, age=age, jitter=share)

    assert 0 <= delay <= polling.initial_delay * (1 + polling.jitter) + 1e-6
    assert 0 == first_delay(polling, age=2e4 + polling.initial_delay, jitter=share)
    assert 0 == first_delay(polling, age=None, jitter=share)


@given(POLLING, st.floats(0.01, 1e4), st.lists(SHARE, min_size=1, max_size=50))
def test_the_questions_after_it(
    polling: Polling, timeout: float, shares: list[float]
) -> None:
    """
    No wait is shorter than the jitter allows, but the last, which ends at the deadline.
    """
    left = timeout

    for share in shares:
        delay = next_delay(polling, left=left, jitter=share)

        if delay is None:
            assert left <= 0
            return

        least = polling.interval * (1 - polling.jitter)
        assert delay == left or delay >= least - 1e-9
        left -= delay
        assert left >= 0


def test_the_defaults() -> None:
    """
    Ten seconds to the first question, five to each other, a fifth up or down.
    """
    polling = Polling()

    assert [8.0, 10.0, 12.0] == [
        first_delay(polling, age=0.0, jitter=share) for share in (0.0, 0.5, 1.0)
    ]
    assert [4.0, 5.0, 6.0] == [
        next_delay(polling, left=1e9, jitter=share) for share in (0.0, 0.5, 1.0)
    ]
