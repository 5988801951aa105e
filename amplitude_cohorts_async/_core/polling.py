"""
When to ask a job how it is, and when to stop asking.
"""

from __future__ import annotations

import attrs

from ..errors import ConfigurationError


@attrs.frozen(kw_only=True)
class Polling:
    """
    How a job is watched.

    Most jobs take 30 to 60 seconds whatever the size of the cohort, so the
    first question comes late; each one takes one of the five slots.

    Attributes:
        first: Seconds from the request of the export to the first question.

        every: Seconds between questions.

        spread: Share of *every* by which each wait varies, so that many jobs
            do not ask at once.
    """

    first: float = 10.0
    every: float = 5.0
    spread: float = 0.2

    def __attrs_post_init__(self) -> None:
        if not (self.first >= 0 and self.every > 0 and 0 <= self.spread < 1):
            raise ConfigurationError(
                f"polling needs first >= 0, every > 0 and 0 <= spread < 1, got {self}"
            )


def first_delay(polling: Polling, *, age: float | None, jitter: float) -> float:
    """
    Tell how long to wait before the first question.

    Args:
        age: Seconds since the export was requested; None when nobody knows,
            and then the job may long be done.

        jitter: Between 0 and 1.
    """
    if age is None:
        return 0.0

    return max(0.0, _vary(polling.first, polling, jitter) - age)


def next_delay(polling: Polling, *, left: float, jitter: float) -> float | None:
    """
    Tell how long to wait before one more question; None says give up.

    The last question falls on the deadline itself.

    Args:
        left: Seconds until the caller's deadline.

        jitter: Between 0 and 1.
    """
    if left <= 0:
        return None

    return min(_vary(polling.every, polling, jitter), left)


def _vary(seconds: float, polling: Polling, jitter: float) -> float:
    return seconds * (1 + polling.spread * (2 * jitter - 1))
