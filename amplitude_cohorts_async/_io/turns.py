"""
Turns among many apps that use one thing: a thread, or a few connections.

Each app has a line of its own, and the lines take turns. So a question of one app
waits for one question of each other app at most, however many those want to ask. What
holds a place meanwhile, or gives one back, comes before all that only wants one: it
has a lease to renew.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Lines(Generic[T]):
    """What waits, in a line for each app; and the same for what is urgent."""

    def __init__(self) -> None:
        self._urgent: OrderedDict[str, deque[T]] = OrderedDict()
        self._others: OrderedDict[str, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._urgent or self._others)

    def put(self, app: str, item: T, *, urgent: bool = False) -> None:
        """Add an item at the end of the app's line."""
        lines = self._urgent if urgent else self._others
        lines.setdefault(app, deque()).append(item)

    def get(self) -> T:
        """Take the first item of the line whose turn it is."""
        lines = self._urgent or self._others
        app, line = lines.popitem(last=False)
        item = line.popleft()

        if line:
            lines[app] = line

        return item


class Turns:
    """Lets so many tasks of one event loop go on at a time; the apps take turns."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: Lines[asyncio.Future[None]] = Lines()

    @asynccontextmanager
    async def turn(self, app: str, *, urgent: bool = False) -> AsyncGenerator[None]:
        """Wait for a turn of the app, and have it until the context is left."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(app, urgent=urgent)

        try:
            yield
        finally:
            self._pass_on()

    def give_up(self, error: Callable[[], Exception]) -> None:
        """Raise an error in all that wait for a turn."""
        while self._waiting:
            future = self._waiting.get()
            if not future.done():
                future.set_exception(error())

    async def _wait(self, app: str, *, urgent: bool) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.put(app, future, urgent=urgent)

        try:
            await future
        except asyncio.CancelledError:
            # If the turn came in the moment of the cancellation, pass it on.
            if not future.cancelled() and future.exception() is None:
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            future = self._waiting.get()
            if not future.done():
                future.set_result(None)
                return

        self._free += 1
