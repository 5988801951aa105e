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
    """
    Turns waiting into passing of time.
    """

    now = 0.0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """
        Tell what is ready, at once.
        """
        ready = super().select(0)

        if not ready and timeout is None:
            raise RuntimeError("every task waits for something that never comes")
        if not ready and timeout:
            self.now += timeout

        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    The loop; its time starts at zero.
    """

    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        """
        Tell the virtual time.
        """
        return self._no_wait.now


def run_virtually(main: Coroutine[object, object, T]) -> T:
    """
    Run *main* like `asyncio.run()`, in virtual time.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
