"""Time limits that do not count the time in which the event loop does other things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

_STEPS = 8
"""
The limit is cut into so many timers: a delay of the loop costs one of them at most.
"""


class Patience:
    """
    Runs out after some seconds, as a context.

    While thousands of tasks begin at once, the loop may read no answer for seconds. A
    usual time limit would be over then, with the answers already there.
    """

    def __init__(
        self, seconds: float, then: Callable[[], object] | None = None
    ) -> None:
        """
        Begin when the context is entered.

        Args:
            then: Called when it runs out; may be changed until then.
        """
        self.then = then
        self.is_over = False
        self._step = seconds / _STEPS
        self._left = _STEPS
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._step, self._pass)

    def _pass(self) -> None:
        self._left -= 1

        if self._left:
            self._wait()
            return

        self.is_over = True
        if self.then is not None:
            self.then()


@asynccontextmanager
async def patiently(seconds: float) -> AsyncGenerator[None]:
    """Raise `TimeoutError` if this context takes longer."""
    loop = asyncio.get_running_loop()

    async with asyncio.timeout(None) as scope:
        with Patience(seconds, lambda: scope.reschedule(loop.time())):
            yield
