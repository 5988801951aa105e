"""
A limiter and a job store that the processes of a fleet share in Redis 7 or Valkey.

Each place of each limit is a key that one request holds; see `_redis.places`. The rows
of exports have keys of their own; see `_redis.job_store`. All keys contain a hash of
the app, never an API key. Redis needs `maxmemory-policy noeviction`: what it evicts
would be places in use.

While Redis is unavailable nothing is sent: `LimiterUnavailableError`.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, Self

from .._core.secret import hidden
from .._io.jobs.base import JobStore
from .._io.limits.fleet import FleetLimiter
from .._io.per_loop import PerLoop
from ..errors import MissingExtraError
from ..limits import DOCUMENTED, Limits

try:
    from ._redis.connecting import checked_url, shown
    from ._redis.job_store import RedisJobStore
    from ._redis.places import RedisPlaces
    from ._redis.server import Server
except ModuleNotFoundError as _error:
    raise MissingExtraError("a fleet on Redis", extra="redis") from _error

__all__ = ("RedisJobStore", "RedisLimiter")


class RedisLimiter(FleetLimiter):
    """
    Keeps the limits of one app together with other processes.

    Within a process requests are admitted in the order they came; a place that
    several processes wait for goes to the first that asks. After a store is used
    for the first time, or has lost its data, nothing starts until all it may have
    lost is over: about a minute and a half with the documented limits.
    """

    def __init__(
        self,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        lease: float = 30.0,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> None:
        """Take the parameters of `from_url()`."""
        # The locals of this frame are seen by who shows a traceback with them.
        url = hidden(url)
        self._servers = PerLoop(partial(Server, checked_url(url)))
        self._jobs = RedisJobStore(url)
        super().__init__(
            lambda app: RedisPlaces(self._servers.get(), app),
            shown=shown(url),
            app=app,
            limits=limits,
            lease=lease,
            on_outage=on_outage,
            processes=processes,
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        lease: float = 30.0,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> Self:
        """
        Build the limiter; nothing is sent yet.

        Args:
            url: The store, as in "redis://localhost:6379/0".
            app: A name for the app in the keys; None uses the client's, a hash of
                origin and API key.
            limits: The limits; the same for all processes.
            lease: Seconds after which the place of a process that died is free
                again. While a request runs, its lease is renewed.
            on_outage: None sends nothing while the store is unavailable. "share"
                continues with a fixed share of the limits once everything the
                store held is over; safe while it is unavailable to all processes.
            processes: How many processes share the limits then.

        Raises:
            ConfigurationError: It is no URL of a store, or there are more processes
                than places.
        """
        url = hidden(url)

        return cls(
            url,
            app=app,
            limits=limits,
            lease=lease,
            on_outage=on_outage,
            processes=processes,
        )

    @property
    def job_store(self) -> JobStore:
        """The exports of the fleet."""
        return self._jobs

    async def aclose(self) -> None:
        """Close the connections of the running loop; may be called twice."""
        await super().aclose()
        await self._jobs.aclose()

        if server := self._servers.pop():
            await server.aclose()
