"""
Places in a store: n keys are n places, and the holder of a key holds the place.

A lease is redis-py's lock: `SET NX PX` takes it, the owner's token guards renewal
and release, and the store's clock alone decides when it is over. A lease outlives
its request, even if the process dies.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import cast
from uuid import uuid4

import anyio
import attrs
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from ..._io.cancellation import finish_despite_cancel
from ..._io.limits.shared import between, good_for

# Seconds after which a store that has not answered counts as unavailable.
_STORE_TIMEOUT = 2.0


@attrs.define(eq=False)
class Lease:
    """
    One place, for a limited time.

    Attributes:
        good_until: When its request must have ended, on the loop's clock.
    """

    leases: Leases
    lock: Lock
    good_until: float

    async def release_unused(self) -> None:
        """Release the place, which was not used."""
        await _quietly(self.lock.release)

    async def end(self, *, clean: bool) -> None:
        """Release the place after its request; see `Leases`."""
        keep = self.leases.reuse_after + (0.0 if clean else self.leases.release_delay)

        if keep:
            await self.withhold(keep)
        else:
            await self.release_unused()

    async def withhold(self, seconds: float) -> None:
        """Leave the place taken for *seconds*."""
        await _quietly(lambda: self.lock.extend(seconds, replace_ttl=True))

    async def renew(self) -> None:
        """
        Extend the lease.

        Raises:
            LockError: The place has another holder by now.
            RedisError: The holder is unknown.
        """
        now = asyncio.get_running_loop().time()
        async with in_time():
            await self.lock.reacquire()
        self.good_until = now + self.leases.good_for


class Leases:
    """
    The places of one limit.

    A place is kept for *lease* seconds without being renewed. After its request it
    stays taken for *reuse_after* seconds (the window of a rate, zero for a limit on
    requests in flight), and *release_delay* more if that was cancelled or failed.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Sequence[str],
        *,
        lease: float,
        reuse_after: float,
        release_delay: float,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self.reuse_after = reuse_after
        self.release_delay = release_delay
        self._line = anyio.Lock()
        self.good_for = good_for(lease, release_delay)
        self.ttl = self.good_for + reuse_after

    async def take(self) -> Lease:
        """Wait for a place; first come, first served within this process."""
        async with self._line:
            while True:
                left = await self.seconds_left()
                free = [k for k, s in zip(self._keys, left, strict=True) if s is None]
                random.shuffle(free)

                for key in free:
                    if lease := await self._try(key):
                        return lease

                if not free:
                    await anyio.sleep(self._nap([s for s in left if s is not None]))

    async def seconds_left(self) -> list[float | None]:
        """Return for each place how long it stays taken; None if it is free."""
        async with in_time(), self._redis.pipeline(transaction=False) as pipeline:
            for key in self._keys:
                pipeline.pttl(key)
            left = cast("list[int]", await pipeline.execute())

        return [None if ms < 0 else ms / 1000 for ms in left]

    def free_in(self, seconds: float) -> float:
        """Return in how many seconds a place with this lease may be free."""
        # While its request runs, the lease is longer than it will be afterwards.
        return min(seconds, self.reuse_after)

    async def _try(self, key: str) -> Lease | None:
        lock = Lock(self._redis, key, timeout=self.ttl, thread_local=False)
        token = uuid4().hex
        good_until = asyncio.get_running_loop().time() + self.good_for

        try:
            async with in_time():
                taken = await lock.acquire(blocking=False, token=token)
        except BaseException:
            # The store may have taken the lock all the same.
            await finish_despite_cancel(
                _quietly(lambda: lock.do_release(token.encode()))
            )
            raise

        return Lease(self, lock, good_until) if taken else None

    def _nap(self, left: Sequence[float]) -> float:
        if not self.reuse_after:
            return between(0.01, 0.03)

        return min(self.free_in(seconds) for seconds in left) + between(0, 0.003)


def in_time() -> asyncio.Timeout:
    """
    Return a context that gives the store two seconds.

    redis-py's own `socket_timeout` uses `asyncio.wait_for()`, which before Python
    3.12 can swallow a cancellation.
    """
    return asyncio.timeout(_STORE_TIMEOUT)


async def _quietly(act: Callable[[], Awaitable[object]]) -> None:
    with suppress(LockError, RedisError, OSError):
        async with in_time():
            await act()
