"""A job store in Redis 7 or Valkey, for a fleet."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Self, TypeVar, cast

import anyio
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, WatchError

from ..._core.job_rows import Rows
from ..._core.secret import hidden
from ..._io.jobs.base import JobStore, Work
from ..._io.per_loop import PerLoop
from ..._io.stores import random_delay
from ...errors import JobStoreUnavailableError
from .connecting import checked_url, shown
from .server import Server

T = TypeVar("T")

_KEPT = 100 * 86_400
"""Seconds for which rows are kept after their last change: longer than any is used."""


class RedisJobStore(JobStore):
    """
    Keeps rows in a store that the processes of a fleet share.

    As durable as the store: with an append-only file and ``appendfsync always`` it
    survives a loss of power, with the usual ``everysec`` it may lose the last second.
    """

    durable = True
    # Until the URL is checked: a traceback may show it, too.
    _shown = "nothing yet"

    def __init__(self, url: str) -> None:
        """Describe the store; nothing is sent yet."""
        url = hidden(url)
        self._shown = shown(checked_url(url))
        self._servers = PerLoop(partial(Server, url))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Build the store, as in "redis://localhost:6379/0"; nothing is sent yet.

        A `RedisLimiter` brings one by itself.

        Raises:
            ConfigurationError: It is no URL of a store.
        """
        url = hidden(url)

        return cls(url)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._shown}>"

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run *work* on the rows of a group, atomically; see `JobStore`."""
        # If another process changes the same rows meanwhile, this starts again. Calls
        # of one process take turns: a hundred at once took more than 30 s otherwise.
        async with self.lock(f"rows of {app}: {group}"):
            while True:
                try:
                    async with self._connection(app) as redis, redis.pipeline() as pipe:
                        return await _transact(pipe, app, group, work)
                except WatchError:
                    await anyio.sleep(random_delay(0.001, 0.02))

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups of an app that have rows."""
        async with self._connection(app) as redis:
            names = await redis.smembers(_key(app))

        return sorted(name.decode() for name in cast("set[bytes]", names))

    async def aclose(self) -> None:
        """Close the connections of the running loop; may be called twice."""
        if server := self._servers.pop():
            await server.aclose()

    @asynccontextmanager
    async def _connection(self, app: str) -> AsyncGenerator[Redis]:
        try:
            async with self._servers.get().connection(app) as redis:
                yield redis
        except WatchError:
            raise
        except (RedisError, OSError) as error:
            raise JobStoreUnavailableError(
                f"{self._shown}, which keeps the exports, did not answer "
                f"({type(error).__name__}); nothing was sent, trying again is safe"
            ) from error


async def _transact(pipe: Pipeline, app: str, group: str, work: Work[T]) -> T:
    key = _key(app, group)
    await pipe.watch(key)
    found = cast("dict[bytes, bytes]", await pipe.hgetall(key))
    seconds, micros = await pipe.time()  # pyright: ignore[reportUnknownMemberType]

    before = {name.decode(): text.decode() for name, text in found.items()}
    rows = dict(before)
    result = work(rows, seconds + micros / 1e6)

    if rows != before:
        _store(pipe, app, group, before, rows)
        await pipe.execute()

    return result


def _store(pipe: Pipeline, app: str, group: str, before: Rows, after: Rows) -> None:
    key = _key(app, group)
    pipe.multi()  # type: ignore[no-untyped-call]

    if gone := before.keys() - after.keys():
        pipe.hdel(key, *gone)
    for name in after.keys() - gone:
        if before.get(name) != after[name]:
            pipe.hset(key, name, after[name])
    if after:
        pipe.sadd(_key(app), group)
        pipe.expire(key, _KEPT)
    else:
        pipe.srem(_key(app), group)


def _key(app: str, group: str | None = None) -> str:
    # The braces keep all keys of an app on one machine of a cluster.
    of_app = f"cohorts:{{{app}}}:jobs"

    return (
        of_app
        if group is None
        else f"{of_app}:{sha256(group.encode()).hexdigest()[:16]}"
    )
