"""
Places that the processes of a fleet share: what a store of them has to do.

A store knows places by pool and number, and the state that all processes share. Its
clock alone decides when a place is free again. What waits, renews and gives back is
here and in `fleet`, and the same for every store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Protocol

import anyio
import attrs

from ..cancellation import finish_despite_cancel
from ..stores import StoreFailedError, random_delay
from .shared import good_for


class LeaseLostError(Exception):
    """A place has another holder by now."""


@attrs.frozen(kw_only=True)
class Snapshot:
    """
    The shared state at one moment.

    Attributes:
        pause: Seconds until something may start.
        epoch: Changes when the store may have lost data; None if nobody noticed yet.
        recovery: Seconds until leases that were lost would have ended.
        step: How far exports are spread out, as in `Pace`.
        counted: Whether polls and files count in the windows.
    """

    pause: float
    epoch: str | None
    recovery: float
    step: int
    counted: bool


@attrs.frozen(kw_only=True)
class Pool:
    """
    The places of one limit, as a store knows them.

    Attributes:
        ttl: Seconds for which a place is taken that is not renewed.
    """

    name: str
    count: int
    ttl: float


class Held(Protocol):
    """One place that this process holds."""

    async def extend(self, seconds: float) -> None:
        """
        Keep the place for *seconds* from now.

        Raises:
            LeaseLostError: The place has another holder by now.
            StoreFailedError: The holder is unknown.
        """
        ...

    async def release(self, *, after: float = 0.0) -> None:
        """
        Free the place in *after* seconds, sooner than its lease does.

        A store that forgets this delays others and lets nobody in too early, so it
        need not be durable. Raises as `extend()` does.
        """
        ...


class SharedStore(Protocol):
    """
    What the processes of a fleet share for one app, as one event loop reaches it.

    Every method raises `StoreFailedError` if the store does not answer.
    """

    async def warning(self) -> str | None:
        """Return what is wrong with the store's settings, if anything is."""
        ...

    async def try_take(self, pool: Pool, *, urgent: bool = False) -> Held | float:
        """
        Take a place of a pool, if one is free.

        Otherwise return in how many seconds the first one is, if nobody renews it.

        Args:
            urgent: Whether other places are held meanwhile: other apps wait.
        """
        ...

    async def seconds_left(self, pool: Pool) -> list[float]:
        """Return for each place of a pool that is taken how long it stays so."""
        ...

    async def read(self, *, urgent: bool = False) -> Snapshot:
        """
        Return the shared state.

        Args:
            urgent: Whether places are held meanwhile: other apps wait.
        """
        ...

    async def begin_epoch(self, wait: float) -> bool:
        """
        Begin a new epoch, in which nothing starts for *wait* seconds.

        Return whether no other process did so first.
        """
        ...

    async def pause(self, seconds: float) -> bool:
        """Pause all processes; return whether there was no pause yet."""
        ...

    async def spread_out(self) -> None:
        """Spread exports out further, for half an hour at least."""
        ...

    async def count_all(self) -> None:
        """Make polls and files count in the windows from now on."""
        ...

    async def try_space(self, seconds: float) -> float:
        """
        Begin a gap of *seconds*, if the last one is over, and return zero.

        Otherwise return in how many seconds it is.
        """
        ...

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter and return its value; it is dropped after *until*."""
        ...


@attrs.define(eq=False)
class Lease:
    """
    One place, for a limited time.

    Attributes:
        good_until: When the service must be done with its request, on the loop's
            clock.
    """

    places: Places
    held: Held
    good_until: float

    @property
    def ends_at(self) -> float:
        """When its request stops, unless renewed: before somebody else has the place."""
        return self.good_until - self.places.reserve

    async def release_unused(self) -> None:
        """Release the place, which was not used."""
        with _quietly():
            await self.held.release()

    async def end(self, *, clean: bool) -> None:
        """Release the place after its request; see `Places`."""
        keep = self.places.reuse_after + (0.0 if clean else self.places.release_delay)

        with _quietly():
            await self.held.release(after=keep)

    async def withhold(self, seconds: float) -> None:
        """Leave the place taken for *seconds*."""
        with _quietly():
            await self.held.extend(seconds)

    async def renew(self) -> None:
        """
        Extend the lease.

        Raises:
            LeaseLostError: The place has another holder by now.
            StoreFailedError: The holder is unknown.
        """
        now = asyncio.get_running_loop().time()
        await self.held.extend(self.places.pool.ttl)
        self.good_until = now + self.places.good_for


class Places:
    """
    The places of one limit.

    A place is kept for *lease* seconds without being renewed. After its request it
    stays taken for *reuse_after* seconds (the window of a rate, zero for a limit on
    requests in flight), and *release_delay* more if that was cancelled or failed.
    """

    def __init__(
        self,
        store: SharedStore,
        name: str,
        count: int,
        *,
        lease: float,
        reuse_after: float,
        release_delay: float,
    ) -> None:
        self._store = store
        self.reuse_after = reuse_after
        self.release_delay = release_delay
        self._line = anyio.Lock()
        self._waiting = 0
        self._refusals = 0
        self._refused_for = 0.0
        self.good_for = good_for(lease, release_delay)
        self.reserve = self.good_for - lease
        self.pool = Pool(name=name, count=count, ttl=self.good_for + reuse_after)

    async def take(self, *, urgent: bool = False) -> Lease:
        """
        Wait for a place; first come, first served within this process.

        Args:
            urgent: Whether other places are held meanwhile: other apps wait, but for
                the first question only.
        """
        self._waiting += 1

        try:
            async with self._line:
                began = asyncio.get_running_loop().time()

                while True:
                    lease = await self._try(urgent=urgent)
                    if isinstance(lease, Lease):
                        return lease

                    urgent = False
                    await anyio.sleep(self._nap(lease, began))
        finally:
            self._waiting -= 1

    @property
    def is_waited_for(self) -> bool:
        """Whether a task of this process waits for a place."""
        return self._waiting > 0

    async def seconds_left(self) -> list[float]:
        """Return for each place that is taken how long it may stay so."""
        return [
            self.free_in(left) for left in await self._store.seconds_left(self.pool)
        ]

    def free_in(self, seconds: float) -> float:
        """Return in how many seconds a place with this lease may be free."""
        # While its request runs, the lease is longer than it will be afterwards.
        return min(seconds, self.reuse_after)

    async def try_take(self, *, urgent: bool = False) -> Lease | float:
        """
        Take a place if one is free and nobody of this process waits for it.

        Otherwise return in how many seconds one may be.
        """
        if self._waiting:
            return self.reuse_after

        refusals = self._refusals

        async with self._line:
            # One refusal is the answer for all who stood in line behind it.
            if refusals == self._refusals:
                left = await self._try(urgent=urgent)
                if isinstance(left, Lease):
                    return left
                self._refusals += 1
                self._refused_for = self.free_in(left)

            return self._refused_for

    async def _try(self, *, urgent: bool) -> Lease | float:
        good_until = asyncio.get_running_loop().time() + self.good_for
        taking = asyncio.ensure_future(self._store.try_take(self.pool, urgent=urgent))

        try:
            held = await finish_despite_cancel(taking)
        except asyncio.CancelledError:
            if not taking.cancelled() and not taking.exception():
                await self._give_back(taking.result(), good_until)
            raise

        if isinstance(held, float | int):
            return held

        return Lease(self, held, good_until)

    async def _give_back(self, held: Held | float, good_until: float) -> None:
        if not isinstance(held, float | int):
            lease = Lease(self, held, good_until)
            await finish_despite_cancel(lease.release_unused())

    def _nap(self, left: float, began: float) -> float:
        if self.reuse_after:
            return self.free_in(left) + random_delay(0, 0.003)

        # The longer the wait so far, the less an answer is worth.
        waited = asyncio.get_running_loop().time() - began
        longest = min(0.1, max(0.03, waited / 10))
        return random_delay(0.01, longest)


@contextmanager
def _quietly() -> Generator[None]:
    with suppress(LeaseLostError, StoreFailedError):
        yield
