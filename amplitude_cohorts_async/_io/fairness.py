"""
Fairness among many apps that use one thing: a thread, or a few connections.

Each app has a queue of its own, and the queues are served in turn. So a question of
one app waits for one question of each other app at most, however many those want to
ask. What holds a place meanwhile, or gives one back, comes before all that only wants
one: it has a lease to renew.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """What waits, in a queue for each app; and the same for what is urgent."""

    def __init__(self) -> None:
        self._urgent: OrderedDict[str, deque[T]] = OrderedDict()
        self._others: OrderedDict[str, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._urgent or self._others)

    def put(self, app: str, item: T, *, urgent: bool = False) -> None:
        """Add an item at the end of the app's queue."""
        queues = self._urgent if urgent else self._others
        queues.setdefault(app, deque()).append(item)

    def get(self) -> T:
        """Take the first item of the app whose turn it is."""
        queues = self._urgent or self._others
        app, queue = queues.popitem(last=False)
        item = queue.popleft()

        if queue:
            queues[app] = queue

        return item


class FairSemaphore:
    """Lets so many tasks of one event loop go on at a time; the apps take turns."""

    def __init__(self, value: int) -> None:
        self._value = value
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    @asynccontextmanager
    async def acquire(self, app: str, *, urgent: bool = False) -> AsyncGenerator[None]:
        """Wait until it is the app's turn; it is over when the context is left."""
        if self._value:
            self._value -= 1
        else:
            await self._wait(app, urgent=urgent)

        try:
            yield
        finally:
            self._release()

    def fail_waiters(self, error: Callable[[], Exception]) -> None:
        """Raise an error in all that wait."""
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
            # If the turn came in the moment of the cancellation, the next one has it.
            if not future.cancelled() and future.exception() is None:
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            future = self._waiting.get()
            if not future.done():
                future.set_result(None)
                return

        self._value += 1
