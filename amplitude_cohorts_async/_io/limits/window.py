"""
Pools of places, each held by one request at a time, the longest free first.

When its request has *ended*, a place gets the time at which it is free again. If
that is a window's length later, the pool admits n starts in any window, whatever
the latency and however the service counts; see docs/limits.md for the proof. If
it is the end itself, the pool is a semaphore.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterable
from heapq import heapify, heappop, heappush

import anyio
import attrs
from aiolimiter import AsyncLimiter

from ...limits import Rate
from ..cancellation import background
from ..context import Clock
from ..fifo_lock import FifoLock, Wakeup

# A timer may fire early, and `now + (then - now)` may be less than *then* by a
# rounding error: aim past the moment, or the loop would spin just before it.
EDGE = 1e-6


async def sleep_until(clock: Clock, moment: float) -> None:
    """Sleep until the clock has passed *moment*."""
    while (seconds := moment - clock.now()) > 0:
        await clock.sleep(seconds + EDGE)


@attrs.define(eq=False)
class Place:
    """One place of a pool; the next request may take it at *free_at*."""

    free_at: float = -math.inf

    def __lt__(self, other: Place) -> bool:
        return self.free_at < other.free_at


class PlacePool:
    """
    Places for requests; first come, first served.

    A place stays taken for *reuse_after* seconds after its request ended, also those
    of earlier requests that ended at *ended_at*. A wait may be cancelled anywhere: an
    unused place returns to the pool unchanged.
    """

    def __init__(
        self,
        size: int,
        *,
        clock: Clock,
        reuse_after: float = 0.0,
        ended_at: Iterable[float] = (),
    ) -> None:
        last = sorted(ended_at)[-size:]
        self._clock = clock
        self._reuse_after = reuse_after
        self._line = FifoLock()
        self._mutex = threading.Lock()
        self._wakeup: Wakeup | None = None
        self._idle = [Place(moment + reuse_after) for moment in last]
        self._idle += [Place() for _ in range(size - len(last))]
        heapify(self._idle)

    @property
    def idle(self) -> int:
        """How many places are not in use; takes no lock."""
        return len(self._idle)

    def free_at(self) -> list[float]:
        """Return the times at which the places not in use are free."""
        with self._mutex:
            return [place.free_at for place in self._idle]

    async def take(self) -> Place:
        """Wait for a free place and return it."""
        async with self._line:
            while (place := self._pop_free()) is None:
                await self._change()

            return place

    def release_unused(self, place: Place) -> None:
        """Put back a place that was not used; it is free as before."""
        with self._mutex:
            heappush(self._idle, place)
            wakeup, self._wakeup = self._wakeup, None

        if wakeup is not None:
            wakeup.set()

    def release(self, place: Place, *, at: float) -> None:
        """Put back a place whose request ended, or counts as ended, at this time."""
        place.free_at = at + self._reuse_after
        self.release_unused(place)

    def _pop_free(self) -> Place | None:
        with self._mutex:
            if self._idle and self._idle[0].free_at <= self._clock.now():
                return heappop(self._idle)

        return None

    async def _change(self) -> None:
        with self._mutex:
            wakeup = self._wakeup = Wakeup()
            first = self._idle[0].free_at if self._idle else None

        if first is None:
            await wakeup.wait()
        else:
            with anyio.CancelScope() as scope:
                async with background(_cancel_at(wakeup, scope)):
                    await sleep_until(self._clock, first)


class SlotSemaphore(PlacePool):
    """
    The semaphore for requests in flight.

    Those of asyncio and anyio belong to one event loop. This one works across
    threads, is FIFO, can release a place late, while the service may still be busy
    with its request, and can withhold places.
    """

    def __init__(
        self, size: int, *, clock: Clock, released_at: Iterable[float] = ()
    ) -> None:
        """Create the places; those of *released_at* are taken until then."""
        super().__init__(size, clock=clock, ended_at=released_at)
        self._size = size
        self._withheld_until: list[float] = []

    @property
    def withheld(self) -> int:
        """How many places were withheld at the last count."""
        return len(self._withheld_until)

    def may_withhold(self, *, until: float) -> bool:
        """
        Count one more place as withheld until then, unless it is the last one.

        If it counts, return True; the caller then releases it at that time.
        """
        now = self._clock.now()

        with self._mutex:
            current = [moment for moment in self._withheld_until if moment > now]
            if may := len(current) + 1 < self._size:
                current.append(until)
            self._withheld_until = current

        return may


class Pacer:
    """
    The pace of one kind of request: a leaky bucket for each event loop.

    A bucket admits a burst and then an even pace, which is what our own rates mean.
    It cannot keep a window that the service counts, see docs/limits.md. aiolimiter
    reads the time of its event loop and no other clock.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._drop = rate.per / rate.count + EDGE
        self._mutex = threading.Lock()
        self._buckets: dict[
            asyncio.AbstractEventLoop, tuple[FifoLock, AsyncLimiter]
        ] = {}

    async def wait(self) -> None:
        """Wait until the bucket admits one more; first come, first served."""
        lock, bucket = self._bucket()

        async with lock:
            # acquire() alone would poll the clock until rounding errors have passed,
            # which is for ever where time stands still between timers.
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


async def _cancel_at(wakeup: Wakeup, scope: anyio.CancelScope) -> None:
    await wakeup.wait()
    scope.cancel()
