"""
State in the store that all processes of a fleet share.

- ``pause``: nothing starts while it exists.
- ``epoch``: marks that the store remembers. Without it the store is new or has
  lost its data, leases included: the process that notices puts it back with
  ``epoch:wait``, and nothing starts before every lease that may be lost would
  have run out.
- ``strict``: how far exports are spread out; ``space`` is the present gap.
- ``counted``: polls and files count in the windows, too.
- ``month:``, ``job:``: counters, and tokens of running exports.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import cast
from uuid import uuid4

import anyio
import attrs
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockNotOwnedError, ResponseError

from .leases import between, in_time

# Seconds for which a 429 of the service has an effect.
_STRICT_FOR = 1_800
_COUNTED_FOR = 30 * 86_400


@attrs.frozen(kw_only=True)
class Snapshot:
    """
    The shared state at one moment.

    Attributes:
        pause: Seconds until something may start.

        epoch: Names the store's present memory.

        recovery: Seconds until leases that were lost would have run out.

        step: How far exports are spread out.

        counted: Whether polls and files count in the windows.
    """

    pause: float
    epoch: bytes | None
    recovery: float
    step: int
    counted: bool


class SharedState:
    """Reads and sets the state."""

    def __init__(self, redis: Redis, prefix: str, *, recovery: float) -> None:
        self._redis = redis
        self._prefix = prefix
        self._recovery = recovery

    async def read(self) -> Snapshot:
        """Return all of it, in one round trip."""
        async with in_time(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.pttl(self._key("pause"))
            pipeline.get(self._key("epoch"))
            pipeline.pttl(self._key("epoch:wait"))
            pipeline.get(self._key("strict"))
            pipeline.exists(self._key("counted"))
            pause, epoch, recovery, step, counted = await pipeline.execute()

        return Snapshot(
            pause=max(0, cast("int", pause)) / 1000,
            epoch=cast("bytes | None", epoch),
            recovery=max(0, cast("int", recovery)) / 1000,
            step=int(step or 0),
            counted=bool(counted),
        )

    async def policy(self) -> str | None:
        """Return what the store does when its memory is full; None if it hides that."""
        try:
            async with in_time():
                answer = await self._redis.config_get(  # pyright: ignore[reportUnknownMemberType]
                    "maxmemory-policy"
                )
        except ResponseError:
            return None

        return cast("dict[str, str]", answer).get("maxmemory-policy")

    async def begin_epoch(self) -> bool:
        """
        Put the epoch back, and make all wait until lost leases would be over.

        Returns:
            Whether no other process did so first.
        """
        # The wait comes first: an epoch without it would let all start at once.
        ms = int(self._recovery * 1000)
        async with in_time():
            await self._redis.set(self._key("epoch:wait"), "1", px=ms, nx=True)
            first = await self._redis.set(self._key("epoch"), uuid4().hex, nx=True)

        return bool(first)

    async def pause(self, seconds: float) -> bool:
        """Make all pause; return whether there was no pause yet."""
        ms = int(seconds * 1000)
        if ms <= 0:
            return True

        async with in_time(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(self._key("pause"), "1", px=ms, nx=True)
            pipeline.pexpire(self._key("pause"), ms, gt=True)
            first, _ = await pipeline.execute()

        return bool(first)

    async def spread_out(self) -> None:
        """Make exports keep a longer distance, for half an hour at least."""
        async with in_time(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.incr(self._key("strict"))
            pipeline.expire(self._key("strict"), _STRICT_FOR)
            await pipeline.execute()

    async def count_all(self) -> None:
        """Make polls and files count in the windows from now on."""
        async with in_time():
            await self._redis.set(self._key("counted"), "1", ex=_COUNTED_FOR)

    async def take_space(self, seconds: float) -> None:
        """Wait for the present gap to end, and begin the next one."""
        key = self._key("space")
        ms = int(seconds * 1000)

        while True:
            async with in_time():
                if await self._redis.set(key, "1", px=ms, nx=True):
                    return
                left = await self._redis.pttl(key)

            await anyio.sleep(max(0, left) / 1000 + between(0.001, 0.01))

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter and return its value."""
        key = self._key(f"month:{name}")

        async with in_time(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.incrby(key, by)
            pipeline.expireat(key, until)
            count, _ = await pipeline.execute()

        return int(count)

    async def find(self, name: str) -> str | None:
        """Return a note, if there is one."""
        async with in_time():
            note = cast("bytes | None", await self._redis.get(self._key(name)))

        return None if note is None else note.decode()

    async def put(self, name: str, note: str, *, seconds: float) -> None:
        """Leave a note for so long."""
        async with in_time():
            await self._redis.set(self._key(name), note, px=int(seconds * 1000))

    async def remove(self, name: str, note: str) -> None:
        """Remove a note, unless it is another one by now."""
        # A note is what a lock is to redis-py: a key with its owner's token.
        lock = Lock(self._redis, self._key(name), thread_local=False)
        async with in_time():
            with suppress(LockNotOwnedError):
                await lock.do_release(note.encode())

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"
