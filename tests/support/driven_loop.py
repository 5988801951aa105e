"""
An event loop whose time jumps, except while an answer of a real server is awaited.

Minutes of limits pass in milliseconds, and what the machine takes for an answer is
next to nothing beside them.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_LOOK_AGAIN = 0.05


class _Driven(selectors.DefaultSelector):
    """Turns waiting into passing of time, unless something real is awaited."""

    now = 0.0
    awaited = 0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, at once or when it is."""
        ready = super().select(0)

        if ready or timeout == 0:
            return ready
        if self.awaited or timeout is None:
            began = time.monotonic()
            ready = super().select(min(timeout or _LOOK_AGAIN, _LOOK_AGAIN))
            self.now += time.monotonic() - began
        else:
            self.now += timeout

        return ready


class DrivenLoop(asyncio.SelectorEventLoop):
    """The loop; its time starts at zero."""

    def __init__(self) -> None:
        self._driven = _Driven()
        super().__init__(self._driven)

    def time(self) -> float:
        """Return the loop's time."""
        return self._driven.now

    @contextmanager
    def in_real_time(self) -> Generator[None]:
        """Let no time be jumped over meanwhile: an answer is awaited."""
        self._driven.awaited += 1
        try:
            yield
        finally:
            self._driven.awaited -= 1


def run_driven(main: Coroutine[object, object, T]) -> T:
    """Run *main* like `asyncio.run()`, in the time of such a loop."""
    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        return runner.run(main)
