"""
One export as steps: its known state goes in, the next step comes out.

Nothing here sleeps, sends or waits for a window: the loop in `poller` does, and asks
again with what it learned.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import attrs

from ..models import ExportStatus
from ..policies import Polling
from .job_rows import ExportRow, ExportState
from .tokens import ExportRef, age_of

KNOWN_AFTER = 300.0
"""
Seconds from its request after which a job that is not known is gone.

The page says that a file is there for seven days, and not how soon a job is known. A
404 of a moment after the service has accepted an export may come from a part of it
that has not heard yet: to ask again costs a request, to believe it costs an export.
Five minutes are our assumption, as much as `FILE_KEPT` allows for clocks that differ.
"""

NOT_KNOWN_YET = ExportStatus(done=False, word="not known yet")
"""The status of a job that the service does not know yet, in a word of our own."""

_FASTEST_CLOCK = 86400.0
"""
Seconds by which the clock of the host that requested an export may have been ahead.

A wrong time zone is less than a day. One that was further ahead wrote nonsense, by
which a job that is gone must not be polled for ever.
"""

_EARLY = 0.05
"""Seconds by which an engine may come early: its timers are not exact."""


@attrs.frozen
class JobFailed:
    """The status of a job that ended without a file."""

    word: str


@attrs.frozen(kw_only=True)
class JobState:
    """
    The known state of a job, with the number of polls in this wait.

    `age` is the time in seconds since the export was requested; None if unknown, so
    that the job may already be done. `status` is the last readable answer, if any.
    """

    age: float | None
    polls: int = 0
    status: ExportStatus | JobFailed | None = None

    @property
    def word(self) -> str:
        """The status as the service wrote it; empty if there is none."""
        return "" if self.status is None else self.status.word


@attrs.frozen
class Poll:
    """Request the status after so many seconds."""

    after: float


@attrs.frozen
class Download:
    """Fetch the file: it is ready."""


@attrs.frozen
class GiveUp:
    """Stop waiting: the caller's deadline has passed, and the job goes on."""


Step: TypeAlias = Poll | Download | GiveUp | JobFailed


def next_step(state: JobState, polling: Polling, *, left: float, jitter: float) -> Step:
    """
    Return the next step of a job.

    The first poll comes at once when the job may be done, and the last one falls on the
    deadline itself, *left* seconds from now. The *jitter* is between 0 and 1.
    """
    if isinstance(state.status, JobFailed):
        return state.status

    if state.status is not None and state.status.done:
        return Download()

    if state.polls == 0:
        return Poll(min(_first_delay(state.age, polling, jitter), max(left, 0.0)))

    if left <= 0:
        return GiveUp()

    return Poll(min(next_poll(polling, jitter=jitter), left))


def step_due_in(
    export: ExportRow, polling: Polling, *, now: datetime, jitter: float
) -> float:
    """
    Return the seconds until the next step of a spent export, as a job store has it.

    Zero if it is due, as a download is.
    """
    if export.state is ExportState.READY:
        return 0.0
    if export.poll_at is None:
        return _first_delay(age_of(export.ref(), now=now), polling, jitter)

    left = (export.poll_at - now).total_seconds()

    longest = max(polling.initial_delay, polling.interval) * (1 + polling.jitter)

    # Clocks differ: one that is due later than that was stored by a faster clock.
    return left if _EARLY <= left <= longest + _EARLY else 0.0


def may_be_unknown(
    ref: ExportRef, *, now: datetime, answered_at: datetime | None
) -> bool:
    """
    Whether the status of an export may be a 404 and the job still come.

    Args:
        now: By our clock, which may be ahead of that of the host that requested it.
        answered_at: By the service's clock, as is what the export is `as_of`.
    """
    ages = [age_of(ref, now=now)]

    if answered_at is not None and ref.as_of is not None:
        ages.append((answered_at - ref.as_of).total_seconds())

    # Either may be wrong: to ask again costs a request, to believe it costs an export.
    return any(age is not None and -_FASTEST_CLOCK < age < KNOWN_AFTER for age in ages)


def next_poll(polling: Polling, *, jitter: float) -> float:
    """Return the seconds between two polls."""
    return _spread(polling.interval, polling, jitter)


def _first_delay(age: float | None, polling: Polling, jitter: float) -> float:
    if age is None:
        return 0.0

    # Clocks differ: a request from the future was made just now.
    return max(0.0, _spread(polling.initial_delay, polling, jitter) - max(0.0, age))


def _spread(seconds: float, polling: Polling, jitter: float) -> float:
    return seconds * (1 + polling.jitter * (2 * jitter - 1))
