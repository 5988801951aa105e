"""
The base class of all limiters, and what those that keep `Limits` have in common.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import attrs
from aiolimiter import AsyncLimiter

from ..._core.pacing import Pace, Refusal
from ..._core.schedule import earliest_starts
from ...errors import ConfigurationError, QuotaWaitError
from ...limits import DOCUMENTED, Kind, Limits, Rate
from .budget import LocalCounter, SharedCounter
from .rings import EDGE
from .turns import FifoLock, KeyedLock

_log = logging.getLogger(__name__)

WITHHELD_FOR = 600.0
"""
Seconds that a place stays free for others who evidently use the app.
"""

P = TypeVar("P")

Statistics = Mapping[str, float]
"""
Counters of a limiter by name: requests started, in flight, waited, throttled.
"""


class RunningJobs(Protocol):
    """
    An index of running exports, so that one asked for twice is requested once.
    """

    def claim(self, key: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other caller is about to request this export.
        """
        ...

    async def find(self, key: str) -> str | None:
        """
        Return the token of the running export, if there is one.
        """
        ...

    async def put(self, key: str, token: str, *, seconds: float) -> None:
        """
        Record an export that is running now.

        Args:
            seconds: After this long it counts as over, whatever happened.
        """
        ...

    async def remove(self, key: str, token: str) -> None:
        """
        Remove an export that is over, unless another one is recorded by now.
        """
        ...


class Permit:
    """
    The right to send one request, held until its answer has been read.
    """

    __slots__ = ()

    def throttled(self, retry_after: float | None = None, *, details: str = "") -> None:
        """
        Report that the service answered 429 or asked to slow down.

        This one ignores it; a limiter's own permit does not.

        Args:
            retry_after: Seconds the service asked for, if it did.

            details: Its own words, which may tell a limit on rate from one on
                concurrency.
        """


class Limiter(ABC):
    """
    Keeps the limits of one app, for all its clients.

    A subclass needs only `slot()`. It is entered once for each HTTP attempt,
    retries included, and left when the answer has been read or the attempt has
    failed. Everything else works within this process unless it is overridden.
    """

    @property
    def limits(self) -> Limits | None:
        """
        The limits it keeps; None if those of the client count.
        """
        return None

    @property
    def counter(self) -> SharedCounter:
        """
        Counts the exports of a month for all that this limiter serves.
        """
        # Made at first use, because a subclass need not call our constructor; and
        # in one step, because clients may live in several threads.
        counter: SharedCounter = vars(self).setdefault("_counter", LocalCounter())

        return counter

    @property
    def job_store(self) -> RunningJobs | None:
        """
        The running exports of all that this limiter serves; None keeps none.
        """
        return None

    def bind(self, app: str) -> None:  # noqa: B027 - nothing to learn
        """
        Learn the app from a client that begins to use this limiter.

        Args:
            app: A hash of origin and API key.
        """

    @abstractmethod
    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than the limits allow.

            LimiterUnavailableError: It is unknown whether there is room.
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
        Return in how many seconds each of the next exports may start.

        Args:
            limits: The client's, for a limiter that states none.
        """
        return earliest_starts(count, self.limits or limits)

    def statistics(self) -> Statistics:
        """
        Return counters of what was let through, and what waited.
        """
        return {}

    async def aclose(self) -> None:  # noqa: B027 - nothing to release
        """
        Release outside resources; calling it twice does no harm.
        """


def agreed_limits(limits: Limits | None, limiter: Limiter | None) -> Limits:
    """
    Return the limits of a client: its own, or those that its limiter states.

    Raises:
        ConfigurationError: Both are stated, or the limiter is none.
    """
    if limiter is None:
        return limits or DOCUMENTED

    if not isinstance(limiter, Limiter):
        raise ConfigurationError(
            f"limiter is {limiter!r}; pass a LocalLimiter, a RedisLimiter or an "
            f"instance of your own subclass of limiters.Limiter"
        )

    stated = limiter.limits
    if limits is not None and stated is not None:
        raise ConfigurationError(
            f"limits= and a {type(limiter).__name__} with limits of its own exclude "
            f"each other; pass the limits to the limiter alone"
        )

    return stated or limits or DOCUMENTED


@attrs.define(eq=False)
class Admission(Permit, Generic[P]):
    """
    A permit of a `LimitsKeeper`.

    Attributes:
        windows: Its places in the windows, if its kind counts there.

        slot: Its place in flight.

        sent_at: When it was given, on the clock of *now*.

        refusals: Answers of 429 that were reported.
    """

    kind: Kind
    windows: Sequence[P]
    slot: P
    now: Callable[[], float]
    sent_at: float = attrs.field(init=False)
    refusals: list[Refusal] = attrs.field(factory=list[Refusal])

    def __attrs_post_init__(self) -> None:
        self.sent_at = self.now()

    def throttled(self, retry_after: float | None = None, *, details: str = "") -> None:
        """
        Report a 429: all requests pause once this one has ended.
        """
        self.refusals.append(
            Refusal(
                kind=self.kind,
                sent_at=self.sent_at,
                at=self.now(),
                retry_after=retry_after,
                details=details,
            )
        )


class Pacer:
    """
    Keeps the pace of one kind of request: a leaky bucket for each event loop.

    A bucket lets a burst through and then an even pace, which is what a rate of
    our own means. It cannot keep a window that somebody else counts, see
    docs/limits.md. aiolimiter reads the time of its event loop and no other clock.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._drop = rate.per / rate.count + EDGE
        self._mutex = threading.Lock()
        self._buckets: dict[
            asyncio.AbstractEventLoop, tuple[FifoLock, AsyncLimiter]
        ] = {}

    async def wait(self) -> None:
        """
        Wait until the bucket has room for one more; first come, first served.
        """
        lock, bucket = self._bucket()

        async with lock:
            # acquire() alone would poll the clock at the very edge until rounding
            # errors have passed: for ever where time stands still between timers.
            while not bucket.has_capacity():  # noqa: ASYNC110 - time is the event
                await asyncio.sleep(self._drop)

            await bucket.acquire()

    def _bucket(self) -> tuple[FifoLock, AsyncLimiter]:
        loop = asyncio.get_running_loop()

        if loop not in self._buckets:
            made = FifoLock(), AsyncLimiter(self._rate.count, self._rate.per)
            # A bucket refers to its loop, so a weak dictionary would keep both.
            with self._mutex:
                alive = {k: v for k, v in self._buckets.items() if not k.is_closed()}
                self._buckets = {**alive, loop: made}

        return self._buckets[loop]


class LimitsKeeper(Limiter):
    """
    A limiter that keeps `Limits` and counts what it lets through.
    """

    def __init__(self, limits: Limits, *, paced: bool = True) -> None:
        """
        Prepare the counters.

        Args:
            paced: Whether to keep the rates that have no window; they need the
                event loop's own clock.
        """
        self._limits = limits
        self._mutex = threading.Lock()
        rates: dict[Kind, Rate | None] = {"poll": limits.polls, "write": limits.writes}
        self._pacers = {
            kind: Pacer(rate) for kind, rate in rates.items() if rate and paced
        }
        self._counts: dict[str, float] = dict.fromkeys(
            ("started", "in_flight", "waiting", "waited", "throttled"), 0
        )

    @property
    def limits(self) -> Limits:
        """
        The limits it keeps.
        """
        return self._limits

    def statistics(self) -> Statistics:
        """
        Return counters of what was let through in this process.

        Returns:
            "started" and "started.export", "started.poll" and so on,
            "in_flight", "waiting", "waited" (seconds, of all together) and
            "throttled".
        """
        with self._mutex:
            return dict(self._counts)

    def _count(self, **by: float) -> None:
        with self._mutex:
            for name, number in by.items():
                self._counts[name] = self._counts.get(name, 0) + number

    def _count_start(self, kind: Kind, *, waited: float) -> None:
        self._count(started=1, in_flight=+1, waited=waited, **{f"started.{kind}": 1})

    def _refuse_if_longer(self, seconds: float, kind: Kind) -> None:
        most = self._limits.max_wait

        if most is not None and seconds > most:
            raise QuotaWaitError(
                f"the next place for a request of kind {kind!r} is {seconds:.1f} s "
                f"away, and max_wait is {most:g} s; ask again later, or with a "
                f"larger Limits.max_wait",
                seconds=seconds,
            )

    def _note_slowdown(self, refusal: Refusal, before: Pace, after: Pace) -> None:
        self._count(throttled=1)
        facts = {
            "kind": refusal.kind,
            "pause_seconds": max(0.0, after.paused_until - refusal.at),
            "spacing_seconds": after.spacing(self._limits.exports),
        }
        _log.warning("the service asked to slow down", extra=facts)
        if after.counted != before.counted:
            _log.warning("polls and files count in the windows from now on")
