"""
Tells of every wait that is longer than a second, and why: one line each, at INFO.

The only place that does. A retry and a link that is given up have a line of their own,
which says how long the pause is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

import attrs

_logger = logging.getLogger(__name__)

_LONG = 1.0
_AGAIN = 10.0
"""Seconds after which one who waits behind another looks whether it is told still."""

_KEPT = 10_000
"""Waits between steps that are remembered; nobody may ever make the next step."""


def about(seconds: float) -> str:
    """Return a time as text, without more digits than are known."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004


def next_poll_of(request_id: str) -> str:
    """Return the cause of the waits for an export that runs at the service."""
    return f"the next poll of export {request_id}, and so on until it is ready"


@attrs.define(eq=False)
class _Waiting:
    """One who waits, until *timer* is cancelled."""

    cause: Callable[[], str]
    seconds: Callable[[], float] | None
    facts: dict[str, object]
    timer: asyncio.TimerHandle | None = None
    told: str | None = None


@attrs.frozen
class _StepWait:
    """A wait between two steps that was told."""

    who: str
    until: float


class WaitLog:
    """
    The waits of one client.

    Those who wait for the same cause at the same time have one line, and the next one
    when the one that it is about goes on and they still wait.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        # Between steps, by cause; and the cause that was told of each who waits.
        self._between: dict[str, _StepWait] = {}
        self._causes: dict[str, str] = {}

    def tell(self, cause: str, seconds: float, **facts: object) -> None:
        """Tell of a wait that begins, if it is longer than a second."""
        if seconds > _LONG:
            facts |= {"cause": cause, "seconds": seconds}
            _logger.info("waiting %s for %s", about(seconds), cause, extra=facts)

    def tell_between(
        self, who: str, cause: str, seconds: float, *, now: float, **facts: object
    ) -> None:
        """
        Tell of a wait until the next step, unless that was told after an earlier one.

        Args:
            who: Makes the steps.
            now: The time of the caller's clock, in seconds.
        """
        if self._causes.get(who) != cause:
            self.went_on(who)

        told = self._between.get(cause)
        is_mine = told is not None and told.who == who
        is_of_other = told is not None and not is_mine and now < told.until + _AGAIN

        if is_of_other or (seconds <= _LONG and not is_mine):
            return
        if told is not None:
            self.went_on(told.who)
        if len(self._causes) >= _KEPT:
            self.went_on(next(iter(self._causes)))

        self._causes[who] = cause
        self._between[cause] = _StepWait(who, now + seconds)

        if not is_mine:
            self.tell(cause, seconds, **facts)

    def went_on(self, who: str) -> None:
        """Note that nothing is waited for between the steps of *who*."""
        cause = self._causes.pop(who, None)

        if cause is not None:
            del self._between[cause]

    @contextmanager
    def watch(
        self,
        cause: str | Callable[[], str],
        *,
        seconds: Callable[[], float] | None = None,
        **facts: object,
    ) -> Generator[None]:
        """
        Tell of the wait in this context once it has taken a second.

        Args:
            cause: What is waited for; asked when it is told.
            seconds: How long it may still take, if that is known; asked then, too.
        """
        ask = cause if callable(cause) else lambda: cause
        waiting = _Waiting(ask, seconds, facts)
        self._look(waiting, after=_LONG)

        try:
            yield
        finally:
            if waiting.timer is not None:
                waiting.timer.cancel()
            if waiting.told is not None:
                self._told.discard(waiting.told)

    def _look(self, waiting: _Waiting, *, after: float) -> None:
        loop = asyncio.get_running_loop()
        waiting.timer = loop.call_later(after, self._tell_or_wait, waiting)

    def _tell_or_wait(self, waiting: _Waiting) -> None:
        cause = waiting.cause()

        if cause in self._told:
            self._look(waiting, after=_AGAIN)
            return

        self._told.add(cause)
        waiting.told, waiting.timer = cause, None
        seconds = waiting.seconds() if waiting.seconds else 0.0

        if seconds > _LONG:
            self.tell(cause, seconds, **waiting.facts)
        else:
            facts = {**waiting.facts, "cause": cause}
            _logger.info("waiting for %s", cause, extra=facts)
