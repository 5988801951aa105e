"""
The limiter of a fleet, over a store of places that its processes share.

A request waits in the order of `local`. Each place of each limit is a lease in the
store, see `leases`; a 429 to one process pauses all. While the store is unavailable
nothing is sent: `LimiterUnavailableError`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Literal, NoReturn
from uuid import uuid4

import anyio
import attrs

from ..._core.pacing import (
    Pace,
    Refusal,
    binding_rates,
    earliest_starts,
    reuse_after,
)
from ...errors import ConfigurationError, LimiterUnavailableError
from ...limits import Kind, Limits, Rate
from ..cancellation import background, finish_despite_cancel
from ..per_loop import PerLoop
from ..stores import StoreFailedError, random_delay
from .base import Limiter, Permit, SharedCounter, no_slot
from .leases import (
    Lease,
    LeaseLostError,
    Places,
    SharedStore,
    Snapshot,
)
from .local import WITHHELD_FOR, LocalLimiter, PlacePermit, RateLimiter
from .shared import AppName, checked_lease, hashed_key

_logger = logging.getLogger(__name__)

# Seconds after which one asks again whether a place in flight is free.
_ASK_AGAIN = 0.25


class FleetPlaces:
    """The places and waiting lines of one event loop."""

    def __init__(self, store: SharedStore, limits: Limits, lease: float) -> None:
        self.store = store
        self._lease = lease
        self._release_delay = limits.release_delay
        self.line = anyio.Lock()
        self.snapshot: Snapshot | None = None
        self.paused_until = -math.inf
        self.is_checked = False
        self.windows = {
            rate: self._places(f"w{rate.per:g}", rate.count, reuse_after(rate, limits))
            for rate in binding_rates(limits.exports)
        }
        self.slots = self._places("c", limits.in_flight)
        self.recovery = max(
            places.pool.ttl for places in [*self.windows.values(), self.slots]
        )

    def lock(self, name: str) -> Places:
        """Return the single place of a lock."""
        return self._places(name, 1)

    def wait(self, kind: Kind, seen: Snapshot) -> float:
        """Return for how many seconds the shared state lets this kind not start."""
        # A kind that takes no place in a window waits only for lost places in flight.
        spared = 0.0 if counts(kind, seen) else self.recovery - self.slots.pool.ttl
        return max(seen.pause, seen.recovery - spared, 0.0)

    def _places(self, name: str, count: int, reuse_after: float = 0.0) -> Places:
        return Places(
            self.store,
            name,
            count,
            lease=self._lease,
            reuse_after=reuse_after,
            release_delay=self._release_delay,
        )


class FleetLimiter(RateLimiter):
    """
    Keeps the limits of one app together with other processes.

    Within a process requests are admitted in the order they came; a place that
    several processes wait for goes to the first that asks. After a store is used
    for the first time, or may have lost data, nothing starts until all it may have
    lost is over: about a minute and a half with the documented limits.
    """

    def __init__(
        self,
        open_store: Callable[[str], SharedStore],
        *,
        shown: str,
        app: str | None,
        limits: Limits,
        lease: float,
        on_outage: Literal["share"] | None,
        processes: int | None,
    ) -> None:
        """
        Describe the limiter; nothing is sent.

        Args:
            open_store: Returns the running loop's access to the places of an app.
            shown: The name of the store in messages, without a password.
        """
        if (on_outage is None) != (processes is None):
            raise ConfigurationError(
                "on_outage='share' and processes go together: give the number of "
                "processes that share the limits while the store is unavailable"
            )

        super().__init__(limits)
        self._app = AppName(app, stated_by="from_url(..., app=...)")
        self._shown = shown
        self._open_store = open_store
        self._lease = checked_lease(lease)
        self._loops = PerLoop(self._open)
        self._share = (
            None if processes is None else LocalLimiter(limits.share(processes))
        )
        self._pace = Pace()
        self._lost_at = math.inf
        self._bridged = False

    def bind(self, app: str) -> None:
        """
        Bind this limiter to the app of a client: a hash of origin and API key.

        Raises:
            ConfigurationError: The limiter serves another app already.
        """
        self._app.bind(app)

    @property
    def counter(self) -> SharedCounter:
        """Counts the exports of a month for the fleet."""
        return _Counter(self._add)

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than `Limits.max_wait`.
            LimiterUnavailableError: The store is unavailable, or the place was lost
                while the request was running.
        """
        return self._slot(kind, self._admit)

    def try_slot(
        self,
        kind: Kind,
        *,
        ticket: str | None = None,  # noqa: ARG002 - it keeps no order for those
    ) -> AbstractAsyncContextManager[Permit]:
        """
        Take a slot if one is free now, and do not wait for one.

        Those who wait in this process go first. There are no tickets: the order of
        those who only try is not kept.

        Raises:
            QuotaWaitError: No slot is free.
            LimiterUnavailableError: The store is unavailable, or the place was lost
                while the request was running.
        """
        return self._slot(kind, self._try)

    def cohort_lock(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other task of the fleet writes to this cohort.

        Raises:
            LimiterUnavailableError: The store is unavailable, or the lock was lost.
        """
        return self._lock(hashed_key("cohort", cohort_id))

    def waits_for(self, kind: Kind) -> str:
        """Return what a request of this kind would wait for, as this process knows."""
        places = self._loops.get()
        paused = places.paused_until > asyncio.get_running_loop().time()
        reason = self._reason(
            kind,
            is_paused=paused,
            full=[
                rate
                for rate, window in places.windows.items()
                if kind == "export" and window.is_waited_for
            ],
            is_spaced=False,
            in_flight=self._limits.in_flight if places.slots.is_waited_for else 0,
        )
        return f"{reason} (of the whole fleet)"

    async def aclose(self) -> None:
        """Close the connections of the running loop; may be called twice."""
        self._loops.pop()

    def _open(self) -> FleetPlaces:
        return FleetPlaces(
            self._open_store(self._app.known()), self._limits, self._lease
        )

    @asynccontextmanager
    async def _slot(
        self,
        kind: Kind,
        admit: Callable[[FleetPlaces, Kind], Awaitable[PlacePermit[Lease]]],
    ) -> AsyncGenerator[Permit]:
        came_at = asyncio.get_running_loop().time()
        places = self._loops.get()
        self._count(waiting=+1)

        try:
            admitted = await self._ask(places, kind, admit)
        except BaseException:
            self._count(waiting=-1)
            raise

        if isinstance(admitted, Limiter):
            self._count(waiting=-1)
            async with admitted.slot(kind) as permit:
                yield permit
            return

        self._count_start(kind, waited=admitted.sent_at - came_at)
        clean = False

        try:
            async with self._kept([*admitted.windows, admitted.slot]):
                yield admitted
            clean = True
        finally:
            self._count(in_flight=-1)
            await finish_despite_cancel(self._settle(places, admitted, clean=clean))

    async def _ask(
        self,
        places: FleetPlaces,
        kind: Kind,
        admit: Callable[[FleetPlaces, Kind], Awaitable[PlacePermit[Lease]]],
    ) -> PlacePermit[Lease] | Limiter:
        """Return a permit of the store, or the limiter of our share in an outage."""
        now = asyncio.get_running_loop().time

        try:
            permit = await admit(places, kind)
        except StoreFailedError as error:
            self._lost_at = min(self._lost_at, now())
            if self._share is None or now() < self._lost_at + places.recovery:
                self._refuse(error)
            self._bridged = True
            return self._share

        self._lost_at = math.inf
        return permit

    async def _admit(self, places: FleetPlaces, kind: Kind) -> PlacePermit[Lease]:
        while True:
            counted = kind == "export"

            # An export does not ask the store before it is in line: the delay of
            # the answers would change the order.
            if not counted or self._limits.max_wait is not None:
                seen = await self._clear(places, kind)
                await self._refuse_long_wait(places, kind, seen)
                counted = counts(kind, seen)

            if counted:
                # One at a time until it is sent: first come, first served.
                async with places.line:
                    permit = await self._take(places, kind, counted=True)
            else:
                permit = await self._take(places, kind, counted=False)

            if permit is not None:
                return permit

    async def _take(
        self, places: FleetPlaces, kind: Kind, *, counted: bool
    ) -> PlacePermit[Lease] | None:
        """Take all places, the slot last; return None if *counted* is outdated."""
        windows = places.windows.values() if counted else ()
        pacer = self._pacers.get(kind)

        while True:
            seen = await self._clear(places, kind)
            if counts(kind, seen) != counted:
                return None

            if pacer is not None:
                await pacer.wait()

            leases: list[Lease] = []

            try:
                for window in windows:
                    leases.append(await window.take(urgent=bool(leases)))
                if counted:
                    await self._space_out(places, seen)
                leases.append(await places.slots.take(urgent=bool(leases)))

                if await self._still_clear(places, kind, seen, leases):
                    return _permit(kind, leases)
            except BaseException:
                # Put back the places taken so far.
                await finish_despite_cancel(_release_unused(leases))
                raise

            await finish_despite_cancel(_release_unused(leases))

    async def _try(self, places: FleetPlaces, kind: Kind) -> PlacePermit[Lease]:
        """Take all places if they are free; raise `QuotaWaitError` if one is not."""
        seen = await self._seen(places)
        if wait := places.wait(kind, seen):
            raise no_slot(kind, wait)

        await self._try_pace(kind)
        leases: list[Lease] = []

        try:
            if counts(kind, seen):
                for window in places.windows.values():
                    leases.append(await _taken(window, kind, leases))
                await self._try_space(places, kind, seen)
            leases.append(await _taken(places.slots, kind, leases))

            if await self._still_clear(places, kind, seen, leases):
                return _permit(kind, leases)
        except BaseException:
            await finish_despite_cancel(_release_unused(leases))
            raise

        await finish_despite_cancel(_release_unused(leases))
        seen = await self._seen(places)
        raise no_slot(kind, places.wait(kind, seen) or _ASK_AGAIN)

    async def _try_pace(self, kind: Kind) -> None:
        if pacer := self._pacers.get(kind):
            # One for this try only: it keeps no place in the order.
            ticket = uuid4().hex
            seconds = await pacer.try_pass(ticket)
            pacer.forget(ticket)
            if seconds:
                raise no_slot(kind, seconds)

    async def _try_space(self, places: FleetPlaces, kind: Kind, seen: Snapshot) -> None:
        if spacing := self._spacing(seen):
            left = await places.store.try_space(spacing)
            if left:
                raise no_slot(kind, left)

    async def _clear(self, places: FleetPlaces, kind: Kind) -> Snapshot:
        """Wait until the shared state lets this kind start, and return the state."""
        while True:
            seen = await self._seen(places)
            wait = places.wait(kind, seen)
            if not wait:
                places.snapshot = seen
                return seen

            self._refuse_if_longer(wait, kind)
            places.paused_until = asyncio.get_running_loop().time() + wait
            await anyio.sleep(wait + 0.001)

    async def _seen(self, places: FleetPlaces) -> Snapshot:
        """
        Return the shared state, of an epoch that has begun.

        The last snapshot suffices here and saves a round trip: the state is read
        again when all places are held, see `_still_clear`.
        """
        await self._check_settings(places)

        while True:
            seen = places.snapshot or await places.store.read()
            places.snapshot = None

            if seen.epoch is None:
                if await places.store.begin_epoch(places.recovery):
                    _logger.warning("the store is new or has lost its data; waiting")
                continue

            if self._bridged:
                # The store does not know what was sent during the outage.
                self._bridged = False
                await places.store.pause(places.recovery)
                continue

            return seen

    async def _still_clear(
        self,
        places: FleetPlaces,
        kind: Kind,
        before: Snapshot,
        leases: Sequence[Lease],
    ) -> bool:
        now = asyncio.get_running_loop().time()

        for lease in leases:
            if lease.good_until < now + self._lease:
                try:
                    await lease.renew()
                except LeaseLostError:
                    return False

        after = places.snapshot = await places.store.read(urgent=True)
        same = after.epoch == before.epoch and after.counted == before.counted
        return same and not places.wait(kind, after)

    async def _space_out(self, places: FleetPlaces, seen: Snapshot) -> None:
        spacing = self._spacing(seen)
        left = spacing and await places.store.try_space(spacing)

        while left:
            await anyio.sleep(left + random_delay(0.001, 0.01))
            left = await places.store.try_space(spacing)

    def _spacing(self, seen: Snapshot) -> float:
        return Pace(step=min(seen.step, 4)).spacing(self._limits.exports)

    async def _settle(
        self, places: FleetPlaces, permit: PlacePermit[Lease], *, clean: bool
    ) -> None:
        withhold = False
        for refusal in permit.refusals:
            withhold |= await self._publish(places, refusal)

        for lease in permit.windows:
            await lease.end(clean=clean)
        if withhold:
            await permit.slot.withhold(WITHHELD_FOR)
        else:
            await permit.slot.end(clean=clean)

        if clean and not permit.refusals:
            self._pace = self._pace.answered(permit.kind, sent_at=permit.sent_at)

    async def _publish(self, places: FleetPlaces, refusal: Refusal) -> bool:
        """Share a 429 with the fleet; return whether to withhold the place."""
        before, after = self._pace, self._pace.refused(refusal)
        self._pace = after
        self._log_slowdown(refusal, before, after)

        try:
            first = await places.store.pause(max(0.0, after.paused_until - refusal.at))
            if first and after.step > before.step:
                await places.store.spread_out()
            if after.counted != before.counted:
                await places.store.count_all()
            return first and refusal.crowded and await self._may_withhold(places)
        except StoreFailedError:
            # Nothing starts while the store is unavailable.
            return False

    async def _may_withhold(self, places: FleetPlaces) -> bool:
        slots = places.slots
        left = await places.store.seconds_left(slots.pool)
        withheld = sum(seconds > slots.pool.ttl for seconds in left)
        return withheld + 1 < self._limits.in_flight

    async def _refuse_long_wait(
        self, places: FleetPlaces, kind: Kind, seen: Snapshot
    ) -> None:
        if self._limits.max_wait is None or not counts(kind, seen):
            return

        taken: dict[Rate, list[float]] = {
            rate: await window.seconds_left() for rate, window in places.windows.items()
        }
        ahead = places.line.statistics().tasks_waiting + places.line.locked()
        starts = earliest_starts(ahead + 1, self._limits, taken_until=taken)
        self._refuse_if_longer(starts[-1], kind)

    async def _check_settings(self, places: FleetPlaces) -> None:
        if places.is_checked:
            return

        warning = await places.store.warning()
        places.is_checked = True
        if warning is not None:
            _logger.warning(warning)

    @asynccontextmanager
    async def _lock(self, name: str) -> AsyncGenerator[None]:
        try:
            lease = await self._loops.get().lock(name).take()
        except StoreFailedError as error:
            self._refuse(error)

        try:
            async with self._kept([lease]):
                yield
        finally:
            await finish_despite_cancel(lease.end(clean=True))

    @asynccontextmanager
    async def _kept(self, leases: Sequence[Lease]) -> AsyncGenerator[None]:
        """Renew the leases of a long request; cancel the request if one is lost."""
        with anyio.CancelScope(deadline=_end_of(leases)) as scope:
            async with background(self._renew(leases, scope)):
                yield

        if scope.cancelled_caught:
            error = LimiterUnavailableError(
                f"{self._shown} gave this request's place to another process while it "
                "was running, or may have; it was cancelled, but may have taken effect"
            )
            error.may_have_happened = True
            raise error

    async def _renew(self, leases: Sequence[Lease], scope: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(self._lease / 3)
            try:
                for lease in leases:
                    await lease.renew()
            except LeaseLostError:
                scope.cancel()
            except StoreFailedError:
                continue
            scope.deadline = _end_of(leases)

    async def _add(self, name: str, by: int, until: datetime) -> int:
        try:
            return await self._loops.get().store.add(name, by, until=until)
        except StoreFailedError as error:
            self._refuse(error)

    def _refuse(self, failed: StoreFailedError) -> NoReturn:
        cause = failed.__cause__ or failed
        raise LimiterUnavailableError(
            f"{self._shown} did not answer whether a place is free "
            f"({type(cause).__name__}); nothing was sent, trying again is safe"
        ) from cause


@attrs.frozen
class _Counter:
    """The counters of the fleet."""

    count: Callable[[str, int, datetime], Awaitable[int]]

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter and return its value."""
        return await self.count(name, by, until)


def counts(kind: Kind, seen: Snapshot) -> bool:
    """Whether a request of this kind counts in the windows."""
    return kind == "export" or (seen.counted and kind in {"poll", "file"})


def _permit(kind: Kind, leases: Sequence[Lease]) -> PlacePermit[Lease]:
    *held, slot = leases
    return PlacePermit(kind, held, slot, asyncio.get_running_loop().time)


def _end_of(leases: Sequence[Lease]) -> float:
    return min(lease.ends_at for lease in leases)


async def _taken(places: Places, kind: Kind, held: Sequence[Lease]) -> Lease:
    lease = await places.try_take(urgent=bool(held))
    if isinstance(lease, Lease):
        return lease

    raise no_slot(kind, lease if places.reuse_after else _ASK_AGAIN)


async def _release_unused(leases: Sequence[Lease]) -> None:
    for lease in leases:
        await lease.release_unused()
