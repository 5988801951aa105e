"""The base class of all limiters, and its counter."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from ..._core.pacing import earliest_starts
from ...limits import DOCUMENTED, Kind, Limits
from ..fifo_lock import KeyedLock
from ..jobs.base import JobStore

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

    def statistics(self) -> Statistics:
        """Return counters of requests that started and waited."""
        return {}

    async def aclose(self) -> None:  # noqa: B027 - nothing to release
        """Release outside resources; may be called twice."""
