"""
One requested export as steps: what is known goes in, what to do next comes out.

Nothing sleeps, sends or waits for a place in a window here: the loop in `_watch`
does, and asks again with what it learnt.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from ..models import ExportStatus
from ..policies import Polling
from .responses import JobFailed


@attrs.frozen(kw_only=True)
class JobState:
    """
    What is known of a job.

    Attributes:
        age: Seconds since the export was requested; None if that is unknown, and
            then the job may long be done.

        polls: Questions asked in this wait.

        status: The last answer that could be read; None if there was none.
    """

    age: float | None
    polls: int = 0
    status: ExportStatus | JobFailed | None = None

    @property
    def word(self) -> str:
        """The service's word for the status, or ours."""
        return "" if self.status is None else self.status.word


@attrs.frozen
class Poll:
    """Ask for the status, after so many seconds."""

    after: float


@attrs.frozen
class Download:
    """The file is ready."""


@attrs.frozen
class GiveUp:
    """The caller's deadline is over; the job goes on."""


@attrs.frozen
class Fail:
    """The job ended without a file."""

    word: str


Step: TypeAlias = Poll | Download | GiveUp | Fail


def next_step(state: JobState, polling: Polling, *, left: float, jitter: float) -> Step:
    """
    Return what to do next about a job.

    The first question comes at once when the job may be done, and the last one
    falls on the deadline itself.

    Args:
        left: Seconds until the caller's deadline.

        jitter: Between 0 and 1.
    """
    if isinstance(state.status, JobFailed):
        return Fail(state.status.word)

    if state.status is not None and state.status.done:
        return Download()

    if state.polls == 0:
        return Poll(min(_first_delay(state.age, polling, jitter), max(left, 0.0)))

    if left <= 0:
        return GiveUp()

    return Poll(min(_vary(polling.interval, polling, jitter), left))


def _first_delay(age: float | None, polling: Polling, jitter: float) -> float:
    if age is None:
        return 0.0

    # Clocks differ: a request of the future was made just now.
    return max(0.0, _vary(polling.initial_delay, polling, jitter) - max(0.0, age))


def _vary(seconds: float, polling: Polling, jitter: float) -> float:
    return seconds * (1 + polling.jitter * (2 * jitter - 1))
