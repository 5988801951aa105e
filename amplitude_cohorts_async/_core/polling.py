"""
When to ask a job how it is, and when to stop asking.
"""

from __future__ import annotations

from ..policies import Polling


def first_delay(polling: Polling, *, age: float | None, jitter: float) -> float:
    """
    Return the delay before the first question.

    Args:
        age: Seconds since the export was requested; None when that is
            unknown, and the job may long be done.

        jitter: Between 0 and 1.
    """
    if age is None:
        return 0.0

    # Clocks differ: a request of the future was made just now.
    return max(0.0, _vary(polling.initial_delay, polling, jitter) - max(0.0, age))


def next_delay(polling: Polling, *, left: float, jitter: float) -> float | None:
    """
    Return the delay before one more question; None to give up.

    The last question falls on the deadline itself.

    Args:
        left: Seconds until the caller's deadline.

        jitter: Between 0 and 1.
    """
    if left <= 0:
        return None

    return min(_vary(polling.interval, polling, jitter), left)


def _vary(seconds: float, polling: Polling, jitter: float) -> float:
    return seconds * (1 + polling.jitter * (2 * jitter - 1))
