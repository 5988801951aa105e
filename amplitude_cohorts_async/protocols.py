"""
What the parts ask of each other; write your own and pass it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from .events import Event

__all__ = ("Clock", "EventHook", "Kind", "Limiter", "Permit", "Statistics")

Kind = Literal["export", "poll", "file", "other"]
"""
What a request is to the quotas: "export" asks for one cohort and counts in
every window and in the month; "poll" asks how a job is; "file" asks for its
file; "other" is all else, the Dashboard REST API included.
"""


@runtime_checkable
class Clock(Protocol):
    """
    The time: to read it and to wait for it.
    """

    def now(self) -> float:
        """
        Tell the time in seconds on a clock that never goes back.
        """
        ...

    def utcnow(self) -> datetime:
        """
        Tell the date and time, aware and in UTC.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """
        Return after *seconds*; zero or less only lets others run.
        """
        ...


class Permit(Protocol):
    """
    The right to send one request, held until its answer has been read.
    """

    def throttled(self, retry_after: float | None = None, *, details: str = "") -> None:
        """
        Report that the service answered 429 or asked to slow down.

        Args:
            retry_after: Seconds the service asked for, if it did.

            details: The service's own words; they tell a limit on rate from
                one on concurrency.
        """
        ...


Statistics = Mapping[str, float]
"""
Counters of a limiter by name: requests started, in flight, waited, throttled.
"""


class Limiter(Protocol):
    """
    The keeper of one app's limits.

    One limiter serves all clients of an app. Entered once for each HTTP
    attempt, retries included, and left when the answer has been read or the
    attempt has failed.
    """

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than the limits allow.

            LimiterUnavailableError: There is no telling whether there is room.
        """
        ...

    def cohort(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until nobody else writes to this cohort.

        The service answers 429 to concurrent writes to one cohort.
        """
        ...

    def statistics(self) -> Statistics:
        """
        Tell what was let through, and what waited.
        """
        ...

    async def aclose(self) -> None:
        """
        Let go of outside resources; calling it twice does no harm.
        """
        ...


class EventHook(Protocol):
    """
    Told what happens, as it happens; must return at once.
    """

    def __call__(self, event: Event, /) -> None:
        """
        Take note of *event*.
        """
        ...
