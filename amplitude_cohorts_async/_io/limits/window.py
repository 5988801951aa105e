"""
Pools of places, each held by one request at a time, the longest free first.

A place is free again at a moment that is set when its request has *ended*. If
that moment is a window's length later, the pool admits n starts in any window,
whatever the latency and however the service counts; see docs/limits.md for
the proof. If it is the end itself, the pool is a semaphore.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Iterable
from heapq import heapify, heappop, heappush

import anyio
import attrs
from aiolimiter import AsyncLimiter

from ...limits import Rate
from ..context import Clock
from .fifo_lock import FifoLock, Wakeup

# A timer may fire a hair early, and `now + (then - now)` may miss *then* by a
# bit: aim past the moment, or we would ask again and again at its very edge.
EDGE = 1e-6


async def sleep_until(clock: Clock, moment: float) -> None:
    """Return when *moment* is past on the clock; at once if it is."""
    while (seconds := moment - clock.now()) > 0:
        await clock.sleep(seconds + EDGE)


@attrs.define(eq=False)
class Place:
    """
    One place of a pool.

    Attributes:
        free_at: When the next request may have it, on the pool's clock.
    """

    free_at: float = -math.inf

    def __lt__(self, other: Place) -> bool:
        return self.free_at < other.free_at


class PlacePool:
    """
    Places for requests; first come, first served.

    Cancelling is safe anywhere: a place that was not used goes back as it was.
    """

    def __init__(
        self,
        size: int,
        *,
        clock: Clock,
        reuse_after: float = 0.0,
        ended_at: Iterable[float] = (),
    ) -> None:
        """
        Make the places.

        Args:
            reuse_after: Seconds a place stays taken once its request ended.

            ended_at: When earlier requests ended.
        """
        last = sorted(ended_at)[-size:]
        self._clock = clock
        self._reuse_after = reuse_after
        self._line = FifoLock()
        self._mutex = threading.Lock()
        self._wakeup: Wakeup | None = None
        self._idle = [Place(moment + reuse_after) for moment in last]
        self._idle += [Place() for _ in range(size - len(last))]
        heapify(self._idle)

    def free_at(self) -> list[float]:
        """Return when each place that is not in use is free."""
        with self._mutex:
            return [place.free_at for place in self._idle]

    async def take(self) -> Place:
        """Wait for a place."""
        async with self._line:
            while (place := self._pop_free()) is None:
                await self._change()

            return place

    def release_unused(self, place: Place) -> None:
        """Return a place that was not used; it is free as before."""
        with self._mutex:
            heappush(self._idle, place)
            wakeup, self._wakeup = self._wakeup, None

        if wakeup is not None:
            wakeup.set()

    def release(self, place: Place, *, at: float) -> None:
        """Return a place whose request ended at that moment, past or to come."""
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
            await _either(wakeup.wait, lambda: sleep_until(self._clock, first))


class SlotSemaphore(PlacePool):
    """
    The semaphore for requests in flight.

    Ours, because those of asyncio and anyio belong to one event loop and this one
    serves all threads, is first come, first served, can release a place late,
    when the service may still be busy with its request, and can withhold one.
    """

    def __init__(
        self, size: int, *, clock: Clock, released_at: Iterable[float] = ()
    ) -> None:
        """
        Make the places.

        Args:
            released_at: Until when places are taken without a request.
        """
        super().__init__(size, clock=clock, ended_at=released_at)
        self._size = size
        self._withheld_until: list[float] = []

    @property
    def withheld(self) -> int:
        """How many places have been withheld, as of the last time."""
        return len(self._withheld_until)

    def may_withhold(self, *, until: float) -> bool:
        """
        Count one more place as withheld, unless it is the last one.

        Returns:
            Whether it counts; then release it at that moment.
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
    Keeps the pace of one kind of request: a leaky bucket for each event loop.

    A bucket lets a burst through and then an even pace, which is what a rate of
    our own means. It cannot keep a window that the service counts, see
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
        """Wait until the bucket has room for one more; first come, first served."""
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


async def _either(
    one: Callable[[], Awaitable[None]], other: Callable[[], Awaitable[None]]
) -> None:
    async with anyio.create_task_group() as group:

        async def finish(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            group.cancel_scope.cancel()

        group.start_soon(finish, one)
        group.start_soon(finish, other)
