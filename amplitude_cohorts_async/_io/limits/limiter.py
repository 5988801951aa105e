"""
The limiter of one process.

In this order, so that nobody holds a place that others could use while
waiting for one that is farther away: the pause, if the service ordered one;
the windows, the longest first; the spacing after a 429; one of the places in
flight; and the pause once more.

It serves tasks of any event loop in any thread: all its moments are on the
loops' clock, which is one clock for all of a process's loops.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Protocol

import attrs

from ..._core.pacing import Pace, Refusal
from ..._core.schedule import earliest_starts
from ...errors import QuotaWaitError
from ...limits import DOCUMENTED, Limits, Rate
from ...protocols import Clock, JobBoard, Kind, Permit, Statistics
from ..clock import SystemClock
from .board import LocalBoard
from .rings import Place, Ring, sleep_until
from .tally import OwnTally
from .turns import Turn, Turns

_log = logging.getLogger(__name__)

# Somebody else uses the app: leave one place to them for ten minutes.
_PARKED = 600.0


@attrs.define(eq=False)
class Past:
    """
    What has to outlive a limiter, or the next one would let too much through.

    Attributes:
        ends: When requests that count in the windows ended, on the loops'
            clock; no window has more places than are remembered.

        lingering: Until when places in flight stay taken without a request.

        pace: What the service said.

        tally: What was spent.
    """

    ends: deque[float] = attrs.field(factory=lambda: deque[float](maxlen=1_024))
    lingering: deque[float] = attrs.field(factory=lambda: deque[float](maxlen=64))
    pace: Pace = attrs.field(factory=Pace)
    tally: OwnTally = attrs.field(factory=OwnTally)

    @property
    def newest(self) -> float:
        """
        The last moment that matters.
        """
        moments = [*list(self.ends)[-1:], *self.lingering, self.pace.paused_until]
        return max(moments)


@attrs.define(eq=False)
class _Permit:
    kind: Kind
    report: Callable[[_Permit, float | None, str], None]
    slot: Place
    windows: Sequence[tuple[Ring, Place]] = ()
    sent_at: float = -math.inf
    was_refused: bool = False
    park: bool = False

    def throttled(self, retry_after: float | None = None) -> None:
        """
        Report a 429: everybody pauses.
        """
        self.report(self, retry_after, "")

    def refused(self, details: str, retry_after: float | None = None) -> None:
        """
        Report a 429 in the service's words, which tell what was too much.
        """
        self.report(self, retry_after, details)


class _End(Protocol):
    async def __call__(self, permit: _Permit, *, clean: bool) -> None: ...


class _Slot:
    # A generator would do, and take a tenth of the limiter's time.

    def __init__(self, begin: Callable[[], Awaitable[_Permit]], end: _End) -> None:
        self._begin = begin
        self._end = end

    async def __aenter__(self) -> Permit:
        self._permit = await self._begin()

        return self._permit

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _trace: object
    ) -> None:
        await self._end(self._permit, clean=error is None)


class LocalLimiter:
    """
    Keeps the limits of one app in this process.

    Never more exports than the limits say in any window, however the service
    counts and whatever the latency; never more requests in flight; first
    come, first served; and a 429 for one is a pause for all.
    """

    def __init__(
        self,
        limits: Limits = DOCUMENTED,
        *,
        clock: Clock | None = None,
        past: Past | None = None,
    ) -> None:
        """
        Build the limiter; no event loop needs to run yet.

        Args:
            limits: The limits to keep.

            clock: The time; None takes the running loop's.

            past: What an earlier limiter of the app left behind.
        """
        self._limits = limits
        self._clock = clock or SystemClock()
        self._past = past or Past()
        self._mutex = threading.Lock()
        self._turn = Turn()
        self._slots = Ring(
            limits.in_flight, clock=self._clock, ended_at=self._past.lingering
        )
        self._windows = {
            rate: Ring(
                rate.count,
                clock=self._clock,
                hold=limits.hold(rate),
                window=rate.per if clock is None else None,
                ended_at=self._past.ends,
            )
            for rate in sorted(limits.exports, key=lambda rate: -rate.per)
        }
        self._last_start = -math.inf
        self._parked: list[float] = []
        self._cohorts = Turns()
        self._board = LocalBoard(self._clock)
        self._counts: dict[str, float] = dict.fromkeys(
            ("started", "in_flight", "waiting", "waited", "throttled"), 0
        )

    @property
    def limits(self) -> Limits:
        """
        The limits it keeps.
        """
        return self._limits

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than `Limits.max_wait`.
        """
        return _Slot(partial(self._begin, kind), self._end)

    def cohort(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until nobody else writes to this cohort.
        """
        return self._cohorts.of(cohort_id)

    @property
    def board(self) -> JobBoard:
        """
        Where those who want the same export find each other.
        """
        return self._board

    def expected_starts(self, count: int) -> list[float]:
        """
        Tell in how many seconds each of the next exports may start.
        """
        now = self._clock.now()

        return [start - now for start in self._expected_starts("export", now, count)]

    def statistics(self) -> Statistics:
        """
        Tell what was let through, and what waited.

        Returns:
            "started" and "started.export", "started.poll" and so on,
            "in_flight", "waiting", "waited" (seconds, of all together),
            "throttled", "parked" places and the "spacing" of exports in
            seconds.
        """
        with self._mutex:
            return {
                **self._counts,
                "parked": len(self._parked),
                "spacing": self._past.pace.spacing(self._limits.exports),
            }

    async def tally(self, name: str, by: int, *, until: datetime) -> int:
        """
        Add to a counter of the app, which may be forgotten after *until*.

        Returns:
            The counter's value.
        """
        return await self._past.tally.tally(name, by, until=until)

    async def aclose(self) -> None:
        """
        Nothing to let go of.
        """

    async def _begin(self, kind: Kind) -> _Permit:
        self._refuse_long_wait(kind)
        came_at = self._clock.now()
        self._count(waiting=+1)

        try:
            permit = await self._admit(kind)
        except BaseException:
            self._count(waiting=-1)
            raise

        permit.sent_at = self._clock.now()
        waited = permit.sent_at - came_at
        started = {"started": 1, f"started.{kind}": 1, "waited": waited}
        self._count(waiting=-1, in_flight=+1, **started)

        return permit

    async def _admit(self, kind: Kind) -> _Permit:
        if kind not in self._past.pace.counted:
            return _Permit(kind, self._refused, await self._take_slot())

        # One at a time up to the sending: first come, first served.
        async with self._turn:
            windows: list[tuple[Ring, Place]] = []

            try:
                await self._pause()
                for ring in self._windows.values():
                    place = await ring.take()
                    windows.append((ring, place))
                await self._space_out()
                slot = await self._take_slot()
            except BaseException:
                for ring, place in windows:
                    ring.put_back(place)
                raise

            self._last_start = self._clock.now()
            return _Permit(kind, self._refused, slot, windows)

    async def _take_slot(self) -> Place:
        await self._pause()
        place = await self._slots.take()

        try:
            await self._pause()
        except BaseException:
            self._slots.put_back(place)
            raise

        return place

    async def _pause(self) -> None:
        # Whoever woke asks again: the pause may have become longer.
        while self._past.pace.paused_until > self._clock.now():
            await sleep_until(self._clock, self._past.pace.paused_until)

    async def _space_out(self) -> None:
        spacing = self._past.pace.spacing(self._limits.exports)
        await sleep_until(self._clock, self._last_start + spacing)

    async def _end(self, permit: _Permit, *, clean: bool) -> None:
        self._count(in_flight=-1)
        now = self._clock.now()
        ended = now if clean else now + self._limits.linger

        if permit.windows:
            self._past.ends.append(ended)
        for ring, place in permit.windows:
            await ring.end(place, at=ended)

        slot_ended = self._park(now) if permit.park else ended
        if slot_ended > now:
            self._past.lingering.append(slot_ended)
        await self._slots.end(permit.slot, at=slot_ended)

        if clean and not permit.was_refused:
            with self._mutex:
                pace = self._past.pace
                self._past.pace = pace.answered(permit.kind, sent_at=permit.sent_at)

    def _park(self, now: float) -> float:
        with self._mutex:
            self._parked = [until for until in self._parked if until > now]
            if len(self._parked) + 1 >= self._limits.in_flight:
                return now
            self._parked.append(now + _PARKED)
            return now + _PARKED

    def _refused(
        self, permit: _Permit, retry_after: float | None, details: str
    ) -> None:
        refusal = Refusal(
            kind=permit.kind,
            sent_at=permit.sent_at,
            at=self._clock.now(),
            retry_after=retry_after,
            details=details,
        )

        with self._mutex:
            before = self._past.pace
            self._past.pace = after = before.refused(refusal)

        permit.was_refused = True
        permit.park = refusal.crowded and refusal.sent_at >= before.paused_at
        self._count(throttled=1)
        facts = {
            "kind": permit.kind,
            "pause_seconds": max(0.0, after.paused_until - refusal.at),
            "spacing_seconds": after.spacing(self._limits.exports),
        }
        _log.warning("the service asked to slow down", extra=facts)
        if after.counted != before.counted:
            _log.warning("polls and files count in the windows from now on")

    def _refuse_long_wait(self, kind: Kind) -> None:
        if self._limits.max_wait is None:
            return

        now = self._clock.now()
        seconds = self._expected_starts(kind, now, 1)[0] - now

        if seconds > self._limits.max_wait:
            raise QuotaWaitError(
                f"the next place for a request of kind {kind!r} is {seconds:.1f} s "
                f"away, and max_wait is {self._limits.max_wait:g} s; ask again "
                "later, or with a larger Limits.max_wait",
                seconds=seconds,
            )

    def _expected_starts(self, kind: Kind, now: float, count: int) -> list[float]:
        pace = self._past.pace
        earliest = max(now, pace.paused_until)

        if kind not in pace.counted:
            return [earliest] * count

        spacing = pace.spacing(self._limits.exports)
        taken: dict[Rate, list[float]] = {}
        for rate, ring in self._windows.items():
            idle = ring.free_at()
            running = [now + self._limits.hold(rate)] * (rate.count - len(idle))
            taken[rate] = [*idle, *running]

        ahead = self._turn.ahead
        starts = earliest_starts(
            ahead + count,
            self._limits,
            now=max(earliest, self._last_start + spacing),
            taken_until=taken,
            spacing=spacing,
        )
        return starts[ahead:]

    def _count(self, **by: float) -> None:
        with self._mutex:
            for name, number in by.items():
                self._counts[name] = self._counts.get(name, 0) + number
