"""One object for each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One object for each event loop that is not closed, made at first use."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Return that of the running loop."""
        loop = asyncio.get_running_loop()

        if loop not in self._made:
            # In steps that other threads may come between.
            for old in list(self._made):
                if old.is_closed():
                    self._made.pop(old, None)
            self._made[loop] = self._make()

        return self._made[loop]

    def pop(self) -> T | None:
        """Return that of the running loop, if there is one, and forget it."""
        return self._made.pop(asyncio.get_running_loop(), None)
