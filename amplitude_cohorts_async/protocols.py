"""
What the parts ask of each other; write your own and pass it in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from .limits import Limits

if TYPE_CHECKING:  # each class costs half a millisecond, and few programs name one
    from .events import Event

__all__ = (
    "BindsApp",
    "Clock",
    "CohortLocks",
    "EventHook",
    "ExplainedPermit",
    "Foresight",
    "JobBoard",
    "KeepsLimits",
    "Kind",
    "Limiter",
    "Permit",
    "SharesJobs",
    "Statistics",
    "Tally",
)

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

    def throttled(self, retry_after: float | None = None) -> None:
        """
        Report that the service answered 429 or asked to slow down.

        Args:
            retry_after: Seconds the service asked for, if it did.
        """
        ...


@runtime_checkable
class ExplainedPermit(Protocol):
    """
    A permit that can tell a limit on rate from one on concurrency.
    """

    def refused(self, details: str, retry_after: float | None = None) -> None:
        """
        Report a 429 in the service's own words; called instead of `throttled()`.
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

    These three methods are all that a limiter needs. One that can do more has
    the methods of `BindsApp`, `CohortLocks`, `Foresight`, `KeepsLimits`,
    `SharesJobs` or `Tally` as well; what it cannot do is then done within the
    process.
    """

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than the limits allow.

            LimiterUnavailableError: There is no telling whether there is room.
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


@runtime_checkable
class KeepsLimits(Protocol):
    """
    A limiter that tells which limits it keeps.
    """

    @property
    def limits(self) -> Limits:
        """
        The limits.
        """
        ...


@runtime_checkable
class BindsApp(Protocol):
    """
    A limiter that has to be told which app it is for.
    """

    def bind(
        self, app: str, *, local: Callable[[Limits], Limiter] | None = None
    ) -> None:
        """
        Learn the app.

        Args:
            app: A hash of origin and API key.

            local: Makes a limiter of this process for the same app.
        """
        ...


@runtime_checkable
class Tally(Protocol):
    """
    A limiter that counts for all it serves.
    """

    async def tally(self, name: str, by: int, *, until: datetime) -> int:
        """
        Add to a counter, which may be forgotten after *until*; tell its value.

        Raises:
            LimiterUnavailableError: There is no telling.
        """
        ...


@runtime_checkable
class CohortLocks(Protocol):
    """
    A limiter that keeps the writers of a cohort apart.
    """

    def cohort(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until nobody else writes to this cohort.

        The service answers 429 to concurrent writes to one cohort.
        """
        ...


class JobBoard(Protocol):
    """
    Where those who want the same export find each other.
    """

    def claim(self, key: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until nobody else is about to request this export.
        """
        ...

    async def find(self, key: str) -> str | None:
        """
        Tell the token of the running export, if there is one.
        """
        ...

    async def put(self, key: str, token: str, *, seconds: float) -> None:
        """
        Tell the others of an export that is running now.

        Args:
            seconds: After this long it is taken for over, whatever happened.
        """
        ...

    async def remove(self, key: str, token: str) -> None:
        """
        Tell the others that this export is over.
        """
        ...


@runtime_checkable
class SharesJobs(Protocol):
    """
    A limiter that has a board for all it serves.
    """

    @property
    def board(self) -> JobBoard:
        """
        The board.
        """
        ...


@runtime_checkable
class Foresight(Protocol):
    """
    A limiter that can tell when it would let exports start.
    """

    def expected_starts(self, count: int) -> Sequence[float]:
        """
        Tell in how many seconds each of the next exports may start.
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
