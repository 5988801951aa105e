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
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
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


class Turns:
    """
    A turn for each name; a name that nobody wants costs nothing.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._turns: dict[str, tuple[Turn, int]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @asynccontextmanager
    async def of(self, name: str) -> AsyncGenerator[None]:
        """
        Wait until nobody else has this name's turn.
        """
        with self._mutex:
            turn, users = self._turns.get(name, (Turn(), 0))
            self._turns[name] = turn, users + 1

        try:
            async with turn:
                yield
        finally:
            with self._mutex:
                turn, users = self._turns.pop(name)
                if users > 1:
                    self._turns[name] = turn, users - 1
