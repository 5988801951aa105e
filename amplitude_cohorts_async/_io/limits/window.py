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
from .tickets import LONGEST, Line, again_in

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
    unused place returns to the pool unchanged. Who has tickets ahead in *line* leaves
    them a place each.
    """

    def __init__(
        self,
        size: int,
        *,
        clock: Clock,
        line: Line,
        reuse_after: float = 0.0,
        ended_at: Iterable[float] = (),
    ) -> None:
        last = sorted(ended_at)[-size:]
        self._clock = clock
        self._waiting = line
        self._size = size
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

    async def take(self, number: int, *, alone: bool = False) -> Place:
        """
        Wait for a free place and return it.

        Args:
            number: That of this task in the line.
            alone: Whether all tickets ahead have to be over first.
        """
        async with self._line:
            while (place := self.take_free(self._kept(number, alone=alone))) is None:
                await self._change(number, alone=alone)

            return place

    def take_free(self, ahead: int) -> Place | None:
        """Return a place if there is one that those ahead do not need."""
        with self._mutex:
            now = self._clock.now()
            if not self._idle or self._idle[0].free_at > now:
                return None
            if ahead and sum(place.free_at <= now for place in self._idle) <= ahead:
                return None

            return heappop(self._idle)

    def release_unused(self, place: Place) -> None:
        """Put back a place that was not used; it is free as before."""
        with self._mutex:
            heappush(self._idle, place)

        self.look_again()

    def look_again(self) -> None:
        """Wake who waits: a place or a ticket has changed."""
        with self._mutex:
            wakeup, self._wakeup = self._wakeup, None

        if wakeup is not None:
            wakeup.set()

    def release(self, place: Place, *, at: float) -> None:
        """Put back a place whose request ended, or counts as ended, at this time."""
        place.free_at = at + self._reuse_after
        self.release_unused(place)

    def _kept(self, number: int, *, alone: bool) -> int:
        ahead = self._waiting.tickets_ahead(number)
        return self._size if ahead and alone else ahead

    async def _change(self, number: int, *, alone: bool) -> None:
        with self._mutex:
            wakeup = self._wakeup = Wakeup()

        moment = self._looks_again_at(self._kept(number, alone=alone))
        if moment == math.inf:
            await wakeup.wait()
        else:
            with anyio.CancelScope() as scope:
                async with background(_cancel_at(wakeup, scope)):
                    await sleep_until(self._clock, moment)

    def _looks_again_at(self, ahead: int) -> float:
        if not ahead:
            with self._mutex:
                return self._idle[0].free_at if self._idle else math.inf

        free = sorted(self.free_at())
        after_those_ahead = free[ahead] if ahead < len(free) else math.inf
        return min(after_those_ahead, self._waiting.ends_at())


class SlotSemaphore(PlacePool):
    """
    The semaphore for requests in flight.

    Those of asyncio and anyio belong to one event loop. This one works across
    threads, is FIFO, can release a place late, while the service may still be busy
    with its request, and can withhold places.
    """

    def __init__(
        self,
        size: int,
        *,
        clock: Clock,
        line: Line,
        released_at: Iterable[float] = (),
    ) -> None:
        """Create the places; those of *released_at* are taken until then."""
        super().__init__(size, clock=clock, line=line, ended_at=released_at)
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


@attrs.frozen(eq=False)
class _Bucket:
    """
    The pace within one event loop.

    Attributes:
        line: Who waits for it.
        passed: The tickets that it admitted, and that wait for something else.
    """

    drops: AsyncLimiter
    lock: FifoLock
    line: Line
    passed: Line

    def has_room(self, ahead: int) -> bool:
        """Whether it admits one more than the tickets ahead."""
        return self.drops.has_capacity(1 + ahead)


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
        self._buckets: dict[asyncio.AbstractEventLoop, _Bucket] = {}

    async def wait(self) -> None:
        """Wait until the bucket admits one more; first come, first served."""
        bucket = self._bucket()

        if bucket.line.is_empty and bucket.has_room(0):
            await bucket.drops.acquire()
            return

        number = bucket.line.join()

        try:
            async with bucket.lock:
                # acquire() alone would poll the clock until rounding errors have
                # passed, which is for ever where time stands still between timers.
                while not bucket.has_room(bucket.line.tickets_ahead(number)):  # noqa: ASYNC110
                    await asyncio.sleep(self._drop)

                await bucket.drops.acquire()
        finally:
            bucket.line.leave(number)

    async def try_pass(self, ticket: str) -> float:
        """
        Let a ticket pass without waiting; or return in how many seconds it may ask.

        It passes once, until it is forgotten or waits again.
        """
        bucket = self._bucket()

        if not bucket.passed.has(ticket):
            ahead = bucket.line.draw(ticket)
            if not bucket.has_room(ahead):
                seconds = again_in(self._drop * (1 + ahead))
                bucket.line.draw(ticket, seconds=seconds)
                return seconds

            # It has capacity, so this does not wait.
            await bucket.drops.acquire()
            bucket.line.drop(ticket)

        bucket.passed.draw(ticket, seconds=LONGEST)
        return 0.0

    def wait_again(self, ticket: str, *, seconds: float) -> None:
        """Put a ticket in the line, also if it has passed; it asks after *seconds*."""
        bucket = self._bucket()
        bucket.passed.drop(ticket)
        bucket.line.draw(ticket, seconds=seconds)

    def forget(self, ticket: str) -> None:
        """Note that a ticket is over."""
        bucket = self._bucket()
        bucket.passed.drop(ticket)
        bucket.line.drop(ticket)

    def _bucket(self) -> _Bucket:
        loop = asyncio.get_running_loop()

        if loop not in self._buckets:
            made = _Bucket(
                AsyncLimiter(self._rate.count, self._rate.per),
                FifoLock(),
                Line(loop.time),
                Line(loop.time),
            )
            # A bucket refers to its loop, so a weak dictionary would keep both.
            with self._mutex:
                alive = {k: v for k, v in self._buckets.items() if not k.is_closed()}
                self._buckets = {**alive, loop: made}

        return self._buckets[loop]


async def _cancel_at(wakeup: Wakeup, scope: anyio.CancelScope) -> None:
    await wakeup.wait()
    scope.cancel()
