"""
Waiting in line, for tasks of any event loop in any thread.

anyio's and asyncio's locks belong to one loop; the limits of an app belong to
the whole process. So who waits here waits on a future of its own loop, and
whoever leaves hands over by name.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from types import TracebackType


class Bell:
    """
    Wakes one waiter, once, in whichever loop it waits.
    """

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def ring(self) -> bool:
        """
        Wake the waiter; False says that it had gone.
        """
        if not self._future.set_running_or_notify_cancel():
            return False

        self._future.set_result(None)
        return True

    async def wait(self) -> None:
        """
        Return when the bell has rung.
        """
        await asyncio.wrap_future(self._future)

    def leave(self) -> bool:
        """
        Stop waiting; False says that it is too late, the bell has rung.
        """
        return self._future.cancel()


class Turn:
    """
    A lock whose holders follow each other in the order they came.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._line: deque[Bell] = deque()

    async def __aenter__(self) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return

            place = Bell()
            self._line.append(place)

        try:
            await place.wait()
        except BaseException:
            # Cancelled in the moment the turn came: it goes to the next.
            if not place.leave():
                self._pass_on()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pass_on()

    @property
    def ahead(self) -> int:
        """
        How many a newcomer would have to let go first.
        """
        with self._mutex:
            return len(self._line) + self._taken

    def _pass_on(self) -> None:
        with self._mutex:
            while self._line:
                if self._line.popleft().ring():
                    return

            self._taken = False
