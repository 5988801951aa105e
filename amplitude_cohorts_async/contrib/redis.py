"""
One app's limits, kept by a fleet: the same promises over Redis 7 or Valkey.

Each place of each limit is a key that one request holds; see `_leases`. What
the service says to one process is a sign all heed; see `_signs`. Keys carry a
hash of the app, never an API key. The store needs `maxmemory-policy
noeviction`, for what it evicts are places in use.

When the store cannot be asked nothing is sent: `LimiterUnavailableError`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
)
from datetime import datetime
from hashlib import sha256
from importlib.util import find_spec
from typing import Any, Literal, NoReturn, Self
from urllib.parse import urlsplit

import anyio
import attrs

from .._core.pacing import Pace, Refusal
from .._core.schedule import binding_rates, earliest_starts
from ..errors import (
    ConfigurationError,
    LimiterUnavailableError,
    MissingExtraError,
    QuotaError,
    QuotaWaitError,
)
from ..limits import DOCUMENTED, Limits, Rate
from ..protocols import JobBoard, Kind, Limiter, Permit, Statistics

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff
    from redis.exceptions import LockError, RedisError

    from ._leases import Lease, Leases, to_the_end
    from ._signs import Notice, Signs
except ModuleNotFoundError as _error:
    raise MissingExtraError("a limiter shared by a fleet", extra="redis") from _error

__all__ = ("RedisLimiter",)

_log = logging.getLogger(__name__)

_PARKED = 600.0
# redis-py would look its own version up on the disk for each connection.
_UNNAMED: dict[str, Any] = (
    {"driver_info": None}
    if find_spec("redis.driver_info")
    else {"lib_name": None, "lib_version": None}
)
_NAME = re.compile(r"[\w.:@-]{1,100}", re.ASCII)


@attrs.define(eq=False)
class _Permit:
    kind: Kind
    windows: Sequence[Lease]
    slot: Lease
    sent_at: float
    refusals: list[Refusal] = attrs.field(factory=list[Refusal])

    def throttled(self, retry_after: float | None = None) -> None:
        """
        Report a 429: the whole fleet pauses.
        """
        self.refused("", retry_after)

    def refused(self, details: str, retry_after: float | None = None) -> None:
        """
        Report a 429 in the service's words, which tell what was too much.
        """
        self.refusals.append(
            Refusal(
                kind=self.kind,
                sent_at=self.sent_at,
                at=asyncio.get_running_loop().time(),
                retry_after=retry_after,
                details=details,
            )
        )


class _Store:
    """
    What belongs to one event loop: connections, places, lines.
    """

    def __init__(self, url: str, prefix: str, limits: Limits) -> None:
        self.redis = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            socket_timeout=None,  # see `in_time`
            **_UNNAMED,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 3),
        )
        self._prefix = prefix
        self._limits = limits
        self.turn = anyio.Lock()
        self.notice: Notice | None = None
        self.is_checked = False
        self.windows = {
            rate: self._leases(f"w{rate.per:g}", rate.count, limits.hold(rate))
            for rate in binding_rates(limits.exports)
        }
        self.slots = self._leases("c", limits.in_flight, 0.0)
        self.recovery = max(pool.ttl for pool in [*self.windows.values(), self.slots])
        self.signs = Signs(self.redis, prefix, recovery=self.recovery)

    def lock(self, name: str) -> Leases:
        """
        Make a single place.
        """
        return self._leases(name, 1, 0.0)

    def _leases(self, name: str, count: int, hold: float) -> Leases:
        return Leases(
            self.redis,
            [f"{self._prefix}:{name}:{number}" for number in range(count)],
            deadline=self._limits.deadline,
            hold=hold,
            linger=self._limits.linger,
        )


class RedisLimiter:
    """
    Keeps the limits of one app together with other processes.

    Inside a process first come, first served; between processes whoever asks
    when a place is free. A store that is used for the first time, or has lost
    its data, lets nobody start before everything it may have forgotten would
    be over: about a minute and a half with the documented limits.
    """

    def __init__(
        self,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> None:
        """
        Same as `from_url()`.
        """
        if (on_outage is None) != (processes is None):
            raise ConfigurationError(
                "on_outage='share' and processes go together: say among how many "
                "processes the limits are to be shared while the store is away"
            )

        self._url = url
        self._limits = limits
        self._app = None if app is None else _checked_name(app)
        self._bound: str | None = None
        self._share = None if processes is None else limits.share(processes)
        self._make_local: Callable[[Limits], Limiter] | None = None
        self._local: Limiter | None = None
        self._stores: dict[asyncio.AbstractEventLoop, _Store] = {}
        self._pace = Pace()
        self._lost_at = math.inf
        self._bridged = False
        self._counts: dict[str, float] = dict.fromkeys(
            ("started", "in_flight", "waiting", "waited", "throttled"), 0
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> Self:
        """
        Describe the limiter; nothing is sent yet.

        Args:
            url: The store, as in "redis://localhost:6379/0".

            app: A name for the app in the keys; None takes the client's, a
                hash of origin and API key.

            limits: The limits; the same for all processes.

            on_outage: None sends nothing while the store is away. "share" goes
                on with a fixed share once everything the store knew is over;
                safe as long as it is away for all.

            processes: Among how many to share then.

        Raises:
            ConfigurationError: There are more processes than places.
        """
        return cls(
            url, app=app, limits=limits, on_outage=on_outage, processes=processes
        )

    def bind(
        self, app: str, *, local: Callable[[Limits], Limiter] | None = None
    ) -> None:
        """
        Learn which app this is for; the client says so.

        Args:
            app: A hash of origin and API key.

            local: Makes the limiter to go on with while the store is away.

        Raises:
            ConfigurationError: The limiter serves another app already.
        """
        if self._bound not in {None, app}:
            raise ConfigurationError(
                "this limiter keeps the limits of another app; make one for each"
            )

        self._bound = app
        self._app = self._app or _checked_name(app)
        self._make_local = self._make_local or local

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

            LimiterUnavailableError: The store is away, or took the place back
                while the request was running.
        """
        return self._slot(kind)

    def cohort(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until nobody else in the fleet writes to this cohort.

        Raises:
            LimiterUnavailableError: The store is away, or took the lock back.
        """
        return self._alone(_hashed("cohort", cohort_id))

    @property
    def board(self) -> JobBoard:
        """
        Where all of the fleet that want the same export find each other.
        """
        return self

    def claim(self, key: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until nobody else in the fleet is about to request this export.
        """
        return self._alone(_hashed("claim", key))

    async def find(self, key: str) -> str | None:
        """
        Tell the token of the running export, if there is one.
        """
        with self._translated():
            return await self._store().signs.find(_hashed("job", key))

    async def put(self, key: str, token: str, *, seconds: float) -> None:
        """
        Tell the fleet of an export that is running now.
        """
        with self._translated():
            await self._store().signs.put(_hashed("job", key), token, seconds=seconds)

    async def remove(self, key: str, token: str) -> None:
        """
        Tell the fleet that this export is over.
        """
        with self._translated():
            await self._store().signs.remove(_hashed("job", key), token)

    def statistics(self) -> Statistics:
        """
        Tell what this process was let do, and what waited.

        Returns:
            "started" and "started.export", "started.poll" and so on,
            "in_flight", "waiting", "waited" (seconds, of all together) and
            "throttled".
        """
        return dict(self._counts)

    async def tally(self, name: str, by: int, *, until: datetime) -> int:
        """
        Add to a counter of the fleet, which is forgotten after *until*.

        Returns:
            The counter's value.

        Raises:
            LimiterUnavailableError: The store is away.
        """
        store = self._store()

        with self._translated():
            return await store.signs.tally(name, by, until=until)

    async def aclose(self) -> None:
        """
        Close the connections of the running loop; calling it twice does no harm.
        """
        if store := self._stores.pop(asyncio.get_running_loop(), None):
            await store.redis.aclose()

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncGenerator[None]:
        with self._translated():
            lease = await self._store().lock(name).take()

        try:
            async with self._kept([lease]):
                yield
        finally:
            await to_the_end(lease.end(clean=True))

    @asynccontextmanager
    async def _slot(self, kind: Kind) -> AsyncGenerator[Permit]:
        came_at = asyncio.get_running_loop().time()
        store = self._store()
        self._count(waiting=+1)

        try:
            permit = await self._ask(store, kind)
        finally:
            self._count(waiting=-1)

        if permit is None:
            async with self._own_share().slot(kind) as local:
                yield local
            return

        self._count(started=1, in_flight=+1, waited=permit.sent_at - came_at)
        self._count(**{f"started.{kind}": 1})
        clean = False

        try:
            async with self._kept([*permit.windows, permit.slot]):
                yield permit
            clean = True
        finally:
            self._count(in_flight=-1)
            await to_the_end(self._settle(store, permit, clean=clean))

    async def _ask(self, store: _Store, kind: Kind) -> _Permit | None:
        """
        Get a permit from the store; None sends the caller to our own share.
        """
        now = asyncio.get_running_loop().time

        try:
            permit = await self._admit(store, kind)
        except QuotaError:
            # One of them is a TimeoutError, and so an OSError.
            raise
        except (RedisError, OSError) as error:
            self._lost_at = min(self._lost_at, now())
            if self._share is None or now() < self._lost_at + store.recovery:
                self._refuse(error)
            self._bridged = True
            return None

        self._lost_at = math.inf
        return permit

    async def _admit(self, store: _Store, kind: Kind) -> _Permit:
        while True:
            counts = kind == "export"

            # Asked before the turn, the store's answers would change the order.
            if not counts or self._limits.max_wait is not None:
                notice = await self._clear(store, kind)
                await self._refuse_long_wait(store, kind, notice)
                counts = _counts(kind, notice)

            if counts:
                # One at a time up to the sending: first come, first served.
                async with store.turn:
                    permit = await self._take(store, kind, counts=True)
            else:
                permit = await self._take(store, kind, counts=False)

            if permit is not None:
                return permit

    async def _take(self, store: _Store, kind: Kind, *, counts: bool) -> _Permit | None:
        """
        Take all places, the slot last; None if the kind counts by now.
        """
        windows = store.windows.values() if counts else ()

        while True:
            notice = await self._clear(store, kind)
            if _counts(kind, notice) != counts:
                return None

            leases: list[Lease] = []

            try:
                for window in windows:
                    leases.append(await window.take())  # noqa: PERF401 - see below
                if counts:
                    await self._space_out(store, notice)
                leases.append(await store.slots.take())

                if await self._still_clear(store, kind, notice, leases):
                    *held, slot = leases
                    sent_at = asyncio.get_running_loop().time()
                    return _Permit(kind, held, slot, sent_at)
            except BaseException:
                # What was taken so far is known here, one by one.
                await to_the_end(_put_back(leases))
                raise

            await to_the_end(_put_back(leases))

    async def _clear(self, store: _Store, kind: Kind) -> Notice:
        """
        Wait until no sign that we know of keeps this kind from starting.

        What was read last is good enough here: it is read again when all
        places are held, see `_still_clear`. That saves a round trip.
        """
        await self._check_policy(store)

        while True:
            notice = store.notice or await store.signs.look()
            store.notice = None

            if notice.epoch is None:
                if await store.signs.begin_epoch():
                    _log.warning("the store is new or has lost its data; we wait")
                continue

            if self._bridged:
                # What we sent on our own is unknown to the store.
                self._bridged = False
                await store.signs.pause(store.recovery)
                continue

            wait = _wait(store, kind, notice)
            if not wait:
                store.notice = notice
                return notice

            self._refuse_if_longer(wait, kind)
            await anyio.sleep(wait + 0.001)

    async def _still_clear(
        self, store: _Store, kind: Kind, before: Notice, leases: Sequence[Lease]
    ) -> bool:
        now = asyncio.get_running_loop().time()

        for lease in leases:
            if lease.good_until < now + self._limits.deadline:
                try:
                    await lease.renew()
                except LockError:
                    return False

        after = store.notice = await store.signs.look()
        same = after.epoch == before.epoch and after.counted == before.counted
        return same and not _wait(store, kind, after)

    async def _space_out(self, store: _Store, notice: Notice) -> None:
        spacing = Pace(step=min(notice.step, 4)).spacing(self._limits.exports)

        if spacing:
            await store.signs.take_space(spacing)

    async def _settle(self, store: _Store, permit: _Permit, *, clean: bool) -> None:
        park = False
        for refusal in permit.refusals:
            park |= await self._publish(store, refusal)

        for lease in permit.windows:
            await lease.end(clean=clean)
        if park:
            await permit.slot.park(_PARKED)
        else:
            await permit.slot.end(clean=clean)

        if clean and not permit.refusals:
            self._pace = self._pace.answered(permit.kind, sent_at=permit.sent_at)

    async def _publish(self, store: _Store, refusal: Refusal) -> bool:
        """
        Tell the fleet of a 429; the answer is whether to park the place.
        """
        before, self._pace = self._pace, self._pace.refused(refusal)
        after = self._pace
        self._count(throttled=1)
        seconds = max(0.0, after.paused_until - refusal.at)
        _log.warning(
            "the service asked to slow down",
            extra={"kind": refusal.kind, "pause_seconds": seconds},
        )

        try:
            first = await store.signs.pause(seconds)
            if first and after.step > before.step:
                await store.signs.spread_out()
            if after.counted != before.counted:
                await store.signs.count_all()
            return first and refusal.crowded and await self._may_park(store)
        except (RedisError, OSError):
            # Nobody starts anything while the store is away.
            return False

    async def _may_park(self, store: _Store) -> bool:
        left = await store.slots.seconds_left()
        parked = sum(s is not None and s > store.slots.ttl for s in left)
        return parked + 1 < self._limits.in_flight

    @asynccontextmanager
    async def _kept(self, leases: Sequence[Lease]) -> AsyncGenerator[None]:
        """
        Renew leases of a request that takes long; cancel it if one is lost.
        """
        with anyio.CancelScope() as scope:
            renewal = asyncio.create_task(self._renew(leases, scope))
            try:
                yield
            finally:
                renewal.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({renewal})

        if scope.cancelled_caught:
            raise LimiterUnavailableError(
                f"{_place(self._url)} gave this request's place to somebody else "
                "while it was running; it was cancelled, trying again is safe"
            )

    async def _renew(self, leases: Sequence[Lease], scope: anyio.CancelScope) -> None:
        now = asyncio.get_running_loop().time

        while True:
            await anyio.sleep(self._limits.deadline / 2)
            try:
                for lease in leases:
                    await lease.renew()
            except LockError:
                scope.cancel()
            except (RedisError, OSError):
                if any(lease.good_until < now() for lease in leases):
                    scope.cancel()

    async def _refuse_long_wait(
        self, store: _Store, kind: Kind, notice: Notice
    ) -> None:
        if self._limits.max_wait is None or not _counts(kind, notice):
            return

        taken: dict[Rate, list[float]] = {}
        for rate, window in store.windows.items():
            left = await window.seconds_left()
            taken[rate] = [window.free_in(s) for s in left if s is not None]

        ahead = store.turn.statistics().tasks_waiting + store.turn.locked()
        starts = earliest_starts(ahead + 1, self._limits, taken_until=taken)
        self._refuse_if_longer(starts[-1], kind)

    def _refuse_if_longer(self, seconds: float, kind: Kind) -> None:
        if self._limits.max_wait is not None and seconds > self._limits.max_wait:
            raise QuotaWaitError(
                f"the next place for a request of kind {kind!r} is {seconds:.1f} s "
                f"away, and max_wait is {self._limits.max_wait:g} s; ask again "
                "later, or with a larger Limits.max_wait",
                seconds=seconds,
            )

    def _store(self) -> _Store:
        if self._app is None:
            raise ConfigurationError(
                "this limiter does not know its app; pass it to a client as "
                "limiter=..., or name the app with from_url(..., app=...)"
            )

        loop = asyncio.get_running_loop()
        if loop not in self._stores:
            alive = {k: v for k, v in self._stores.items() if not k.is_closed()}
            store = _Store(self._url, f"cohorts:{{{self._app}}}", self._limits)
            self._stores = {**alive, loop: store}

        return self._stores[loop]

    def _own_share(self) -> Limiter:
        if self._local is None:
            if self._make_local is None or self._share is None:
                raise LimiterUnavailableError(
                    f"{_place(self._url)} is away, and no client gave this limiter "
                    "the means to go on without it; nothing was sent"
                )
            self._local = self._make_local(self._share)

        return self._local

    async def _check_policy(self, store: _Store) -> None:
        if store.is_checked:
            return

        policy = await store.signs.policy()
        store.is_checked = True
        if policy not in {None, "noeviction"}:
            _log.warning(
                "the store may evict places in use; set maxmemory-policy noeviction",
                extra={"policy": policy},
            )

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> NoReturn:
        raise LimiterUnavailableError(
            f"{_place(self._url)} cannot say whether there is room "
            f"({type(error).__name__}); nothing was sent, trying again is safe"
        ) from error

    def _count(self, **by: float) -> None:
        for name, number in by.items():
            self._counts[name] = self._counts.get(name, 0) + number


def _counts(kind: Kind, notice: Notice) -> bool:
    return kind == "export" or (notice.counted and kind in {"poll", "file"})


def _wait(store: _Store, kind: Kind, notice: Notice) -> float:
    # What takes no place in a window only waits for lost places in flight.
    spared = 0.0 if _counts(kind, notice) else store.recovery - store.slots.ttl
    return max(notice.pause, notice.recovery - spared, 0.0)


async def _put_back(leases: Sequence[Lease]) -> None:
    for lease in leases:
        await lease.put_back()


def _hashed(what: str, name: str) -> str:
    return f"{what}:{sha256(name.encode()).hexdigest()[:16]}"


def _place(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or parts.path
    return f"the store at {host}:{parts.port}" if parts.port else f"the store {host}"


def _checked_name(app: str) -> str:
    if not _NAME.fullmatch(app):
        raise ConfigurationError(
            f"{app!r} cannot name an app; use up to 100 letters, digits or _.:@-"
        )

    return app
