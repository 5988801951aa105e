"""
FIFO locks for tasks of any event loop in any thread.

The locks of anyio and asyncio belong to one loop; the limits of an app belong to
the whole process. Here a waiter waits on a future of its own loop, and a lock that
is released passes directly to the next waiter.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager


class Wakeup:
    """A one-shot event for one waiter in any loop."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def set(self) -> bool:
        """Wake the waiter; return False if it has stopped waiting."""
        if not self._future.set_running_or_notify_cancel():
            return False

        self._future.set_result(None)
        return True

    async def wait(self) -> None:
        """Wait until it is set."""
        await asyncio.wrap_future(self._future)

    def cancel(self) -> bool:
        """Stop waiting; return False if it was set before."""
        return self._future.cancel()


class FifoLock:
    """A lock that its waiters get in the order they came."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._is_held = False
        self._waiters: deque[Wakeup] = deque()

    async def __aenter__(self) -> None:
        with self._mutex:
            if not self._is_held:
                self._is_held = True
                return

            wakeup = Wakeup()
            self._waiters.append(wakeup)

        try:
            await wakeup.wait()
        except BaseException:
            # If the lock was passed on in the moment of the cancellation, release it.
            if not wakeup.cancel():
                self._release()
            raise

    async def __aexit__(self, *_exc: object) -> None:
        self._release()

    def _release(self) -> None:
        with self._mutex:
            while self._waiters:
                if self._waiters.popleft().set():
                    return

            self._is_held = False


class KeyedLock:
    """A lock for each key; a key that is not in use takes no memory."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._locks: dict[str, tuple[FifoLock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncGenerator[None]:
        """Wait for the lock of this key, and hold it."""
        with self._mutex:
            lock, users = self._locks.get(key, (FifoLock(), 0))
            self._locks[key] = lock, users + 1

        try:
            async with lock:
                yield
        finally:
            with self._mutex:
                lock, users = self._locks.pop(key)
                if users > 1:
                    self._locks[key] = lock, users - 1
