"""
A few connections for each process, event loop and server.

However many apps there are, their limiters and job stores share them: four at most,
none while nothing was asked for half a minute. They are closed when the last of
their users is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import attrs
from redis import exceptions
from redis.asyncio import Redis

from ..._core.secret import hidden
from ..._io.cancellation import finish_despite_cancel
from ..._io.fairness import FairSemaphore
from ..._io.per_loop import SharedPerLoop
from ..._io.timeouts import lag_tolerant_timeout
from ...errors import ConfigurationError
from .connecting import connect, shown

E = TypeVar("E", bound=Exception)

_TIMEOUT = 2.0
"""Seconds after which a store that has not answered counts as unavailable."""
_MOST_CONNECTIONS = 4
_IDLE_FOR = 30.0

_FAILED = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_REFUSED = (exceptions.AuthenticationError, exceptions.ResponseError)


@attrs.define(eq=False)
class _Connections:
    """The connections to a server that all its users in one event loop share."""

    client: Redis
    semaphore: FairSemaphore = attrs.field(
        factory=lambda: FairSemaphore(_MOST_CONNECTIONS)
    )
    used_at: float = -math.inf
    answered_at: float = -math.inf
    timer: asyncio.TimerHandle | None = None
    closing: asyncio.Task[None] | None = None

    def note_use(self) -> None:
        """Close the connections when nothing is asked for a while."""
        loop = asyncio.get_running_loop()
        self.used_at = loop.time()

        if self.timer is None:
            self.timer = loop.call_later(_IDLE_FOR, self._close_if_idle)

    async def aclose(self) -> None:
        """Close the connections."""
        if self.timer is not None:
            self.timer.cancel()

        await finish_despite_cancel(self.client.aclose())

    def _close_if_idle(self) -> None:
        loop = asyncio.get_running_loop()
        idle_at = self.used_at + _IDLE_FOR
        self.timer = None

        if idle_at > loop.time():
            self.timer = loop.call_at(idle_at, self._close_if_idle)
        else:
            self.closing = loop.create_task(self._close_idle())

    async def _close_idle(self) -> None:
        async with AsyncExitStack() as stack:
            # Nobody may take a connection that is being closed.
            for _ in range(_MOST_CONNECTIONS):
                await stack.enter_async_context(self.semaphore.acquire(""))
            await self.client.connection_pool.disconnect()


_by_server: SharedPerLoop[str, _Connections] = SharedPerLoop(
    lambda url: _Connections(connect(url))
)


class Server:
    """One user's access to a server, in one event loop; nothing is sent yet."""

    def __init__(self, url: str) -> None:
        self._shown = shown(url)
        self._share = _by_server.enter(hidden(url))
        self._connections = self._share.value

    @asynccontextmanager
    async def connection(
        self, app: str, *, urgent: bool = False
    ) -> AsyncGenerator[Redis]:
        """
        Wait for the app's turn, and yield a client that has one connection.

        The store has two seconds to answer then. If it has answered no
        question in that time, all that wait fail at once.

        Args:
            urgent: Whether it comes before what is not.

        Raises:
            TimeoutError: It did not answer.
            ConfigurationError: It refuses the user, the password or the database.
        """
        connections, now = self._connections, asyncio.get_running_loop().time

        async with connections.semaphore.acquire(app, urgent=urgent):
            began = now()
            connections.note_use()

            try:
                # redis-py's own `socket_timeout` uses `asyncio.wait_for()`, which
                # before Python 3.12 can swallow a cancellation.
                async with lag_tolerant_timeout(_TIMEOUT):
                    yield connections.client
            except _REFUSED as error:
                self._check_refusal(error)
                raise _without_frames(error) from None
            except _FAILED as error:
                if connections.answered_at < began:
                    connections.semaphore.fail_waiters(TimeoutError)
                raise _without_frames(error) from None
            else:
                connections.answered_at = now()

    def _check_refusal(self, error: exceptions.RedisError) -> None:
        """Raise `ConfigurationError` if no second try mends that."""
        # One that let us in before is being put back, or another takes over.
        refusal = _refusal(error, is_new=self._connections.answered_at == -math.inf)

        if refusal is not None:
            raise ConfigurationError(
                f"{self._shown} {refusal}: check user, password and database of the URL"
            ) from None

    async def aclose(self) -> None:
        """Close the connections, if this is their last user; may be called twice."""
        if self._share.leave():
            await self._connections.aclose()


def _without_frames(error: E) -> E:
    """Return a copy of an error: in the frames of redis-py the password is a local."""
    return type(error)(*error.args)


def _refusal(error: exceptions.RedisError, *, is_new: bool) -> str | None:
    if isinstance(error, exceptions.NoPermissionError):
        return "does not let the user run a command that is needed"
    if is_new and isinstance(error, exceptions.AuthenticationError):
        return "refused the user or the password"
    if is_new and str(error).startswith("DB index"):
        return "has no such database"

    return None
