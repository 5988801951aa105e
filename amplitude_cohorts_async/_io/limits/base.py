"""The base class of all limiters, and its counter."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Protocol

from ..._core.pacing import earliest_starts
from ...errors import QuotaWaitError
from ...limits import DOCUMENTED, Kind, Limits
from ..fifo_lock import KeyedLock
from ..jobs.base import JobStore

# A limiter without tickets may have to ask a server before it knows.
_TRIED_FOR = 1.0
_ASK_AGAIN = 1.0
# A timer may fire early.
_EDGE = 0.001

Statistics = Mapping[str, float]
"""Counters of a limiter by name: requests started, in flight, waited, throttled."""


class SharedCounter(Protocol):
    """Named counters, common to all clients that share the limits of an app."""

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """
        Add to a counter, which may be dropped after *until*; return its value.

        Raises:
            LimiterUnavailableError: The value is unknown.
        """
        ...


class LocalCounter:
    """Thread-safe counters of this process."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._counts: dict[str, tuple[int, datetime]] = {}

    def copy(self) -> LocalCounter:
        """Return a copy with a lock of its own; takes no lock."""
        copy = LocalCounter()
        copy._counts = self._counts

        return copy

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter, drop those that end earlier, return its value."""
        with self._mutex:
            count = self._counts.get(name, (0, until))[0] + by
            kept = {k: entry for k, entry in self._counts.items() if entry[1] >= until}
            self._counts = {**kept, name: (count, until)}

        return count


class Permit:
    """The right to send one request, held until its answer has been read."""

    __slots__ = ()

    def throttled(self, retry_after: float | None = None, *, details: str = "") -> None:
        """
        Report that the service answered 429 or asked to slow down.

        This base class ignores it.

        Args:
            retry_after: Seconds, from the header ``Retry-After``.
            details: The text of the error, which may tell a limit on rate from
                one on concurrency.
        """


def no_slot(kind: Kind, seconds: float, ticket: str | None = None) -> QuotaWaitError:
    """Return the error of a try: a slot may be free in so many seconds."""
    seconds += _EDGE
    return QuotaWaitError(
        f"no slot is free now for a request of kind {kind!r}; nothing was sent, ask "
        f"again in {seconds:.3g} s",
        seconds=seconds,
        ticket=ticket,
    )


class Limiter(ABC):
    """
    Keeps the limits of one app, for all its clients.

    A subclass needs only `slot()`. It is entered once for each HTTP attempt,
    retries included, and left when the answer has been read or the attempt has
    failed. All other methods work within this process unless overridden.
    """

    @property
    def limits(self) -> Limits | None:
        """The limits it keeps; None if those of the client apply."""
        return None

    @property
    def counter(self) -> SharedCounter:
        """Counts the exports of a month for all clients of this limiter."""
        # Made at first use, because a subclass need not call our constructor; and in
        # one step, because clients may run in several threads. So is `cohort_lock()`'s.
        counter: SharedCounter = vars(self).setdefault("_counter", LocalCounter())

        return counter

    @property
    def job_store(self) -> JobStore | None:
        """The store of exports that all clients of this limiter share, if any."""
        return None

    def bind(self, app: str) -> None:  # noqa: B027 - this one serves any app
        """Bind this limiter to the app of a client: a hash of origin and API key."""

    @abstractmethod
    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than `Limits.max_wait`.
            LimiterUnavailableError: It is unknown whether a slot is free.
        """

    def try_slot(
        self,
        kind: Kind,
        *,
        ticket: str | None = None,  # noqa: ARG002 - for those that keep an order
    ) -> AbstractAsyncContextManager[Permit]:
        """
        Take a slot if one is free now, and do not wait for one.

        This base class enters `slot()` and leaves it when it has waited for a second:
        it keeps no order for those who only try.

        Args:
            ticket: That of the `QuotaWaitError` of an earlier try. Who asks again
                within its `seconds` and 30 more keeps the place in the order; any
                other text is as None, and gets the last place.

        Raises:
            QuotaWaitError: No slot is free.
            LimiterUnavailableError: It is unknown whether a slot is free.
        """
        return self._try_slot(kind)

    @asynccontextmanager
    async def _try_slot(self, kind: Kind) -> AsyncGenerator[Permit]:
        async with AsyncExitStack() as stack:
            tried = asyncio.timeout(_TRIED_FOR)
            try:
                async with tried:
                    permit = await stack.enter_async_context(self.slot(kind))
            except TimeoutError:
                # That of a limiter itself, as QuotaWaitError is one.
                if not tried.expired():
                    raise

                starts_in = self.expected_starts(1)[0] if kind == "export" else 0.0
                raise no_slot(kind, max(_ASK_AGAIN, starts_in)) from None

            yield permit

    def cohort_lock(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other task writes to this cohort.

        The service answers 429 to concurrent writes to one cohort.
        """
        locks: KeyedLock = vars(self).setdefault("_cohort_locks", KeyedLock())

        return locks.hold(cohort_id)

    def expected_starts(
        self, count: int, *, limits: Limits = DOCUMENTED
    ) -> Sequence[float]:
        """
        Return in how many seconds each of the next *count* exports may start.

        Args:
            limits: The client's, for a limiter that states none.
        """
        return earliest_starts(count, self.limits or limits)

    def waits_for(self, kind: Kind) -> str:  # noqa: ARG002 - this one does not know
        """
        Return what a request of this kind would wait for now, for a line of the log.

        It is asked a second after a request began to wait; must return without waiting.
        """
        return "its limiter"

    def statistics(self) -> Statistics:
        """Return counters of requests that started and waited."""
        return {}

    async def aclose(self) -> None:  # noqa: B027 - nothing to release
        """Release outside resources; may be called twice."""
