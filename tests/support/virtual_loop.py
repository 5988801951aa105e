"""
An event loop whose time jumps to the next timer when nothing else is to do.

Hours pass in milliseconds, and the same run takes the same course every time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class _NoWait(selectors.DefaultSelector):
    """Turns waiting into passing of time."""

    now = 0.0
    grain = 0.0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Tell what is ready, at once."""
        ready = super().select(0)

        if not ready and timeout is None:
            raise RuntimeError("every task waits for something that never comes")
        if not ready and timeout:
            self.now += timeout

        self.now += self.grain
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; its time starts at zero."""

    def __init__(self, *, grain: float = 0.0) -> None:
        """
        Make the loop.

        Args:
            grain: Seconds that each turn takes. Who asks the time again and
                again until it has moved needs more than zero.
        """
        self._no_wait = _NoWait()
        self._no_wait.grain = grain
        super().__init__(self._no_wait)

    def time(self) -> float:
        """Tell the virtual time."""
        return self._no_wait.now


def run_virtually(main: Coroutine[object, object, T], *, grain: float = 0.0) -> T:
    """Run *main* like `asyncio.run()`, in virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(grain=grain)) as runner:
        return runner.run(main)
