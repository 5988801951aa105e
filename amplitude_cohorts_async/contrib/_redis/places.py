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
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime
from typing import cast
from uuid import uuid4

import attrs
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import (
    LockError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from ..._io.limits.leases import (
    Held,
    LeaseLostError,
    Pool,
    Snapshot,
)
from ..._io.stores import StoreFailedError
from .server import Server

# Seconds for which a 429 has an effect.
_STRICT_FOR = 1_800
_COUNTED_FOR = 30 * 86_400


class RedisPlaces:
    """The places of one app, as one event loop reaches them; see `SharedStore`."""

    def __init__(self, server: Server, app: str) -> None:
        self._server = server
        self._app = app
        # The braces keep all keys of an app on one machine of a cluster.
        self._prefix = f"cohorts:{{{app}}}"

    async def warning(self) -> str | None:
        """Return what is wrong with the eviction policy, where the store shows it."""
        try:
            async with self._connection() as redis:
                answer = await _setting(redis, "maxmemory-policy")
        except StoreFailedError as error:
            if isinstance(error.__cause__, ResponseError):
                return None
            raise

        if answer in {None, "noeviction"}:
            return None

        return (
            "the store may evict places in use; set maxmemory-policy noeviction, which "
            f"is {answer}"
        )

    async def try_take(self, pool: Pool, *, urgent: bool = False) -> Held | float:
        """Take a place that is free, or return when the first one is."""
        left = await self._left(pool, urgent=urgent)
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

    async def read(self, *, urgent: bool = False) -> Snapshot:
        """Return the whole state, in one round trip."""
        async with (
            self._connection(urgent=urgent) as redis,
            redis.pipeline(transaction=False) as pipeline,
        ):
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
        async with self._connection() as redis:
            await redis.set(self._key("epoch:wait"), "1", px=ms, nx=True)
            first = await redis.set(self._key("epoch"), uuid4().hex, nx=True)

        return bool(first)

    async def pause(self, seconds: float) -> bool:
        """Pause all processes; return whether there was no pause yet."""
        ms = int(seconds * 1000)
        if ms <= 0:
            return True

        async with (
            self._connection(urgent=True) as redis,
            redis.pipeline(transaction=False) as pipeline,
        ):
            pipeline.set(self._key("pause"), "1", px=ms, nx=True)
            pipeline.pexpire(self._key("pause"), ms, gt=True)
            first, _ = await pipeline.execute()

        return bool(first)

    async def spread_out(self) -> None:
        """Spread exports out further, for half an hour at least."""
        async with (
            self._connection(urgent=True) as redis,
            redis.pipeline(transaction=True) as pipeline,
        ):
            pipeline.incr(self._key("strict"))
            pipeline.expire(self._key("strict"), _STRICT_FOR)
            await pipeline.execute()

    async def count_all(self) -> None:
        """Make polls and files count in the windows from now on."""
        async with self._connection(urgent=True) as redis:
            await redis.set(self._key("counted"), "1", ex=_COUNTED_FOR)

    async def try_space(self, seconds: float) -> float:
        """Begin the next gap, or return how long the current one lasts."""
        key = self._key("space")

        async with self._connection() as redis:
            if await redis.set(key, "1", px=int(seconds * 1000), nx=True):
                return 0.0
            left = await redis.pttl(key)

        return max(1, left) / 1000

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter and return its value."""
        key = self._key(f"month:{name}")

        async with (
            self._connection() as redis,
            redis.pipeline(transaction=True) as pipeline,
        ):
            pipeline.incrby(key, by)
            pipeline.expireat(key, until)
            count, _ = await pipeline.execute()

        return int(count)

    async def _left(self, pool: Pool, *, urgent: bool = False) -> list[float | None]:
        async with (
            self._connection(urgent=urgent) as redis,
            redis.pipeline(transaction=False) as pipeline,
        ):
            for number in range(pool.count):
                pipeline.pttl(self._place(pool, number))
            left = cast("list[int]", await pipeline.execute())

        return [None if ms < 0 else ms / 1000 for ms in left]

    async def _try(self, pool: Pool, number: int) -> Held | None:
        key = self._place(pool, number)
        token = uuid4().hex
        lock: Lock | None = None

        try:
            # At once, while it is free.
            async with self._connection(urgent=True) as redis:
                lock = Lock(redis, key, timeout=pool.ttl, thread_local=False)
                taken = await lock.acquire(blocking=False, token=token)
        except StoreFailedError:
            if lock is not None:
                # The store may have taken it all the same.
                await self._give_back(lock, token)
            raise

        return _HeldLock(self._server, self._app, lock) if taken else None

    async def _give_back(self, lock: Lock, token: str) -> None:
        with suppress(LeaseLostError, StoreFailedError):
            async with self._connection(urgent=True):
                await lock.do_release(token.encode())

    def _connection(
        self, *, urgent: bool = False
    ) -> AbstractAsyncContextManager[Redis]:
        return _connection(self._server, self._app, urgent=urgent)

    def _place(self, pool: Pool, number: int) -> str:
        return self._key(f"{pool.name}:{number}")

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"


async def _setting(redis: Redis, name: str) -> str | None:
    """Return a setting of the store, if the user may see it."""
    try:
        found = await redis.config_get(name)  # pyright: ignore[reportUnknownMemberType]
    except NoPermissionError:
        return None

    return cast("dict[str, str]", found).get(name)


@attrs.frozen(eq=False)
class _HeldLock:
    """A place that this process holds."""

    server: Server
    app: str
    lock: Lock

    async def extend(self, seconds: float) -> None:
        """Keep the place for *seconds* from now."""
        async with _connection(self.server, self.app, urgent=True):
            await self.lock.extend(seconds, replace_ttl=True)

    async def release(self, *, after: float = 0.0) -> None:
        """Free the place in *after* seconds."""
        if after:
            await self.extend(after)
            return

        async with _connection(self.server, self.app, urgent=True):
            await self.lock.release()


@asynccontextmanager
async def _connection(
    server: Server, app: str, *, urgent: bool
) -> AsyncGenerator[Redis]:
    """Yield a client that has one connection, and translate its errors."""
    try:
        async with server.connection(app, urgent=urgent) as redis:
            yield redis
    except LockError as error:
        raise LeaseLostError from error
    except (RedisError, OSError) as error:
        raise StoreFailedError from error
