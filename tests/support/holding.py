"""A blocking call that is held while a test cancels whoever waits for it."""

from __future__ import annotations

import asyncio
import threading


class Held:
    """Holds a call in a worker thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._released = threading.Event()

    def hold(self) -> None:
        """Wait, in the call's thread, until the task is cancelled."""
        self._loop.call_soon_threadsafe(self._reached.set)
        self._released.wait(10)

    async def cancel_meanwhile(self, task: asyncio.Task[object]) -> None:
        """Cancel a task while a call of its is held, and wait until it has ended."""
        await self._reached.wait()
        task.cancel()
        await asyncio.sleep(0.01)
        self._released.set()
        await asyncio.wait([task])

        assert task.cancelled()
