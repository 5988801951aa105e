"""The clock, and the values that every part of one client uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Protocol

import attrs

from ..events import Event, EventHook
from ..policies import Retrying

_logger = logging.getLogger(__name__)

listening: ContextVar[Callable[[Event], None] | None] = ContextVar(
    "listening", default=None
)
"""Hears the events of one call, beside the hook of its client."""


class Clock(Protocol):
    """Reads the time and waits."""

    def now(self) -> float:
        """Return the time in seconds, on a clock that never goes back."""
        ...

    def utcnow(self) -> datetime:
        """Return the date and time, aware and in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*; zero or less only lets other tasks run."""


class SystemClock:
    """The clock of the running loop, and the system's date."""

    def now(self) -> float:
        """Return the loop's time in seconds."""
        return asyncio.get_running_loop().time()

    def utcnow(self) -> datetime:
        """Return the date and time, aware and in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*."""
        await asyncio.sleep(seconds)


@attrs.frozen(kw_only=True)
class Context:
    """
    Clock, random numbers, retry policy and event hook of one client.

    Attributes:
        rng: Returns numbers from 0 to 1.
        file_mode: The mode of new files; None leaves it to the umask.
        max_size: Bytes of text that a file may hold; None for any number.
    """

    clock: Clock
    rng: Callable[[], float]
    retrying: Retrying
    file_mode: int | None = None
    max_size: int | None = None
    hook: EventHook | None = None

    def emit(self, event: Event) -> None:
        """Pass an event to the hook; the error of a hook is logged and not raised."""
        for hook in (self.hook, listening.get()):
            if hook is None:
                continue

            try:
                hook(event)
            except Exception:
                _logger.warning("event hook failed", exc_info=True)
