"""The clock, and the values that every part of one client uses."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Protocol

import attrs

from .._core.tokens import ExportRef, checked_traceparent
from ..errors import CohortsError
from ..events import Event, EventHook, Phase, PhaseEnded, PhaseStarted, TracingHook
from ..policies import Retrying
from .waits import WaitLog

_logger = logging.getLogger(__name__)

_numbers = itertools.count(1)

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


@attrs.define
class PhaseResult:
    """What becomes known of a phase while it lasts."""

    request_id: str | None = None
    traceparent: str | None = None
    error: BaseException | None = None
    rows: int | None = None
    size: int | None = None

    def is_about(self, ref: ExportRef) -> None:
        """Note which export it is about."""
        self.request_id, self.traceparent = ref.request_id, ref.traceparent


@attrs.frozen(kw_only=True)
class Context:
    """
    Clock, random numbers, retry policy and event hook of one client.

    Attributes:
        rng: Returns numbers from 0 to 1.
        file_mode: The mode of new files; None leaves it to the umask.
        max_size: Bytes of text that a file may hold; None for any number.
        waits: Where long waits are told.
    """

    clock: Clock
    rng: Callable[[], float]
    retrying: Retrying
    file_mode: int | None = None
    max_size: int | None = None
    hook: EventHook | None = None
    waits: WaitLog = attrs.field(factory=WaitLog, eq=False)

    def emit(self, event: Event) -> None:
        """Pass an event to the hook; the error of a hook is logged and not raised."""
        for hook in (self.hook, listening.get()):
            if hook is None:
                continue

            try:
                hook(event)
            except Exception:
                _logger.warning("event hook failed", exc_info=True)

    def traceparent(self) -> str | None:
        """Return the hook's name for the present span, if it has one."""
        if not isinstance(self.hook, TracingHook):
            return None

        try:
            return checked_traceparent(self.hook.traceparent())
        except Exception:
            _logger.warning("event hook failed", exc_info=True)
            return None

    @contextmanager
    def phase(
        self,
        phase: Phase,
        *,
        cohort_id: str | None = None,
        ref: ExportRef | None = None,
        is_stream: bool = False,
    ) -> Generator[PhaseResult]:
        """
        Report that a phase starts, and that it ends when this context is left.

        Args:
            ref: The export, if it is requested; and then *cohort_id* is its own.
        """
        result = PhaseResult()
        if ref is not None:
            result.is_about(ref)

        if self.hook is None:
            yield result
            return

        cohort_id = ref.cohort_id if ref else cohort_id
        number, began = next(_numbers), self.clock.now()
        self.emit(
            PhaseStarted(
                id=number,
                phase=phase,
                cohort_id=cohort_id,
                request_id=result.request_id,
                is_stream=is_stream,
                traceparent=result.traceparent,
            )
        )

        try:
            yield result
        except BaseException as error:
            result.error = error
            raise
        finally:
            failure = result.error
            self.emit(
                PhaseEnded(
                    id=number,
                    phase=phase,
                    cohort_id=cohort_id,
                    request_id=result.request_id,
                    traceparent=result.traceparent,
                    seconds=self.clock.now() - began,
                    error=None if failure is None else type(failure).__name__,
                    reason=str(failure) if isinstance(failure, CohortsError) else "",
                    rows=result.rows,
                    size=result.size,
                )
            )
