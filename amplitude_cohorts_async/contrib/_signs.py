"""
Signs in the store that all of a fleet's processes heed.

- ``pause``: nobody starts before it is gone.
- ``epoch``: the store remembers. Without it the store is new or has lost its
  data, leases included: whoever notices puts it back with ``epoch:wait``, and
  nobody starts before every lease that may be lost would have run out.
- ``strict``: how far exports are spread out; ``space`` is the present gap.
- ``counted``: polls and files count in the windows, too.
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

from ._leases import in_time, somewhere

# How long the service's complaints are heeded, in seconds.
_STRICT_FOR = 1_800
_COUNTED_FOR = 30 * 86_400


@attrs.frozen(kw_only=True)
class Notice:
    """
    The signs at one moment.

    Attributes:
        pause: Seconds nobody may start yet.

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


class Signs:
    """
    Reads and sets the signs.
    """

    def __init__(self, redis: Redis, prefix: str, *, recovery: float) -> None:
        self._redis = redis
        self._prefix = prefix
        self._recovery = recovery

    async def look(self) -> Notice:
        """
        Read all signs in one round trip.
        """
        async with in_time(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.pttl(self._key("pause"))
            pipeline.get(self._key("epoch"))
            pipeline.pttl(self._key("epoch:wait"))
            pipeline.get(self._key("strict"))
            pipeline.exists(self._key("counted"))
            pause, epoch, recovery, step, counted = await pipeline.execute()

        return Notice(
            pause=max(0, cast("int", pause)) / 1000,
            epoch=cast("bytes | None", epoch),
            recovery=max(0, cast("int", recovery)) / 1000,
            step=int(step or 0),
            counted=bool(counted),
        )

    async def policy(self) -> str | None:
        """
        Tell what the store does when its memory is full; None if it keeps that.
        """
        try:
            async with in_time():
                told = await self._redis.config_get(  # pyright: ignore[reportUnknownMemberType]
                    "maxmemory-policy"
                )
        except ResponseError:
            return None

        return cast("dict[str, str]", told).get("maxmemory-policy")

    async def begin_epoch(self) -> bool:
        """
        Put the epoch back, and have everybody wait out what may be lost.

        Returns:
            Whether nobody else did so first.
        """
        # The wait comes first: an epoch without it would let all start at once.
        ms = int(self._recovery * 1000)
        async with in_time():
            await self._redis.set(self._key("epoch:wait"), "1", px=ms, nx=True)
            first = await self._redis.set(self._key("epoch"), uuid4().hex, nx=True)

        return bool(first)

    async def pause(self, seconds: float) -> bool:
        """
        Have everybody pause; tell whether nobody had ordered a pause yet.
        """
        ms = int(seconds * 1000)
        if ms <= 0:
            return True

        async with in_time(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(self._key("pause"), "1", px=ms, nx=True)
            pipeline.pexpire(self._key("pause"), ms, gt=True)
            first, _ = await pipeline.execute()

        return bool(first)

    async def spread_out(self) -> None:
        """
        Have exports keep a longer distance, for half an hour at least.
        """
        async with in_time(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.incr(self._key("strict"))
            pipeline.expire(self._key("strict"), _STRICT_FOR)
            await pipeline.execute()

    async def count_all(self) -> None:
        """
        Have polls and files count in the windows from now on.
        """
        async with in_time():
            await self._redis.set(self._key("counted"), "1", ex=_COUNTED_FOR)

    async def take_space(self, seconds: float) -> None:
        """
        Wait for the present gap to end, and begin the next one.
        """
        key = self._key("space")
        ms = int(seconds * 1000)

        while True:
            async with in_time():
                if await self._redis.set(key, "1", px=ms, nx=True):
                    return
                left = await self._redis.pttl(key)

            await anyio.sleep(max(0, left) / 1000 + somewhere(0.001, 0.01))

    async def tally(self, name: str, by: int, *, until: datetime) -> int:
        """
        Add to a counter.
        """
        key = self._key(f"month:{name}")

        async with in_time(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.incrby(key, by)
            pipeline.expireat(key, until)
            count, _ = await pipeline.execute()

        return int(count)

    async def find(self, name: str) -> str | None:
        """
        Read a note.
        """
        async with in_time():
            note = cast("bytes | None", await self._redis.get(self._key(name)))

        return None if note is None else note.decode()

    async def put(self, name: str, note: str, *, seconds: float) -> None:
        """
        Leave a note for so long.
        """
        async with in_time():
            await self._redis.set(self._key(name), note, px=int(seconds * 1000))

    async def remove(self, name: str, note: str) -> None:
        """
        Take a note away, unless it is another one by now.
        """
        # A note is what a lock is to redis-py: a key with its owner's token.
        lock = Lock(self._redis, self._key(name), thread_local=False)
        async with in_time():
            with suppress(LockNotOwnedError):
                await lock.do_release(note.encode())

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"
