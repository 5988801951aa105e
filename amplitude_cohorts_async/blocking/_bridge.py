"""Joins a blocking client to the one in the loop, which is another after a fork."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

import attrs

from .._client import CohortsClient as AsyncClient
from .._client import is_open, renewed
from ._calls import Call, HookRelay
from ._portal import Portal, current_portal

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


@attrs.frozen
class Calls:
    """Makes the calls of one client in one process."""

    portal: Portal
    relay: HookRelay

    def call(self) -> Call:
        """Return a call of this thread."""
        return Call(self.portal, self.relay)

    def runner(self) -> TaskRunner:
        """Return a task for calls."""
        return TaskRunner(self)


class Bridge:
    """A client in the loop, and the calls to it."""

    def __init__(self, client: AsyncClient, relay: HookRelay) -> None:
        self._client = client
        self._relay = relay
        self._portal: Portal | None = None

    @property
    def portal(self) -> Portal:
        """The portal of this process, for whose loop there is a client then."""
        portal = current_portal()

        if self._portal is not portal:
            with portal.lock:
                if self._portal is not None and self._portal is not portal:
                    self._client = renewed(self._client)
                self._portal = portal
                portal.opened(self._client)

        return portal

    @property
    def client(self) -> AsyncClient:
        """The client for the loop of this process."""
        _ = self.portal

        return self._client

    @property
    def is_open(self) -> bool:
        """Whether there are connections to close."""
        return is_open(self._client)

    def calls(self) -> Calls:
        """Return what makes calls in this process."""
        return Calls(self.portal, self._relay)

    def call(self) -> Call:
        """Return a call of this thread."""
        return self.calls().call()

    def close(self) -> None:
        """Close the client."""
        portal = self.portal
        self.call().run(self._client.aclose)
        portal.closed(self._client)

    def drop(self) -> None:
        """Close the client without waiting."""
        if self._portal is not None:
            self._portal.drop(self._client)

    def __repr__(self) -> str:
        return repr(self._client)


class TaskRunner:
    """
    A task of the loop that makes calls one after another.

    An async context wants to be entered, used and left in one task.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._portal = calls.portal
        self._waiting: asyncio.Queue[Call | None] = asyncio.Queue()
        self._is_begun = False
        self._is_closed = False
        # What is open in the task, and is left at the end of the process.
        self.leaving: Callable[[BaseException], Awaitable[object]] | None = None

    def run(
        self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what an async function returns in the task."""
        call = self._calls.call()

        if self._is_closed:
            # What is read too late says so itself.
            return call.run(function, *args, **kwargs)

        return call.run_with(self._start, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """End the task, after the calls that it has."""
        if not self._is_closed and not self._portal.is_gone:
            self._portal.start(lambda: self._waiting.put_nowait(None))

        self._is_closed = True

    def leave(self, close: Callable[[], Awaitable[object]]) -> None:
        """Close what was read here, and end the task."""
        if self._portal.is_gone:
            return  # the task does it, in the process that has it

        if self._portal.is_here:
            # A collector called: nothing can be waited for, and the loop closes it.
            self._waiting.put_nowait(None)
            return

        try:
            self.run(close)
        finally:
            self.leaving = None
            self.close()

    def _start(self, call: Call) -> None:
        # In one step of the loop: Ctrl-C may come between two.
        self._portal.start(partial(self._accept, call))

    async def _accept(self, call: Call) -> None:
        self._waiting.put_nowait(call)

        if not self._is_begun:
            self._is_begun = True
            await self._serve()

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checkers
        self._portal.working(task)

        try:
            while (call := await self._waiting.get()) is not None:
                await call.execute()
                if self._portal.is_stopping:
                    await self._abandon(asyncio.CancelledError())
                    return
        except asyncio.CancelledError as error:
            await self._abandon(error)

    async def _abandon(self, error: BaseException) -> None:
        if self.leaving is not None:
            await self.leaving(error)


class BlockingContext(AbstractContextManager[U], Generic[T, U]):
    """An async context of the loop, as one of the calling thread."""

    def __init__(
        self,
        bridge: Bridge,
        make: Callable[[], AbstractAsyncContextManager[T]],
        wrap: Callable[[TaskRunner, T], U],
    ) -> None:
        self._runner = bridge.calls().runner()
        self._make = make
        self._wrap = wrap
        self._context: AbstractAsyncContextManager[T] | None = None

    def __enter__(self) -> U:
        async def enter() -> T:
            """Make and enter the context, in its task."""
            context = self._make()
            value = await context.__aenter__()
            self._context = context
            self._runner.leaving = lambda error: context.__aexit__(
                type(error), error, error.__traceback__
            )
            return value

        try:
            return self._wrap(self._runner, self._runner.run(enter))
        except BaseException as error:
            # The context may have opened while the thread was interrupted.
            if self._context is None:
                self._runner.close()
            else:
                self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        context, self._context = self._context, None

        if context is None:
            return None

        async def leave() -> bool | None:
            """Leave the context, in its task."""
            self._runner.leaving = None
            return await context.__aexit__(kind, error, trace)

        try:
            return self._runner.run(leave)
        finally:
            self._runner.close()
