"""Time for tests: a clock that jumps instead of waiting, and the real one."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Protocol

import attrs

__all__ = ("Clock", "FakeClock", "SystemClock", "busy", "idle")

# How long, in real seconds, a request in the emulator may stop time.
_MAX_STOP = 1.0


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
    """The real time."""

    def now(self) -> float:
        """Return the time in seconds on a clock that never goes back."""
        return time.monotonic()

    def utcnow(self) -> datetime:
        """Return the date and time, aware and in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
        await asyncio.sleep(max(0.0, seconds))


@attrs.define(eq=False)
class _Sleeper:
    """One task that waits, and the loop to wake it in."""

    deadline: float
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event = attrs.field(factory=asyncio.Event)
    gone: bool = False


class FakeClock:
    """
    A clock for tests: tasks that sleep on it wake in order, without the wait.

    When no task runs any more, time jumps to the earliest deadline. It can be
    shared by tasks, event loops and threads: hand the same one to the client
    and to the emulator, and a test of an hour takes a moment.
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        utc: datetime = datetime(2026, 6, 15, 12, tzinfo=UTC),
        jumps: bool = True,
        flows: bool = False,
        grace: float = 0.002,
    ) -> None:
        """
        Set the clock.

        Args:
            start: What `now()` returns first, in seconds.
            utc: What `utcnow()` returns first; aware.
            jumps: Whether sleeping moves time; without it only `advance()`
                does.
            flows: Whether real time passes too, between the jumps: for code
                under test that keeps a clock of its own.
            grace: Real seconds without any activity before time jumps; more for
                code that works long between two of its awaits.
        """
        if flows and not jumps:
            msg = "a clock that flows has to jump as well; pass jumps=True"
            raise ValueError(msg)

        self._offset = start
        self._zero = utc - timedelta(seconds=start)
        self._jumps = jumps
        self._grace = grace
        self._started = time.monotonic() if flows else None
        self._lock = threading.RLock()
        self._sleepers: list[tuple[float, int, _Sleeper]] = []
        self._numbers = itertools.count()
        self._busy = 0
        self._activity = 0
        self._active_at = time.monotonic()

    def now(self) -> float:
        """Return the time in seconds on a clock that never goes back."""
        if self._started is None:
            return self._offset

        return self._offset + time.monotonic() - self._started

    def utcnow(self) -> datetime:
        """Return the date and time, aware and in UTC."""
        return self._zero + timedelta(seconds=self.now())

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once, and wake the tasks that are due then."""
        if seconds < 0:
            msg = f"time does not go back: {seconds} s"
            raise ValueError(msg)

        with self._lock:
            self._offset += seconds
            self._note_activity()
            self._wake_head()

    async def sleep(self, seconds: float) -> None:
        """Return when *seconds* have passed on this clock."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return

        sleeper = self._enqueue(seconds)

        try:
            while self.now() < sleeper.deadline:
                if self._jumps and self._head() is sleeper:
                    await self._jump_when_quiet(sleeper)
                else:
                    await sleeper.woken.wait()
                    sleeper.woken.clear()
        finally:
            self._dequeue(sleeper)

    @contextmanager
    def busy(self) -> Generator[None]:
        """
        Stop time meanwhile: work is going on that takes no time.

        For one real second at most, so that a body that is sent to a sleeping
        reader does not block both for ever.
        """
        self._count_busy(+1)

        try:
            yield
        finally:
            self._count_busy(-1)

    @contextmanager
    def idle(self) -> Generator[None]:
        """Within `busy()`: let time go on meanwhile."""
        self._count_busy(-1)

        try:
            yield
        finally:
            self._count_busy(+1)

    def _enqueue(self, seconds: float) -> _Sleeper:
        with self._lock:
            sleeper = _Sleeper(self.now() + seconds, asyncio.get_running_loop())
            entry = (sleeper.deadline, next(self._numbers), sleeper)
            heapq.heappush(self._sleepers, entry)
            self._note_activity()

        return sleeper

    def _dequeue(self, sleeper: _Sleeper) -> None:
        with self._lock:
            sleeper.gone = True
            self._note_activity()
            self._wake_head()

    def _head(self) -> _Sleeper | None:
        with self._lock:
            while self._sleepers:
                sleeper = self._sleepers[0][2]

                if not sleeper.gone and not sleeper.loop.is_closed():
                    return sleeper

                heapq.heappop(self._sleepers)

        return None

    def _wake_head(self) -> None:
        # A task that is woken and due leaves, and so wakes the next.
        while head := self._head():
            try:
                head.loop.call_soon_threadsafe(head.woken.set)
            except RuntimeError:  # its loop has closed just now
                head.gone = True
            else:
                return

    async def _jump_when_quiet(self, sleeper: _Sleeper) -> None:
        seen = self._activity
        await asyncio.sleep(self._grace)
        # A loop that was held up runs its timers before what it has just
        # received: give that its turn.
        await asyncio.sleep(0)

        with self._lock:
            if self._activity != seen or self._head() is not sleeper:
                return

            may_stop = time.monotonic() - self._active_at < _MAX_STOP

            if self._busy and may_stop:
                return

            # To the very deadline: now + (deadline - now) may miss it by a bit.
            flowed = self.now() - self._offset
            self._offset = max(self._offset, sleeper.deadline - flowed)

    def _count_busy(self, by: int) -> None:
        with self._lock:
            self._busy += by
            self._note_activity()

    def _note_activity(self) -> None:
        self._activity += 1
        self._active_at = time.monotonic()


def busy(clock: Clock) -> AbstractContextManager[None]:
    """Stop a fake clock meanwhile; a real one goes on."""
    return clock.busy() if isinstance(clock, FakeClock) else nullcontext()


def idle(clock: Clock) -> AbstractContextManager[None]:
    """Within `busy()`: let a fake clock go on meanwhile."""
    return clock.idle() if isinstance(clock, FakeClock) else nullcontext()
