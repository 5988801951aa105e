"""
The limiter of one process, and the base class it shares with that of a fleet.

A request waits in this order, so that none holds a place that others could use
while it waits for a later one: the pause after a 429; the pace of polls and
writes; the windows, the longest first; the spacing after a 429; a place in flight;
and the pause again.

The limiter serves tasks of any event loop in any thread: all its times are on the
loops' clock, which is the same for all loops of a process.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Generic, TypeVar
from weakref import WeakSet

import attrs

from ..._core.pacing import Pace, Refusal, earliest_starts, reuse_after
from ...errors import QuotaWaitError
from ...limits import DOCUMENTED, Kind, Limits, Rate
from ..context import Clock, SystemClock
from ..fifo_lock import FifoLock
from .base import Limiter, LocalCounter, Permit, SharedCounter, Statistics, no_slot
from .tickets import Line, Tickets, again_in, named, slot_in
from .window import Pacer, Place, PlacePool, SlotSemaphore, sleep_until

_logger = logging.getLogger(__name__)

WITHHELD_FOR = 600.0
"""Seconds for which a place is withheld when others evidently use the app."""

P = TypeVar("P")


@attrs.define(eq=False)
class PlacePermit(Permit, Generic[P]):
    """A permit with its places: one in each window that counts its kind, and a slot."""

    kind: Kind
    windows: Sequence[P]
    slot: P
    now: Callable[[], float]
    sent_at: float = attrs.field(init=False)
    refusals: list[Refusal] = attrs.field(factory=list[Refusal])

    def __attrs_post_init__(self) -> None:
        self.sent_at = self.now()

    def throttled(self, retry_after: float | None = None, *, details: str = "") -> None:
        """Report a 429: all requests pause after this one has ended."""
        self.refusals.append(
            Refusal(
                kind=self.kind,
                sent_at=self.sent_at,
                at=self.now(),
                retry_after=retry_after,
                details=details,
            )
        )


class RateLimiter(Limiter):
    """A limiter that keeps `Limits` and counts the requests it admits."""

    def __init__(self, limits: Limits, *, paced: bool = True) -> None:
        # The pace of polls and writes needs the event loop's own clock.
        self._limits = limits
        self._paced = paced
        self._counts: dict[str, float] = dict.fromkeys(
            ("started", "in_flight", "waiting", "waited", "throttled"), 0
        )
        self._make_pacers()

    def _make_pacers(self) -> None:
        limits = self._limits
        self._mutex = threading.Lock()
        rates: dict[Kind, Rate | None] = {"poll": limits.polls, "write": limits.writes}
        self._pacers = {
            kind: Pacer(rate) for kind, rate in rates.items() if rate and self._paced
        }

    @property
    def limits(self) -> Limits:
        """The limits it keeps."""
        return self._limits

    def statistics(self) -> Statistics:
        """
        Return counters of this process's requests.

        They are "started", "started.export", "started.poll" and so on, "in_flight",
        "waiting", "waited" (seconds of all requests) and "throttled".
        """
        with self._mutex:
            return dict(self._counts)

    def _reason(
        self,
        kind: Kind,
        *,
        is_paused: bool,
        full: Sequence[Rate],
        is_spaced: bool,
        in_flight: int,
    ) -> str:
        """
        Return as text what a request waits for.

        Args:
            full: The windows without a free place.
            in_flight: How many places in flight are taken.
        """
        if is_paused:
            return "the end of the pause after a 429"
        if full:
            rate = max(full, key=lambda rate: rate.per)
            return f"a place in the window of exports, {rate.count} in {rate.per:g} s"
        if is_spaced:
            return "its turn, because exports are spread out after a 429"
        if in_flight >= self._limits.in_flight:
            return f"a place for a request in flight, of {self._limits.in_flight}"

        return (
            f"its turn in the pace of requests of kind {kind!r}"
            if kind in self._pacers
            else "its place in line"
        )

    def _count(self, **by: float) -> None:
        with self._mutex:
            for name, number in by.items():
                self._counts[name] = self._counts.get(name, 0) + number

    def _count_start(self, kind: Kind, *, waited: float) -> None:
        started = {"started": 1, f"started.{kind}": 1, "waited": waited}
        self._count(waiting=-1, in_flight=+1, **started)

    def _refuse_if_longer(self, seconds: float, kind: Kind) -> None:
        most = self._limits.max_wait

        if most is not None and seconds > most:
            raise QuotaWaitError(
                f"the next place for a request of kind {kind!r} is {seconds:.1f} s "
                f"away, and max_wait is {most:g} s; ask again later, or with a "
                f"larger Limits.max_wait",
                seconds=seconds,
            )

    def _log_slowdown(self, refusal: Refusal, before: Pace, after: Pace) -> None:
        self._count(throttled=1)
        facts = {
            "kind": refusal.kind,
            "pause_seconds": max(0.0, after.paused_until - refusal.at),
            "spacing_seconds": after.spacing(self._limits.exports),
        }
        _logger.warning("the service asked to slow down", extra=facts)
        if after.counted != before.counted:
            _logger.warning("polls and files count in the windows from now on")


@attrs.define(eq=False)
class LimiterState:
    """
    The state that the next limiter of the app needs, so as not to admit too much.

    Attributes:
        ends: When requests that count in the windows ended, on the loops' clock.
        released_at: Until when places in flight stay taken without a request.
        window_tickets: Who comes back for the windows.
        slot_tickets: Who comes back for a place in flight.
    """

    # No window has more places than are kept here.
    ends: deque[float] = attrs.field(factory=lambda: deque[float](maxlen=1_024))
    released_at: deque[float] = attrs.field(factory=lambda: deque[float](maxlen=64))
    pace: Pace = attrs.field(factory=Pace)
    counter: LocalCounter = attrs.field(factory=LocalCounter)
    window_tickets: Tickets = attrs.field(factory=Tickets)
    slot_tickets: Tickets = attrs.field(factory=Tickets)

    @property
    def newest(self) -> float:
        """The latest time that matters."""
        moments = [*list(self.ends)[-1:], *self.released_at, self.pace.paused_until]
        for tickets in (self.window_tickets, self.slot_tickets):
            moments += [each.until for each in list(tickets.values())]

        return max(moments)


class LocalLimiter(RateLimiter):
    """
    Keeps the limits of one app in this process.

    It never admits more exports in any window than the limits allow, however the
    service counts and whatever the latency, nor more requests in flight. Requests
    are admitted in the order they came; a 429 for one pauses all.
    """

    def __init__(
        self,
        limits: Limits = DOCUMENTED,
        *,
        clock: Clock | None = None,
        state: LimiterState | None = None,
    ) -> None:
        """
        Build the limiter; no event loop needs to run.

        Args:
            clock: None uses the running loop's time. With another clock there is
                no pace of polls and writes.
            state: That of an earlier limiter of the app.
        """
        super().__init__(limits, paced=clock is None)
        self._clock = clock or SystemClock()
        self._state = state or LimiterState()
        self._last_start = -math.inf
        self._make_places()
        _made.add(self)

    def _make_places(self) -> None:
        limits = self._limits
        self._line = FifoLock()
        self._window_line = Line(self._clock.now, self._state.window_tickets)
        self._slot_line = Line(self._clock.now, self._state.slot_tickets)
        self._slots = SlotSemaphore(
            limits.in_flight,
            clock=self._clock,
            line=self._slot_line,
            released_at=self._state.released_at,
        )
        self._windows = {
            rate: PlacePool(
                rate.count,
                clock=self._clock,
                line=self._window_line,
                reuse_after=reuse_after(rate, limits),
                ended_at=self._state.ends,
            )
            for rate in sorted(limits.exports, key=lambda rate: -rate.per)
        }

    def drop_inherited(self) -> None:
        """
        Free the places, in a forked process, of requests that only its parent has.

        Their time in the windows begins at the fork: they may end later, but this
        process would not learn when.
        """
        # No loop runs here, whose time the system's is. No lock is taken: another
        # thread of the parent may have held it.
        is_systems = isinstance(self._clock, SystemClock)
        now = time.monotonic() if is_systems else self._clock.now()
        running = [rate.count - pool.idle for rate, pool in self._windows.items()]
        self._state.ends.extend([now] * max(running, default=0))
        self._state.counter = self._state.counter.copy()
        # Their owners come back to the parent.
        self._state.window_tickets, self._state.slot_tickets = {}, {}
        self._counts |= {"in_flight": 0, "waiting": 0}
        vars(self).pop("_cohort_locks", None)
        self._make_pacers()
        self._make_places()

    @property
    def counter(self) -> SharedCounter:
        """Counts the exports of a month for this process."""
        return self._state.counter

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than `Limits.max_wait`.
        """
        return self._slot(partial(self._begin, kind))

    def try_slot(
        self, kind: Kind, *, ticket: str | None = None
    ) -> AbstractAsyncContextManager[Permit]:
        """
        Take a slot if one is free now; never wait.

        Args:
            ticket: That of the `QuotaWaitError` of an earlier try. Who asks again
                within its `seconds` and 30 more keeps the place in the order; any
                other text is as None, and gets the last place.

        Raises:
            QuotaWaitError: No slot is free.
        """
        return self._slot(partial(self._try, kind, named(ticket)))

    def expected_starts(
        self,
        count: int,
        *,
        limits: Limits = DOCUMENTED,  # noqa: ARG002 - it has its own
    ) -> list[float]:
        """Return in how many seconds each of the next *count* exports may start."""
        now = self._clock.now()

        starts = self._expected_starts(
            "export", now, count, ahead=len(self._window_line)
        )
        return [start - now for start in starts]

    def waits_for(self, kind: Kind) -> str:
        """Return what a request of this kind would wait for now."""
        now = self._clock.now()
        counts = kind in self._state.pace.counted

        return self._reason(
            kind,
            is_paused=self._is_paused(),
            full=[
                rate
                for rate, window in self._windows.items()
                if counts and not any(free <= now for free in window.free_at())
            ],
            is_spaced=counts and self._last_start + self._spacing() > now,
            in_flight=self._limits.in_flight
            - sum(free <= now for free in self._slots.free_at()),
        )

    def statistics(self) -> Statistics:
        """
        Return counters of this process's requests.

        They are "started", "started.export", "started.poll" and so on, "in_flight",
        "waiting", "waited" (seconds of all requests), "throttled", "withheld" (places)
        and "spacing" (seconds between exports).
        """
        return {
            **super().statistics(),
            "withheld": self._slots.withheld,
            "spacing": self._state.pace.spacing(self._limits.exports),
        }

    @asynccontextmanager
    async def _slot(
        self, begin: Callable[[], Awaitable[PlacePermit[Place]]]
    ) -> AsyncGenerator[Permit]:
        permit = await begin()
        clean = False

        try:
            yield permit
            clean = True
        finally:
            self._end(permit, clean=clean)

    async def _begin(self, kind: Kind) -> PlacePermit[Place]:
        if self._limits.max_wait is not None:
            seconds = self._starts_in(kind, ahead=len(self._window_line))
            self._refuse_if_longer(seconds, kind)

        came_at = self._clock.now()
        self._count(waiting=+1)

        try:
            await self._keep_pace(kind)
            permit = await self._admit(kind)
        except BaseException:
            self._count(waiting=-1)
            raise

        self._count_start(kind, waited=permit.sent_at - came_at)

        return permit

    async def _keep_pace(self, kind: Kind) -> None:
        if pacer := self._pacers.get(kind):
            await self._pause()
            await pacer.wait()
            # Requests that got here during a pause would start together after it.
            while self._is_paused():
                await self._pause()
                await pacer.wait()

    async def _try(self, kind: Kind, ticket: str) -> PlacePermit[Place]:
        """Take all places at once, or keep those of the ticket in order."""
        try:
            counts = kind in self._state.pace.counted
            seconds = await self._try_pace(kind, ticket, counts=counts)
            outcome = seconds or self._try_places(kind, ticket, counts=counts)
        finally:
            # A ticket may have left a line, so that others find a place.
            for pool in (*self._windows.values(), self._slots):
                pool.look_again()

        if not isinstance(outcome, PlacePermit):
            raise no_slot(kind, outcome, ticket)

        self._forget(kind, ticket)
        self._count(waiting=+1)
        self._count_start(kind, waited=0.0)
        return outcome

    async def _try_pace(self, kind: Kind, ticket: str, *, counts: bool) -> float:
        """Return in how many seconds to ask again: zero without pause, in its pace."""
        pacer = self._pacers.get(kind)
        paused = self._state.pace.paused_until - self._clock.now()

        if paused <= 0:
            return await pacer.try_pass(ticket) if pacer else 0.0

        # Tickets that have got here would start together after the pause.
        if pacer:
            self._slot_line.drop(ticket)
            pacer.wait_again(ticket, seconds=paused)
        else:
            first = self._window_line if counts else self._slot_line
            first.draw(ticket, seconds=paused)

        return paused

    def _try_places(
        self, kind: Kind, ticket: str, *, counts: bool
    ) -> PlacePermit[Place] | float:
        if not counts:
            self._window_line.drop(ticket)

        places = self._try_windows(ticket) if counts else []
        if places is None:
            self._slot_line.drop(ticket)
            ahead = self._window_line.draw(ticket)
            seconds = again_in(self._starts_in(kind, ahead=ahead))
            self._window_line.draw(ticket, seconds=seconds)
            return seconds

        ahead = self._slot_line.draw(ticket)
        if permit := self._take_slot_now(kind, places, ahead=ahead):
            return permit

        seconds = slot_in(ahead, self._limits.in_flight)
        self._slot_line.draw(ticket, seconds=seconds)
        return seconds

    def _try_windows(self, ticket: str) -> list[Place] | None:
        """Return a place of each window; None if there is not one for the ticket."""
        # Who comes from now on is behind it.
        ahead = self._window_line.draw(ticket)
        spacing = self._spacing()
        if spacing and (ahead or self._last_start + spacing > self._clock.now()):
            return None

        return self._take_windows_now(ahead)

    def _take_windows_now(self, ahead: int) -> list[Place] | None:
        places: list[Place] = []

        for window in self._windows.values():
            if (place := window.take_free(ahead)) is None:
                self._put_back(places)
                return None
            places.append(place)

        return places

    def _take_slot_now(
        self, kind: Kind, places: Sequence[Place], *, ahead: int
    ) -> PlacePermit[Place] | None:
        """Return a permit with these places; put them back if there is no slot."""
        if (slot := self._slots.take_free(ahead)) is None:
            self._put_back(places)
            return None

        return self._permit(kind, places, slot)

    def _permit(
        self, kind: Kind, places: Sequence[Place], slot: Place
    ) -> PlacePermit[Place]:
        permit = PlacePermit(kind, places, slot, self._clock.now)
        if places:
            self._last_start = permit.sent_at

        return permit

    def _forget(self, kind: Kind, ticket: str) -> None:
        self._window_line.drop(ticket)
        self._slot_line.drop(ticket)
        if pacer := self._pacers.get(kind):
            pacer.forget(ticket)

    def _admit_now(self, kind: Kind, *, counts: bool) -> PlacePermit[Place] | None:
        """Let a request start that nobody is ahead of, if all places are free."""
        if self._is_paused() or not self._slot_line.is_empty:
            return None
        if not counts:
            return self._take_slot_now(kind, (), ahead=0)
        if self._spacing() or not self._window_line.is_empty:
            return None

        places = self._take_windows_now(0)
        return None if places is None else self._take_slot_now(kind, places, ahead=0)

    async def _admit(self, kind: Kind) -> PlacePermit[Place]:
        counts = kind in self._state.pace.counted
        if permit := self._admit_now(kind, counts=counts):
            return permit
        if not counts:
            return self._permit(kind, (), await self._take_slot())

        number = self._window_line.join()
        try:
            # One at a time until it is sent: first come, first served.
            async with self._line:
                return await self._admit_next(kind, number)
        finally:
            self._window_line.leave(number)

    async def _admit_next(self, kind: Kind, number: int) -> PlacePermit[Place]:
        places: list[Place] = []

        try:
            await self._pause()
            # With a spacing they start one by one, those ahead first.
            alone = self._spacing() > 0
            for window in self._windows.values():
                places.append(await window.take(number, alone=alone))  # noqa: PERF401
            await self._space_out()
            slot = await self._take_slot()
        except BaseException:
            # Put back the places taken so far.
            self._put_back(places)
            raise

        return self._permit(kind, places, slot)

    def _put_back(self, places: Sequence[Place]) -> None:
        for window, place in zip(self._windows.values(), places, strict=False):
            window.release_unused(place)

    async def _take_slot(self) -> Place:
        number = self._slot_line.join()

        try:
            await self._pause()
            place = await self._slots.take(number)
        finally:
            self._slot_line.leave(number)

        try:
            await self._pause()
        except BaseException:
            self._slots.release_unused(place)
            raise

        return place

    def _is_paused(self) -> bool:
        return self._state.pace.paused_until > self._clock.now()

    async def _pause(self) -> None:
        # Check again after each wait: the pause may have become longer.
        while self._is_paused():
            await sleep_until(self._clock, self._state.pace.paused_until)

    async def _space_out(self) -> None:
        # Check again after each wait: a ticket may have started meanwhile.
        while (due := self._last_start + self._spacing()) > self._clock.now():
            await sleep_until(self._clock, due)

    def _spacing(self) -> float:
        return self._state.pace.spacing(self._limits.exports)

    def _end(self, permit: PlacePermit[Place], *, clean: bool) -> None:
        self._count(in_flight=-1)
        now = self._clock.now()
        ended = now if clean else now + self._limits.release_delay
        crowded = [self._slow_down(refusal) for refusal in permit.refusals]

        if permit.windows:
            self._state.ends.append(ended)
        for window, place in zip(self._windows.values(), permit.windows, strict=False):
            window.release(place, at=ended)

        if any(crowded) and self._slots.may_withhold(until=now + WITHHELD_FOR):
            ended = now + WITHHELD_FOR
        if ended > now:
            self._state.released_at.append(ended)
        self._slots.release(permit.slot, at=ended)

        if clean and not permit.refusals:
            with self._mutex:
                pace = self._state.pace
                self._state.pace = pace.answered(permit.kind, sent_at=permit.sent_at)

    def _slow_down(self, refusal: Refusal) -> bool:
        """Pause all requests; return whether others evidently use the app."""
        with self._mutex:
            before = self._state.pace
            after = self._state.pace = before.refused(refusal)

        self._log_slowdown(refusal, before, after)

        return refusal.crowded and refusal.sent_at >= before.paused_at

    def _starts_in(self, kind: Kind, *, ahead: int) -> float:
        now = self._clock.now()
        return self._expected_starts(kind, now, 1, ahead=ahead)[0] - now

    def _expected_starts(
        self, kind: Kind, now: float, count: int, *, ahead: int
    ) -> list[float]:
        pace = self._state.pace
        earliest = max(now, pace.paused_until)
        if kind not in pace.counted:
            return [earliest] * count

        spacing = self._spacing()
        taken: dict[Rate, list[float]] = {}
        for rate, window in self._windows.items():
            idle = window.free_at()
            running = [now + reuse_after(rate, self._limits)] * (rate.count - len(idle))
            taken[rate] = [*idle, *running]

        starts = earliest_starts(
            ahead + count,
            self._limits,
            now=max(earliest, self._last_start + spacing),
            taken_until=taken,
            spacing=spacing,
        )
        return starts[ahead:]


_made: WeakSet[LocalLimiter] = WeakSet()


def _drop_inherited() -> None:
    for limiter in list(_made):
        limiter.drop_inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)
