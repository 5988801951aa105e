"""
A limiter that the processes of a fleet share through Redis 7 or Valkey.

Each place of each limit is a key that one request holds; see `_redis.leases`. A
429 to one process pauses all; see `_redis.shared_state`. Keys contain a hash of
the app, never an API key. The store needs `maxmemory-policy noeviction`: what it
evicts would be places in use.

While the store is unavailable nothing is sent: `LimiterUnavailableError`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, Self

import anyio

from .._core.pacing import Pace, Refusal, earliest_starts
from .._io.cancellation import finish_despite_cancel
from .._io.jobs.base import JobStore
from .._io.limits.base import Limiter, Permit, SharedCounter
from .._io.limits.local import WITHHELD_FOR, LocalLimiter, PlacePermit, RateLimiter
from .._io.limits.shared import checked_lease, hashed
from ..errors import ConfigurationError, MissingExtraError, QuotaError
from ..limits import DOCUMENTED, Kind, Limits, Rate

try:
    from redis.exceptions import LockError, RedisError

    from ._redis.job_store import RedisJobStore
    from ._redis.leases import Lease
    from ._redis.shared_state import Snapshot
    from ._redis.store import Connection, Store
except ModuleNotFoundError as _error:
    raise MissingExtraError("a limiter shared by a fleet", extra="redis") from _error

__all__ = ("RedisJobStore", "RedisLimiter")

_logger = logging.getLogger(__name__)


class RedisLimiter(RateLimiter):
    """
    Keeps the limits of one app together with other processes.

    Within a process requests are admitted in the order they came; a place that
    several processes wait for goes to the first that asks. After a store is used
    for the first time, or has lost its data, nothing starts until all it may have
    lost is over: about a minute and a half with the documented limits.
    """

    def __init__(
        self,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        lease: float = 30.0,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> None:
        """Take the parameters of `from_url()`."""
        if (on_outage is None) != (processes is None):
            raise ConfigurationError(
                "on_outage='share' and processes go together: give the number of "
                "processes that share the limits while the store is unavailable"
            )

        checked_lease(lease)
        super().__init__(limits)
        self._store = Store(url, app=app, limits=limits, lease=lease)
        self._jobs = RedisJobStore(url, lambda: self._store.connection().redis)
        self._lease = lease
        self._share = (
            None if processes is None else LocalLimiter(limits.share(processes))
        )
        self._pace = Pace()
        self._lost_at = math.inf
        self._bridged = False

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        lease: float = 30.0,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> Self:
        """
        Build the limiter; nothing is sent yet.

        Args:
            url: The store, as in "redis://localhost:6379/0".
            app: A name for the app in the keys; None uses the client's, a hash of
                origin and API key.
            limits: The limits; the same for all processes.
            lease: Seconds after which the place of a process that died is free
                again. While a request runs, its lease is renewed.
            on_outage: None sends nothing while the store is unavailable. "share"
                continues with a fixed share of the limits once everything the
                store held is over; safe while it is unavailable to all processes.
            processes: How many processes share the limits then.

        Raises:
            ConfigurationError: It is no URL of a store, or there are more processes
                than places.
        """
        return cls(
            url,
            app=app,
            limits=limits,
            lease=lease,
            on_outage=on_outage,
            processes=processes,
        )

    def bind(self, app: str) -> None:
        """
        Bind this limiter to the app of a client: a hash of origin and API key.

        Raises:
            ConfigurationError: The limiter serves another app already.
        """
        self._store.app.bind(app)

    @property
    def counter(self) -> SharedCounter:
        """Counts the exports of a month for the fleet."""
        return self._store

    @property
    def job_store(self) -> JobStore:
        """The exports of the fleet."""
        return self._jobs

    def slot(self, kind: Kind) -> AbstractAsyncContextManager[Permit]:
        """
        Wait until one more request of this kind may be sent.

        Raises:
            QuotaWaitError: The wait would be longer than `Limits.max_wait`.
            LimiterUnavailableError: The store is unavailable, or the place was lost
                while the request was running.
        """
        return self._slot(kind)

    def cohort_lock(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other task of the fleet writes to this cohort.

        Raises:
            LimiterUnavailableError: The store is unavailable, or the lock was lost.
        """
        return self._store.lock(hashed("cohort", cohort_id))

    async def aclose(self) -> None:
        """Close the connections of the running loop; may be called twice."""
        await self._store.aclose()

    @asynccontextmanager
    async def _slot(self, kind: Kind) -> AsyncGenerator[Permit]:
        came_at = asyncio.get_running_loop().time()
        connection = self._store.connection()
        self._count(waiting=+1)

        try:
            admitted = await self._ask(connection, kind)
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
            async with self._store.kept([*admitted.windows, admitted.slot]):
                yield admitted
            clean = True
        finally:
            self._count(in_flight=-1)
            await finish_despite_cancel(self._settle(connection, admitted, clean=clean))

    async def _ask(
        self, connection: Connection, kind: Kind
    ) -> PlacePermit[Lease] | Limiter:
        """Return a permit of the store, or the limiter of our share in an outage."""
        now = asyncio.get_running_loop().time

        try:
            permit = await self._admit(connection, kind)
        except QuotaError:
            # QuotaWaitError is a TimeoutError, and so an OSError.
            raise
        except (RedisError, OSError) as error:
            self._lost_at = min(self._lost_at, now())
            if self._share is None or now() < self._lost_at + connection.recovery:
                self._store.refuse(error)
            self._bridged = True
            return self._share

        self._lost_at = math.inf
        return permit

    async def _admit(self, connection: Connection, kind: Kind) -> PlacePermit[Lease]:
        while True:
            counts = kind == "export"

            # An export does not ask the store before it is in line: the delay of
            # the answers would change the order.
            if not counts or self._limits.max_wait is not None:
                seen = await self._clear(connection, kind)
                await self._refuse_long_wait(connection, kind, seen)
                counts = _counts(kind, seen)

            if counts:
                # One at a time until it is sent: first come, first served.
                async with connection.line:
                    permit = await self._take(connection, kind, counts=True)
            else:
                permit = await self._take(connection, kind, counts=False)

            if permit is not None:
                return permit

    async def _take(
        self, connection: Connection, kind: Kind, *, counts: bool
    ) -> PlacePermit[Lease] | None:
        """Take all places, the slot last; return None if *counts* is outdated."""
        windows = connection.windows.values() if counts else ()
        pacer = self._pacers.get(kind)

        while True:
            seen = await self._clear(connection, kind)
            if _counts(kind, seen) != counts:
                return None

            if pacer is not None:
                await pacer.wait()

            leases: list[Lease] = []

            try:
                for window in windows:
                    leases.append(await window.take())  # noqa: PERF401 - see below
                if counts:
                    await self._space_out(connection, seen)
                leases.append(await connection.slots.take())

                if await self._still_clear(connection, kind, seen, leases):
                    *held, slot = leases
                    now = asyncio.get_running_loop().time
                    return PlacePermit(kind, held, slot, now)
            except BaseException:
                # Put back the places taken so far.
                await finish_despite_cancel(_release_unused(leases))
                raise

            await finish_despite_cancel(_release_unused(leases))

    async def _clear(self, connection: Connection, kind: Kind) -> Snapshot:
        """
        Wait until the shared state lets this kind start, and return the state.

        The last snapshot suffices here and saves a round trip: the state is read
        again when all places are held, see `_still_clear`.
        """
        await self._check_policy(connection)

        while True:
            seen = connection.snapshot or await connection.state.read()
            connection.snapshot = None

            if seen.epoch is None:
                if await connection.state.begin_epoch():
                    _logger.warning("the store is new or has lost its data; waiting")
                continue

            if self._bridged:
                # The store does not know what was sent during the outage.
                self._bridged = False
                await connection.state.pause(connection.recovery)
                continue

            wait = _wait(connection, kind, seen)
            if not wait:
                connection.snapshot = seen
                return seen

            self._refuse_if_longer(wait, kind)
            await anyio.sleep(wait + 0.001)

    async def _still_clear(
        self,
        connection: Connection,
        kind: Kind,
        before: Snapshot,
        leases: Sequence[Lease],
    ) -> bool:
        now = asyncio.get_running_loop().time()

        for lease in leases:
            if lease.good_until < now + self._lease:
                try:
                    await lease.renew()
                except LockError:
                    return False

        after = connection.snapshot = await connection.state.read()
        same = after.epoch == before.epoch and after.counted == before.counted
        return same and not _wait(connection, kind, after)

    async def _space_out(self, connection: Connection, seen: Snapshot) -> None:
        spacing = Pace(step=min(seen.step, 4)).spacing(self._limits.exports)

        if spacing:
            await connection.state.take_space(spacing)

    async def _settle(
        self, connection: Connection, permit: PlacePermit[Lease], *, clean: bool
    ) -> None:
        withhold = False
        for refusal in permit.refusals:
            withhold |= await self._publish(connection, refusal)

        for lease in permit.windows:
            await lease.end(clean=clean)
        if withhold:
            await permit.slot.withhold(WITHHELD_FOR)
        else:
            await permit.slot.end(clean=clean)

        if clean and not permit.refusals:
            self._pace = self._pace.answered(permit.kind, sent_at=permit.sent_at)

    async def _publish(self, connection: Connection, refusal: Refusal) -> bool:
        """Share a 429 with the fleet; return whether to withhold the place."""
        before, after = self._pace, self._pace.refused(refusal)
        self._pace = after
        self._log_slowdown(refusal, before, after)
        state = connection.state

        try:
            first = await state.pause(max(0.0, after.paused_until - refusal.at))
            if first and after.step > before.step:
                await state.spread_out()
            if after.counted != before.counted:
                await state.count_all()
            return first and refusal.crowded and await self._may_withhold(connection)
        except (RedisError, OSError):
            # Nothing starts while the store is unavailable.
            return False

    async def _may_withhold(self, connection: Connection) -> bool:
        left = await connection.slots.seconds_left()
        withheld = sum(s is not None and s > connection.slots.ttl for s in left)
        return withheld + 1 < self._limits.in_flight

    async def _refuse_long_wait(
        self, connection: Connection, kind: Kind, seen: Snapshot
    ) -> None:
        if self._limits.max_wait is None or not _counts(kind, seen):
            return

        taken: dict[Rate, list[float]] = {}
        for rate, window in connection.windows.items():
            left = await window.seconds_left()
            taken[rate] = [window.free_in(s) for s in left if s is not None]

        line = connection.line
        ahead = line.statistics().tasks_waiting + line.locked()
        starts = earliest_starts(ahead + 1, self._limits, taken_until=taken)
        self._refuse_if_longer(starts[-1], kind)

    async def _check_policy(self, connection: Connection) -> None:
        if connection.is_checked:
            return

        policy = await connection.state.policy()
        connection.is_checked = True
        if policy not in {None, "noeviction"}:
            _logger.warning(
                "the store may evict places in use; set maxmemory-policy noeviction",
                extra={"policy": policy},
            )


def _counts(kind: Kind, seen: Snapshot) -> bool:
    return kind == "export" or (seen.counted and kind in {"poll", "file"})


def _wait(connection: Connection, kind: Kind, seen: Snapshot) -> float:
    # A kind that takes no place in a window waits only for lost places in flight.
    spared = 0.0 if _counts(kind, seen) else connection.recovery - connection.slots.ttl
    return max(seen.pause, seen.recovery - spared, 0.0)


async def _release_unused(leases: Sequence[Lease]) -> None:
    for lease in leases:
        await lease.release_unused()
