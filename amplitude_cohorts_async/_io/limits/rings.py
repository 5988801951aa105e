"""
Rings: n places, each taken by one request at a time, the oldest first.

A place is free again at a moment that is set when its request has *ended*. If
that moment is a window's length later, the ring admits n starts in any window,
whatever the latency and however the service counts; see docs/limits.md for
the proof. If it is the end itself, the ring is a semaphore, whose places can
stay taken a little longer when the service may still be busy.
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

from ...protocols import Clock
from .turns import Bell, Turn

# A timer may fire a hair early, and `now + (then - now)` may miss *then* by a
# bit: aim past the moment, lest we ask again and again at its very edge.
EDGE = 1e-6


async def sleep_until(clock: Clock, moment: float) -> None:
    """
    Return when *moment* is past on the clock; at once if it is.
    """
    while (seconds := moment - clock.now()) > 0:
        await clock.sleep(seconds + EDGE)


@attrs.define(eq=False)
class Place:
    """
    One place of a ring.

    Attributes:
        free_at: When the next request may have it, on the ring's clock.
    """

    free_at: float = -math.inf
    bucket: AsyncLimiter | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def __lt__(self, other: Place) -> bool:
        return self.free_at < other.free_at


class Ring:
    """
    Places for requests; first come, first served.

    Cancelling is safe anywhere: a place that was not used goes back as it was.
    """

    def __init__(
        self,
        size: int,
        *,
        clock: Clock,
        hold: float = 0.0,
        window: float | None = None,
        ended_at: Iterable[float] = (),
    ) -> None:
        """
        Lay out the ring.

        Args:
            size: How many places.

            hold: Seconds a place stays taken once its request ended.

            window: Seconds of the rate the ring keeps, less than *hold*. Each
                place then has an aiolimiter bucket of one token that drains in
                a window. None for a ring that keeps no rate, and for a clock
                that is not the loop's: aiolimiter knows no other.

            ended_at: When earlier requests ended.
        """
        last = sorted(ended_at)[-size:]
        self._clock = clock
        self._hold = hold
        self._window = window
        self._turn = Turn()
        self._mutex = threading.Lock()
        self._bell: Bell | None = None
        self._idle = [Place(moment + hold) for moment in last]
        self._idle += [Place() for _ in range(size - len(last))]
        heapify(self._idle)

    def free_at(self) -> list[float]:
        """
        Tell when each place that is not in use is free.
        """
        with self._mutex:
            return [place.free_at for place in self._idle]

    async def take(self) -> Place:
        """
        Wait for a place.
        """
        async with self._turn:
            while (place := self._pop_free()) is None:
                await self._change()

            try:
                await self._pour(place)
            except BaseException:
                self.put_back(place)
                raise

            return place

    def put_back(self, place: Place) -> None:
        """
        Return a place that was not used; it is free as before.
        """
        place.bucket = None
        self._return(place)

    async def end(self, place: Place, *, at: float) -> None:
        """
        Return a place whose request ended at that moment; never waits.
        """
        place.free_at = at + self._hold
        place.bucket = None

        try:
            await self._pour(place)
        finally:
            self._return(place)

    def _return(self, place: Place) -> None:
        with self._mutex:
            heappush(self._idle, place)
            bell, self._bell = self._bell, None

        if bell is not None:
            bell.ring()

    def _pop_free(self) -> Place | None:
        with self._mutex:
            if self._idle and self._idle[0].free_at <= self._clock.now():
                return heappop(self._idle)

        return None

    async def _pour(self, place: Place) -> None:
        # The bucket drains in a window and `free_at` lies a guard beyond it, so
        # it never makes us wait: asked at the very edge it would spin on
        # rounding errors wherever time stands still between timers.
        if self._window is None:
            return

        loop = asyncio.get_running_loop()
        if place.bucket is None or place.loop is not loop:
            place.bucket, place.loop = AsyncLimiter(1, self._window), loop

        await place.bucket.acquire()

    async def _change(self) -> None:
        with self._mutex:
            bell = self._bell = Bell()
            first = self._idle[0].free_at if self._idle else None

        if first is None:
            await bell.wait()
        else:
            await _either(bell.wait, lambda: sleep_until(self._clock, first))


async def _either(
    one: Callable[[], Awaitable[None]], other: Callable[[], Awaitable[None]]
) -> None:
    async with anyio.create_task_group() as group:

        async def finish(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            group.cancel_scope.cancel()

        group.start_soon(finish, one)
        group.start_soon(finish, other)
