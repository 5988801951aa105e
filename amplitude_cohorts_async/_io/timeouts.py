"""Time limits that do not count the time in which the event loop does other things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

_TIMERS = 8
"""
The limit is cut into so many timers: a delay of the loop costs one of them at most.
"""


class LagTolerantTimeout:
    """
    Expires after some seconds, as a context.

    While thousands of tasks begin at once, the loop may read no answer for seconds. A
    usual time limit would be over then, with the answers already there.
    """

    def __init__(
        self, seconds: float, on_expiry: Callable[[], object] | None = None
    ) -> None:
        """
        Begin when the context is entered.

        Args:
            on_expiry: Called when it expires; may be changed until then.
        """
        self.on_expiry = on_expiry
        self.expired = False
        self._seconds_each = seconds / _TIMERS
        self._timers_left = _TIMERS
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._begin_timer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            self._seconds_each, self._end_timer
        )

    def _end_timer(self) -> None:
        self._timers_left -= 1

        if self._timers_left:
            self._begin_timer()
            return

        self.expired = True
        if self.on_expiry is not None:
            self.on_expiry()


@asynccontextmanager
async def lag_tolerant_timeout(seconds: float) -> AsyncGenerator[None]:
    """Raise `TimeoutError` if this context takes longer."""
    loop = asyncio.get_running_loop()

    async with asyncio.timeout(None) as scope:
        with LagTolerantTimeout(seconds, lambda: scope.reschedule(loop.time())):
            yield
