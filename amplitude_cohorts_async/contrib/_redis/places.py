"""
The places and the shared state of one app in Redis 7 or Valkey.

n keys are n places, and who holds a key holds the place. That is redis-py's lock:
`SET NX PX` takes it, the owner's token guards renewal and release, and the store's
clock alone decides when it is over. The other keys:

- ``pause``: nothing starts while it exists.
- ``epoch``: missing if the store is new or has lost its data, leases included. The
  process that notices sets it again, with ``epoch:wait``: nothing starts until
  every lease that may be lost would have ended.
- ``strict``: how far exports are spread out; ``space`` is the current gap.
- ``counted``: polls and files count in the windows, too.
- ``month:``: counters of exports.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast
from uuid import uuid4

import attrs
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError, ResponseError

from ..._io.limits.leases import (
    Held,
    LeaseLostError,
    Pool,
    Snapshot,
    StoreFailedError,
)
from .connecting import in_time

# Seconds for which a 429 has an effect.
_STRICT_FOR = 1_800
_COUNTED_FOR = 30 * 86_400


class RedisPlaces:
    """The places of one app, as one event loop reaches them; see `SharedStore`."""

    def __init__(self, redis: Redis, app: str) -> None:
        self._redis = redis
        # The braces keep all keys of an app on one machine of a cluster.
        self._prefix = f"cohorts:{{{app}}}"

    async def warning(self) -> str | None:
        """Return what is wrong with the eviction policy, where the store shows it."""
        try:
            async with _answer():
                answer = await self._redis.config_get(  # pyright: ignore[reportUnknownMemberType]
                    "maxmemory-policy"
                )
        except StoreFailedError as error:
            if isinstance(error.__cause__, ResponseError):
                return None
            raise

        policy = cast("dict[str, str]", answer).get("maxmemory-policy")
        if policy in {None, "noeviction"}:
            return None

        return (
            "the store may evict places in use; set maxmemory-policy noeviction, which "
            f"is {policy}"
        )

    async def try_take(self, pool: Pool) -> Held | float:
        """Take a place that is free, or return when the first one is."""
        left = await self._left(pool)
        free = [number for number, seconds in enumerate(left) if seconds is None]
        random.shuffle(free)

        for number in free:
            if held := await self._try(pool, number):
                return held

        # Of those that were free, all went to others.
        return 0.0 if free else min(s for s in left if s is not None)

    async def seconds_left(self, pool: Pool) -> list[float]:
        """Return for each place that is taken how long it stays so."""
        return [seconds for seconds in await self._left(pool) if seconds is not None]

    async def read(self) -> Snapshot:
        """Return the whole state, in one round trip."""
        async with _answer(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.pttl(self._key("pause"))
            pipeline.get(self._key("epoch"))
            pipeline.pttl(self._key("epoch:wait"))
            pipeline.get(self._key("strict"))
            pipeline.exists(self._key("counted"))
            pause, epoch, recovery, step, counted = await pipeline.execute()

        return Snapshot(
            pause=max(0, cast("int", pause)) / 1000,
            epoch=None if epoch is None else cast("bytes", epoch).decode(),
            recovery=max(0, cast("int", recovery)) / 1000,
            step=int(step or 0),
            counted=bool(counted),
        )

    async def begin_epoch(self, wait: float) -> bool:
        """Set the epoch, and make all wait until lost leases would have ended."""
        # The wait comes first: an epoch without it would let all start at once.
        ms = int(wait * 1000)
        async with _answer():
            await self._redis.set(self._key("epoch:wait"), "1", px=ms, nx=True)
            first = await self._redis.set(self._key("epoch"), uuid4().hex, nx=True)

        return bool(first)

    async def pause(self, seconds: float) -> bool:
        """Pause all processes; return whether there was no pause yet."""
        ms = int(seconds * 1000)
        if ms <= 0:
            return True

        async with _answer(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(self._key("pause"), "1", px=ms, nx=True)
            pipeline.pexpire(self._key("pause"), ms, gt=True)
            first, _ = await pipeline.execute()

        return bool(first)

    async def spread_out(self) -> None:
        """Spread exports out further, for half an hour at least."""
        async with _answer(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.incr(self._key("strict"))
            pipeline.expire(self._key("strict"), _STRICT_FOR)
            await pipeline.execute()

    async def count_all(self) -> None:
        """Make polls and files count in the windows from now on."""
        async with _answer():
            await self._redis.set(self._key("counted"), "1", ex=_COUNTED_FOR)

    async def try_space(self, seconds: float) -> float:
        """Begin the next gap, or return how long the current one lasts."""
        key = self._key("space")

        async with _answer():
            if await self._redis.set(key, "1", px=int(seconds * 1000), nx=True):
                return 0.0
            left = await self._redis.pttl(key)

        return max(1, left) / 1000

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter and return its value."""
        key = self._key(f"month:{name}")

        async with _answer(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.incrby(key, by)
            pipeline.expireat(key, until)
            count, _ = await pipeline.execute()

        return int(count)

    async def _left(self, pool: Pool) -> list[float | None]:
        async with _answer(), self._redis.pipeline(transaction=False) as pipeline:
            for number in range(pool.count):
                pipeline.pttl(self._place(pool, number))
            left = cast("list[int]", await pipeline.execute())

        return [None if ms < 0 else ms / 1000 for ms in left]

    async def _try(self, pool: Pool, number: int) -> Held | None:
        key = self._place(pool, number)
        lock = Lock(self._redis, key, timeout=pool.ttl, thread_local=False)
        token = uuid4().hex

        try:
            async with _answer():
                taken = await lock.acquire(blocking=False, token=token)
        except StoreFailedError:
            # The store may have taken the lock all the same.
            await _released(lock.do_release(token.encode()))
            raise

        return _HeldLock(lock) if taken else None

    def _place(self, pool: Pool, number: int) -> str:
        return self._key(f"{pool.name}:{number}")

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"


@attrs.frozen(eq=False)
class _HeldLock:
    """A place that this process holds."""

    lock: Lock

    async def extend(self, seconds: float) -> None:
        """Keep the place for *seconds* from now."""
        async with _answer():
            await self.lock.extend(seconds, replace_ttl=True)

    async def release(self) -> None:
        """Free the place."""
        async with _answer():
            await self.lock.release()


@asynccontextmanager
async def _answer() -> AsyncGenerator[None]:
    """Translate the errors of the store, which has two seconds to answer."""
    try:
        async with in_time():
            yield
    except LockError as error:
        raise LeaseLostError from error
    except (RedisError, OSError) as error:
        raise StoreFailedError from error


async def _released(release: Awaitable[None]) -> None:
    try:
        async with _answer():
            await release
    except (LeaseLostError, StoreFailedError):
        pass
