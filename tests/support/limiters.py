"""Limiters that fail as a shared one may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from amplitude_cohorts_async.errors import LimiterUnavailableError
from amplitude_cohorts_async.limiters import Clock, Kind, LocalLimiter, Permit


class PlaceLosing(LocalLimiter):
    """A limiter whose store takes a place back when its request has been sent."""

    def __init__(self, kind: Kind, *, clock: Clock) -> None:
        super().__init__(clock=clock)
        self._kind = kind

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """Lose the place of every request of one kind."""
        return self._losing(super().slot(kind), loses=kind == self._kind)

    @asynccontextmanager
    async def _losing(
        self, place: AbstractAsyncContextManager[Permit], *, loses: bool
    ) -> AsyncIterator[Permit]:
        async with place as permit:
            yield permit
        if loses:
            raise LimiterUnavailableError("the place is somebody else's by now")
