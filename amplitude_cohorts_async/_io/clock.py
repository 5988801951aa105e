"""The time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The time: to read it and to wait for it."""

    def now(self) -> float:
        """Return the time in seconds on a clock that never goes back."""
        ...

    def utcnow(self) -> datetime:
        """Return the date and time, aware and in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*; zero or less only lets other tasks run."""
        ...


class SystemClock:
    """The running loop's clock, and the wall's."""

    def now(self) -> float:
        """Return the loop's time in seconds; it never goes back."""
        return asyncio.get_running_loop().time()

    def utcnow(self) -> datetime:
        """Return the date and time, aware and in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
        await asyncio.sleep(seconds)
