"""
The limiter that the processes of one machine share through a SQLite file.

A request that cannot start has a ticket in the file and asks again and again, one
request for each line and process: the others wait within it. Times are those since
the machine was started, so that a change of the date does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar
from uuid import uuid4

import anyio
import attrs

from ...errors import ConfigurationError, LimiterUnavailableError
from ...limits import DOCUMENTED, Kind, Limits
from ..cancellation import background, finish_despite_cancel
from ..context import Clock, SystemClock
from ..fifo_lock import KeyedLock
from ..jobs.base import JobStore
from ..jobs.sqlite import SqliteJobStore
from ..machine import seconds_since_boot, this_boot, this_process
from ..sqlite import DatabaseError, Options, SharedDatabase, UnusableDatabaseError
from ..stores import random_delay
from .admission import (
    SLOT,
    WINDOW,
    AdmissionRules,
    Candidate,
    Holding,
    Outlook,
    Slowdown,
    Wait,
)
from .base import Permit, SharedCounter, Statistics, no_slot
from .ledger import APPLICATION_ID, SCHEMA, VERSION, Ledger
from .local import PlacePermit, RateLimiter
from .shared import AppName, checked_lease, hashed_key
from .tickets import named

_logger = logging.getLogger(__name__)

T = TypeVar("T")

_OPTIONS = Options(
    schema=SCHEMA,
    version=VERSION,
    application_id=APPLICATION_ID,
    synchronous="NORMAL",
    busy_seconds=2.0,
)

# Seconds between two questions of one who waits: at most; and where a place may be free
# at any moment, a tenth of the time waited so far, between these two.
_LONGEST_NAP = 1.0
_NAP = 0.01, 0.1
# Seconds after which all of our tickets are shown again.
_SHOWN_EVERY = 0.5


class BootClock(SystemClock):
    """The time since the machine was started; no change of the date moves it."""

    def now(self) -> float:
        """Return the seconds since the start; callable in any thread."""
        return seconds_since_boot()


@attrs.define(eq=False)
class _Process:
    """What belongs to this process alone, and to none that is forked from it."""

    pid: int = attrs.field(factory=os.getpid)
    id: str = attrs.field(factory=lambda: uuid4().hex)
    lines: KeyedLock = attrs.field(factory=KeyedLock)
    waiting: dict[str, Candidate] = attrs.field(factory=dict[str, Candidate])
    shown_at: float = 0.0


class SqliteLimiter(RateLimiter):
    """
    Keeps the limits of one app together with the other processes of this machine.

    It promises what `LocalLimiter` does, over all processes that name the same file:
    no window holds too many, no more requests are in flight, a 429 for one pauses all,
    and requests start in the order they came. A process that is killed gives its
    places back when its lease is over.

    Who waits for a place in flight asks the file every 10 ms at first and every 100 ms
    in the end, one request for each process; who waits for a window or the end of a
    pause, once a second. docs/limits.md says what that costs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        lease: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        """
        Build the limiter; the file is opened, or made, by the first request.

        Args:
            path: A file on a local disk, whose folder exists; for any number of apps.
                ``.jobs`` beside it is the job store of clients that have no other.
            app: A name for the app in the file; None uses the client's, a hash of
                origin and API key.
            limits: The limits; the same for all processes.
            lease: Seconds after which the place of a process that died is free
                again. While a request runs, its lease is renewed.
            clock: None uses the time since the machine was started. With another
                clock there is no pace of polls and writes.

        Raises:
            ConfigurationError: The lease or the name cannot be used.
        """
        super().__init__(limits, paced=clock is None)
        self._app = AppName(
            app,
            stated_by="SqliteLimiter(..., app=...)",
            others=", on the same file if you like",
        )
        self._lease = checked_lease(lease)
        self._clock = clock or BootClock()
        self._rules = AdmissionRules(limits, lease=lease)
        self._database = SharedDatabase(path, _OPTIONS)
        self._jobs = SqliteJobStore(f"{os.fspath(path)}.jobs")
        self._counter = _Counter(self._transact)
        self._process = _Process()
        self._epoch: str | None = None
        self._outlook: Outlook | None = None

    def bind(self, app: str) -> None:
        """
        Bind this limiter to the app of a client: a hash of origin and API key.

        Raises:
            ConfigurationError: The limiter serves another app already.
        """
        self._app.bind(app)

    @property
    def counter(self) -> SharedCounter:
        """Counts the exports of a month for all processes."""
        return self._counter

    @property
    def job_store(self) -> JobStore:
        """The exports of the machine, in a file beside the limiter's."""
        return self._jobs

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than `Limits.max_wait`.
            ConfigurationError: The file cannot be made, or is another program's.
            LimiterUnavailableError: The file cannot be used now, or the place was lost
                while the request was running.
        """
        return self._slot(kind, self._wait)

    def try_slot(
        self, kind: Kind, *, ticket: str | None = None
    ) -> AbstractAsyncContextManager[Permit]:
        """
        Take a slot if one is free now; never wait, except for the file.

        Args:
            ticket: That of the `QuotaWaitError` of an earlier try, of any process of
                this machine. Who asks again within its `seconds` and 30 more keeps
                the place in the order; any other text is as None, and gets the last
                place.

        Raises:
            QuotaWaitError: No slot is free.
            ConfigurationError: The file cannot be made, or is another program's.
            LimiterUnavailableError: The file cannot be used now, or the place was lost
                while the request was running.
        """
        name = named(ticket)
        return self._slot(kind, partial(self._try, ticket=name, is_new=name != ticket))

    def cohort_lock(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other task of this machine writes to this cohort.

        Raises:
            LimiterUnavailableError: The file cannot be used, or the lock was lost.
        """
        return self._cohort_lock(Candidate("write", hashed_key("cohort", cohort_id)))

    def expected_starts(
        self, count: int, *, limits: Limits = DOCUMENTED
    ) -> Sequence[float]:
        """
        Return in how many seconds each of the next *count* exports may start.

        As the last request of this process saw it; before the first, as if no other
        process used the app.
        """
        if self._outlook is None:
            return super().expected_starts(count, limits=limits)

        now = self._clock.now()
        starts = self._rules.expected_starts(
            self._outlook, "export", now=now, count=count
        )
        return [start - now for start in starts]

    def waits_for(self, kind: Kind) -> str:
        """Return what a request of this kind would wait for, as the file last said."""
        seen = self._outlook

        if seen is None:
            return "the limiter's file"

        counts = kind in seen.pace.counted
        spacing = seen.pace.spacing(self._limits.exports)
        now = self._clock.now()

        return self._reason(
            kind,
            is_paused=seen.pace.paused_until > now,
            full=[
                rate
                for rate, rows in seen.taken.items()
                if counts and len(rows) >= rate.count
            ],
            is_spaced=counts and seen.last_start + spacing > now,
            in_flight=seen.in_flight,
        )

    def statistics(self) -> Statistics:
        """
        Return counters of this process's requests, and what the file last said.

        They are those of `LocalLimiter`.
        """
        seen = self._outlook

        return {
            **super().statistics(),
            "withheld": seen.withheld if seen else 0,
            "spacing": seen.pace.spacing(self._limits.exports) if seen else 0.0,
        }

    async def aclose(self) -> None:
        """Close both files, which the next use opens again; may be called twice."""
        await self._database.aclose()
        await self._jobs.aclose()

    async def _transact(self, act: Callable[[Ledger], T], *, urgent: bool = False) -> T:
        """
        Return what *act* returns, called with the ledger in one transaction.

        Args:
            urgent: Whether it keeps a place, or gives one back: other apps wait.

        Raises:
            ConfigurationError: The file cannot be made, or the app is not known.
            LimiterUnavailableError: The file cannot be used now.
        """
        app, mine = self._app.known(), self._mine()

        def work(connection: sqlite3.Connection) -> tuple[str, T]:
            owner = f"{mine.id}@{this_process()}"
            ledger = Ledger(connection, app, owner, self._clock.now())
            epoch = ledger.open(this_boot())
            if self._epoch not in {None, epoch}:
                self._wait_out(ledger)
            return epoch, act(ledger)

        try:
            self._epoch, result = await self._database.run(work, app, urgent=urgent)
        except UnusableDatabaseError as error:
            raise ConfigurationError(f"the limiter's file {error}") from error
        except DatabaseError as error:
            raise LimiterUnavailableError(
                f"the limiter's file {error}; nothing was sent, trying again is safe"
            ) from error

        return result

    @asynccontextmanager
    async def _slot(
        self, kind: Kind, begin: Callable[[Candidate], Awaitable[Holding]]
    ) -> AsyncGenerator[Permit]:
        candidate = Candidate(kind)
        came_at = self._clock.now()
        self._count(waiting=+1)

        try:
            holding = await begin(candidate)
        except BaseException:
            self._count(waiting=-1)
            raise

        permit = PlacePermit(kind, holding.windows, SLOT, self._clock.now)
        self._count_start(kind, waited=permit.sent_at - came_at)
        clean = False

        try:
            async with self._renewing(holding):
                yield permit
            clean = True
        finally:
            self._count(in_flight=-1)
            await finish_despite_cancel(self._settle(holding, permit, clean=clean))

    @asynccontextmanager
    async def _cohort_lock(self, candidate: Candidate) -> AsyncGenerator[None]:
        holding = await self._wait(candidate)

        try:
            async with self._renewing(holding):
                yield
        finally:
            await finish_despite_cancel(self._give_back(candidate))

    async def _wait(self, candidate: Candidate) -> Holding:
        """Show the tickets of a candidate while it waits; undo all if it gives up."""
        mine = self._mine()
        mine.waiting[candidate.id] = candidate

        try:
            return await self._begin(candidate)
        except BaseException:
            del mine.waiting[candidate.id]
            await finish_despite_cancel(self._give_back(candidate))
            raise
        finally:
            mine.waiting.pop(candidate.id, None)

    async def _try(self, candidate: Candidate, *, ticket: str, is_new: bool) -> Holding:
        """Take all places at once, or keep those of the ticket in line."""
        pacer = self._pacers.get(candidate.kind)
        if pacer and (seconds := await pacer.try_pass(ticket)):
            raise no_slot(candidate.kind, seconds, ticket)

        def act(ledger: Ledger) -> Holding | Wait:
            own = attrs.evolve(ledger, owner=ticket)
            outcome = self._rules.try_to_admit(own, candidate, paced=pacer is not None)
            self._show(ledger)
            return outcome

        try:
            outcome = await self._transact(act)
        except BaseException:
            # A ticket that the caller has not heard of would hold up the others.
            owner = ticket if is_new else None
            await finish_despite_cancel(self._give_back(candidate, owner=owner))
            raise

        if isinstance(outcome, Wait):
            # Requests that got here during a pause would start together after it.
            if pacer and outcome.stage == "pause":
                pacer.wait_again(ticket, seconds=outcome.seconds)
            raise no_slot(candidate.kind, outcome.seconds, ticket)

        if pacer:
            pacer.forget(ticket)
        return outcome

    async def _begin(self, candidate: Candidate) -> Holding:
        pacer = self._pacers.get(candidate.kind) if candidate.pool == SLOT else None
        if pacer is not None:
            await pacer.wait()

        outcome = await self._ask(candidate, is_first=True)

        # Requests that got here during a pause would start together after it.
        while pacer and isinstance(outcome, Wait) and outcome.stage == "pause":
            await self._pause(outcome.seconds)
            await pacer.wait()
            outcome = await self._ask(candidate)

        while isinstance(outcome, Wait):
            outcome = await (
                self._in_windows_line(candidate)
                if outcome.counts
                else self._in_last_line(candidate)
            )

        return outcome

    async def _in_windows_line(self, candidate: Candidate) -> Holding | Wait:
        lines = self._mine().lines

        async with lines.hold(WINDOW):
            while True:
                outcome = await self._poll(
                    candidate, {WINDOW}, during={"pause", "window"}
                )
                if not isinstance(outcome, Wait) or not outcome.counts:
                    return outcome

                # The windows have a place for it, which no other request takes.
                async with lines.hold(SLOT):
                    outcome = await self._poll(
                        candidate, {WINDOW, SLOT}, during={"slot"}
                    )
                if not isinstance(outcome, Wait):
                    return outcome

    async def _in_last_line(self, candidate: Candidate) -> Holding | Wait:
        async with self._mine().lines.hold(candidate.pool):
            return await self._poll(
                candidate, {candidate.pool}, during={"pause", "slot"}
            )

    async def _poll(
        self, candidate: Candidate, heads: Collection[str], *, during: Collection[str]
    ) -> Holding | Wait:
        """Ask again and again, as long as the answer is one of these stages."""
        began = self._clock.now()

        while True:
            outcome = await self._ask(candidate, heads)
            if not isinstance(outcome, Wait) or outcome.stage not in during:
                return outcome

            shortest, longest = _NAP
            nap = min(longest, max(shortest, (self._clock.now() - began) / 10))
            # Those behind ask less often; none in step with another process.
            nap *= 1 + outcome.ahead
            nap = random_delay(0.5 * nap, 1.5 * nap)
            await self._clock.sleep(min(max(nap, outcome.seconds), _LONGEST_NAP))

    async def _pause(self, seconds: float) -> None:
        while seconds > 0:
            await self._clock.sleep(min(seconds + 0.001, _LONGEST_NAP))
            seconds = await self._transact(
                lambda ledger: ledger.pace().paused_until - ledger.now
            )

    async def _ask(
        self,
        candidate: Candidate,
        heads: Collection[str] = (),
        *,
        is_first: bool = False,
    ) -> Holding | Wait:
        def act(ledger: Ledger) -> Holding | Wait:
            if is_first and self._limits.max_wait is not None:
                self._refuse_long_wait(ledger, candidate.kind)
            outcome = self._rules.admit(ledger, candidate, heads=heads)
            self._show(ledger)
            return outcome

        return await self._transact(act)

    def _show(self, ledger: Ledger) -> None:
        """Show the tickets of those that wait here, and look at the others."""
        mine = self._mine()

        if not 0 <= ledger.now - mine.shown_at < _SHOWN_EVERY:
            waiting = list(mine.waiting.values())
            ledger.show([t for each in waiting for t in (each.window, each.last)])
            mine.shown_at = ledger.now

        self._outlook = self._rules.outlook(ledger)

    def _refuse_long_wait(self, ledger: Ledger, kind: Kind) -> None:
        seen = self._rules.outlook(ledger)
        now = ledger.now
        (start,) = self._rules.expected_starts(seen, kind, now=now, count=1)
        self._refuse_if_longer(start - now, kind)

    @asynccontextmanager
    async def _renewing(self, holding: Holding) -> AsyncGenerator[None]:
        """Renew the lease of a long request; cancel the request if it is lost."""
        with anyio.CancelScope() as scope:
            self._extend(scope, holding)
            async with background(self._renew(holding, scope)):
                yield

        if scope.cancelled_caught:
            error = LimiterUnavailableError(
                f"the lease of this request's place in {self._database.path} could not "
                "be renewed, and another process may have the place; the request was "
                "cancelled, but may have taken effect"
            )
            error.may_have_happened = True
            raise error

    async def _renew(self, holding: Holding, scope: anyio.CancelScope) -> None:
        renew = partial(self._rules.renew, holding=holding)
        renewed_at = self._clock.now()

        while True:
            # Often: the loop's clock may stand still while the machine sleeps.
            await self._clock.sleep(min(self._lease / 3, _LONGEST_NAP))
            now = self._clock.now()
            if now >= holding.good_until:
                scope.cancel()
            if now < renewed_at + self._lease / 3:
                continue

            with suppress(LimiterUnavailableError, ConfigurationError):
                if not await self._transact(renew, urgent=True):
                    scope.cancel()
                renewed_at = now
                self._extend(scope, holding)

    def _extend(self, scope: anyio.CancelScope, holding: Holding) -> None:
        # Also when the file does not answer, and its thread is stuck.
        left = holding.good_until - self._clock.now()
        scope.deadline = asyncio.get_running_loop().time() + left

    async def _settle(
        self, holding: Holding, permit: PlacePermit[str], *, clean: bool
    ) -> None:
        def act(ledger: Ledger) -> Sequence[Slowdown]:
            slowdowns = self._rules.settle(
                ledger,
                holding,
                permit.refusals,
                sent_at=permit.sent_at,
                clean=clean,
            )
            self._outlook = self._rules.outlook(ledger)
            return slowdowns

        # Without a note of its end, a place stays taken until its lease is over.
        with suppress(LimiterUnavailableError, ConfigurationError):
            for slowdown in await self._transact(act, urgent=True):
                self._log_slowdown(slowdown.refusal, slowdown.before, slowdown.after)

    async def _give_back(
        self, candidate: Candidate, *, owner: str | None = None
    ) -> None:
        def act(ledger: Ledger) -> None:
            own = attrs.evolve(ledger, owner=owner or ledger.owner)
            self._rules.give_back(own, candidate)

        with suppress(LimiterUnavailableError, ConfigurationError):
            await self._transact(act, urgent=True)

    def _wait_out(self, ledger: Ledger) -> None:
        """Let nothing start in a new file before all is over that the old one held."""
        _logger.warning("the limiter's file was replaced; waiting")
        pace = ledger.pace()
        until = max(pace.paused_until, ledger.now + self._rules.recovery)
        ledger.keep_pace(attrs.evolve(pace, paused_until=until))

    def _mine(self) -> _Process:
        # The tasks of the process that we were forked from are none of ours.
        if self._process.pid != os.getpid():
            self._process = _Process()

        return self._process


class _Counter:
    """The counters of an app in its limiter's file."""

    def __init__(
        self, transact: Callable[[Callable[[Ledger], int]], Awaitable[int]]
    ) -> None:
        self._transact = transact

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter, drop those that end earlier, return its value."""
        end = until.astimezone(UTC).isoformat()
        return await self._transact(lambda ledger: ledger.count(name, by, until=end))
