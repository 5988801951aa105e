"""The store of one limiter: its connections by event loop, locks and counters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import urlsplit

import anyio
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import LockError, RedisError

from ..._core.pacing import binding_rates, reuse_after
from ..._io.cancellation import background, finish_despite_cancel
from ..._io.limits.shared import AppName
from ...errors import ConfigurationError, LimiterUnavailableError
from ...limits import Limits
from .leases import Lease, Leases
from .shared_state import SharedState, Snapshot

T = TypeVar("T")

# redis-py would read its own version from disk for each connection.
_UNNAMED: dict[str, Any] = (
    {"driver_info": None}
    if find_spec("redis.driver_info")
    else {"lib_name": None, "lib_version": None}
)


class PerLoop(Generic[T]):
    """One object for each event loop that is not closed, made at first use."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Return that of the running loop."""
        loop = asyncio.get_running_loop()

        if loop not in self._made:
            # In steps that other threads may come between.
            for old in list(self._made):
                if old.is_closed():
                    self._made.pop(old, None)
            self._made[loop] = self._make()

        return self._made[loop]

    def pop(self) -> T | None:
        """Return that of the running loop, if there is one, and forget it."""
        return self._made.pop(asyncio.get_running_loop(), None)


class Connection:
    """The connections, places and waiting lines of one event loop."""

    def __init__(self, url: str, prefix: str, limits: Limits, lease: float) -> None:
        self.redis = connect(url)
        self._prefix = prefix
        self._lease = lease
        self._release_delay = limits.release_delay
        self.line = anyio.Lock()
        self.snapshot: Snapshot | None = None
        self.is_checked = False
        self.windows = {
            rate: self._leases(f"w{rate.per:g}", rate.count, reuse_after(rate, limits))
            for rate in binding_rates(limits.exports)
        }
        self.slots = self._leases("c", limits.in_flight)
        self.recovery = max(pool.ttl for pool in [*self.windows.values(), self.slots])
        self.state = SharedState(self.redis, prefix, recovery=self.recovery)

    def lock(self, name: str) -> Leases:
        """Return the single place of a lock."""
        return self._leases(name, 1)

    def _leases(self, name: str, count: int, reuse_after: float = 0.0) -> Leases:
        return Leases(
            self.redis,
            [f"{self._prefix}:{name}:{number}" for number in range(count)],
            lease=self._lease,
            reuse_after=reuse_after,
            release_delay=self._release_delay,
        )


class Store:
    """
    Connects each event loop, renews leases, counts, and translates errors.

    Attributes:
        app: The name of the app in the keys.
    """

    def __init__(
        self, url: str, *, app: str | None, limits: Limits, lease: float
    ) -> None:
        """Describe the store; nothing is sent."""
        self.app = AppName(app, stated_by="from_url(..., app=...)")
        self._url = checked_url(url)
        self._limits = limits
        self._lease = lease
        self._connections = PerLoop(self._connect)

    def connection(self) -> Connection:
        """
        Return the connection of the running loop.

        Raises:
            ConfigurationError: The app is not known yet.
        """
        return self._connections.get()

    async def aclose(self) -> None:
        """Close the connections of the running loop; may be called twice."""
        if made := self._connections.pop():
            await made.redis.aclose()

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter and return its value; it is dropped after *until*."""
        with self.translated():
            return await self.connection().state.add(name, by, until=until)

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncGenerator[None]:
        """
        Wait for a lock of the fleet, and hold it.

        Raises:
            LimiterUnavailableError: The store is unavailable, or the lock was lost.
        """
        with self.translated():
            lease = await self.connection().lock(name).take()

        try:
            async with self.kept([lease]):
                yield
        finally:
            await finish_despite_cancel(lease.end(clean=True))

    @asynccontextmanager
    async def kept(self, leases: Sequence[Lease]) -> AsyncGenerator[None]:
        """Renew the leases of a long request; cancel the request if one is lost."""
        with anyio.CancelScope() as scope:
            async with background(self._renew(leases, scope)):
                yield

        if scope.cancelled_caught:
            raise LimiterUnavailableError(
                f"{self} gave this request's place to another process while it was "
                "running; it was cancelled, but may have taken effect"
            )

    def _connect(self) -> Connection:
        prefix = f"cohorts:{{{self.app.known()}}}"

        return Connection(self._url, prefix, self._limits, self._lease)

    async def _renew(self, leases: Sequence[Lease], scope: anyio.CancelScope) -> None:
        now = asyncio.get_running_loop().time

        while True:
            await anyio.sleep(self._lease / 2)
            try:
                for lease in leases:
                    await lease.renew()
            except LockError:
                scope.cancel()
            except (RedisError, OSError):
                if any(lease.good_until < now() for lease in leases):
                    scope.cancel()

    @contextmanager
    def translated(self) -> Generator[None]:
        """Raise `LimiterUnavailableError` for the errors of the store."""
        try:
            yield
        except (RedisError, OSError) as error:
            self.refuse(error)

    def refuse(self, error: Exception) -> NoReturn:
        """Raise `LimiterUnavailableError` for an error of the store."""
        raise LimiterUnavailableError(
            f"{self} did not answer whether a place is free "
            f"({type(error).__name__}); nothing was sent, trying again is safe"
        ) from error

    def __str__(self) -> str:
        return shown(self._url)


def connect(url: str) -> Redis:
    """Return a client; nothing is sent yet."""
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        socket_timeout=None,  # see `in_time`
        **_UNNAMED,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 3),
    )


def shown(url: str) -> str:
    """Return how messages name a store: without its user and password."""
    parts = urlsplit(url)
    host = parts.hostname or parts.path

    return f"the store at {host}:{parts.port}" if parts.port else f"the store {host}"


def checked_url(url: str) -> str:
    """Return a URL of a store; raise `ConfigurationError` if redis-py refuses it."""
    try:
        # All that redis-py would find wrong with it later on; this connects to nothing.
        pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            url, **_UNNAMED
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError, RedisError):
        # Without the cause, whose text may quote a part of the password.
        raise ConfigurationError(
            "this is no URL of a store: write redis://, rediss:// or unix://, a host "
            "and a port, as in redis://localhost:6379/0, and only options that "
            "redis-py knows; a user or a password is percent-encoded"
        ) from None

    return url
