"""
State in the store that all processes of a fleet share.

- ``pause``: nothing starts while it exists.
- ``epoch``: missing if the store is new or has lost its data, leases included. The
  process that notices sets it again, with ``epoch:wait``: nothing starts until
  every lease that may be lost would have ended.
- ``strict``: how far exports are spread out; ``space`` is the current gap.
- ``counted``: polls and files count in the windows, too.
- ``month:``: counters of exports.
"""

from __future__ import annotations

from datetime import datetime
from typing import cast
from uuid import uuid4

import anyio
import attrs
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..._io.limits.shared import between
from .leases import in_time

# Seconds for which a 429 has an effect.
_STRICT_FOR = 1_800
_COUNTED_FOR = 30 * 86_400


@attrs.frozen(kw_only=True)
class Snapshot:
    """
    The shared state at one moment.

    Attributes:
        pause: Seconds until something may start.
        epoch: Changes when the store has lost its data.
        recovery: Seconds until leases that were lost would have ended.
        step: How far exports are spread out, as in `Pace`.
        counted: Whether polls and files count in the windows.
    """

    pause: float
    epoch: bytes | None
    recovery: float
    step: int
    counted: bool


class SharedState:
    """The shared state of one app."""

    def __init__(self, redis: Redis, prefix: str, *, recovery: float) -> None:
        self._redis = redis
        self._prefix = prefix
        self._recovery = recovery

    async def read(self) -> Snapshot:
        """Return the whole state, in one round trip."""
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
        """Return the store's `maxmemory-policy`; None if it does not show it."""
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
        Set the epoch, and make all wait until lost leases would have ended.

        Return whether no other process did so first.
        """
        # The wait comes first: an epoch without it would let all start at once.
        ms = int(self._recovery * 1000)
        async with in_time():
            await self._redis.set(self._key("epoch:wait"), "1", px=ms, nx=True)
            first = await self._redis.set(self._key("epoch"), uuid4().hex, nx=True)

        return bool(first)

    async def pause(self, seconds: float) -> bool:
        """Pause all processes; return whether there was no pause yet."""
        ms = int(seconds * 1000)
        if ms <= 0:
            return True

        async with in_time(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(self._key("pause"), "1", px=ms, nx=True)
            pipeline.pexpire(self._key("pause"), ms, gt=True)
            first, _ = await pipeline.execute()

        return bool(first)

    async def spread_out(self) -> None:
        """Spread exports out further, for half an hour at least."""
        async with in_time(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.incr(self._key("strict"))
            pipeline.expire(self._key("strict"), _STRICT_FOR)
            await pipeline.execute()

    async def count_all(self) -> None:
        """Make polls and files count in the windows from now on."""
        async with in_time():
            await self._redis.set(self._key("counted"), "1", ex=_COUNTED_FOR)

    async def take_space(self, seconds: float) -> None:
        """Wait for the current gap to end, and begin the next one."""
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

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"
