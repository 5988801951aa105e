"""The time, and what every part of one client carries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import attrs

from ..events import Event, EventHook
from ..policies import Retrying

_logger = logging.getLogger(__name__)


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


@attrs.frozen(kw_only=True)
class Context:
    """
    Time, chance, patience, and who hears of events.

    Attributes:
        rng: Returns numbers from 0 to 1.

        retrying: How often a request is tried, and for how long.

        hook: Hears of events; see `emit()`.

        file_mode: The mode of new files; None leaves it to the umask.
    """

    clock: Clock
    rng: Callable[[], float]
    retrying: Retrying
    file_mode: int | None = None
    hook: EventHook | None = None

    def emit(self, event: Event) -> None:
        """
        Pass an event to the hook; a hook that fails is logged and disturbs nothing.
        """
        if self.hook is None:
            return

        try:
            self.hook(event)
        except Exception:
            _logger.warning("event hook failed", exc_info=True)
