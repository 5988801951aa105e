"""
How much of the permitted rate a fleet on Postgres uses, in a time that the test drives.

The limits are the documented ones, and the database's clock is replaced by that of the
event loop, which jumps from one timer to the next: the speed of the machine is of no
account. What real processes and faults do is in tests/io/limits/test_fleet_faults.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from statistics import mean
from typing import Any, TypeAlias

import attrs
import pytest

pytest.importorskip("psycopg_pool", reason="the extra postgres is not installed")

from psycopg import Connection, OperationalError

from amplitude_cohorts_async._core.pacing import reuse_after
from amplitude_cohorts_async._io.limits.shared import good_for
from amplitude_cohorts_async._io.stores import StoreFailedError
from amplitude_cohorts_async.contrib._postgres.server import Server
from amplitude_cohorts_async.contrib.postgres import PostgresLimiter
from amplitude_cohorts_async.errors import LimiterUnavailableError
from amplitude_cohorts_async.limits import Limits, Rate
from support.counting import most_in_any
from support.driven_loop import DrivenLoop, run_driven
from support.fleet_stores import PostgresStore
from support.postgres import Postgres, connected

pytestmark = [pytest.mark.services, pytest.mark.slow]

LIMITS = Limits(exports=Rate(4, per=60), polls=None)
WINDOW = LIMITS.exports[0].per
REUSE_AFTER = reuse_after(LIMITS.exports[0], LIMITS)
LEASE = 30.0
LOST_FOR = good_for(LEASE, LIMITS.release_delay) + REUSE_AFTER
"""Seconds for which a place is taken whose holder was killed, or forgotten."""
MEASURED = 40
"""Exports: ten windows."""


@attrs.define
class Clock:
    """Sets the database's clock to the loop's, before each statement."""

    url: str
    connection: Connection[Any] | None = None

    def set(self) -> None:
        """Set it; a server that is away has no clock."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DrivenLoop)

        with suppress(OperationalError):
            if self.connection is None or self.connection.closed:
                self.connection = Connection.connect(self.url, autocommit=True)
            self.connection.execute(
                "UPDATE amplitude_cohorts.time SET seconds = %s", [loop.time()]
            )

    def close(self) -> None:
        """Close its connection."""
        if self.connection is not None:
            self.connection.close()


@attrs.define
class Service:
    """
    What the service sees; it works on when a caller has died.

    Attributes:
        starts: When requests came.
        held: Seconds for which it worked on each.
    """

    starts: list[float] = attrs.field(factory=list[float])
    held: list[float] = attrs.field(factory=list[float])
    most_in_flight: int = 0
    _running: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])

    async def export(self, seconds: float) -> None:
        """Work on an export."""
        self.starts.append(asyncio.get_running_loop().time())
        self.held.append(seconds)
        task = asyncio.create_task(asyncio.sleep(seconds))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        self.most_in_flight = max(self.most_in_flight, len(self._running))
        await asyncio.shield(task)

    def used_of_permitted(self, since: float) -> float:
        """
        Return the share of the permitted rate that was used since a moment.

        From one export to the fourth after it is a window and a request, at best.
        """
        begun = [index for index, at in enumerate(self.starts) if at >= since]
        starts, held = self.starts[begun[0] :], self.held[begun[0] :]
        pairs = zip(starts, starts[LIMITS.exports[0].count :], strict=False)

        return (REUSE_AFTER + mean(held)) / mean(later - at for at, later in pairs)


@attrs.define(eq=False)
class Process:
    """Six callers with a limiter of their own, who request one export after another."""

    limiter: PostgresLimiter
    service: Service
    rng: random.Random
    sending: int = 0
    is_cut_off: bool = False
    is_killed: bool = False
    tasks: list[asyncio.Task[None]] = attrs.field(factory=list[asyncio.Task[None]])

    def start(self) -> None:
        """Let the callers begin."""
        _process.set(self)
        self.tasks = [asyncio.create_task(self._call()) for _ in range(6)]

    def kill(self) -> None:
        """Ask for nothing any more: neither keep a place nor give one back."""
        self.is_killed = self.is_cut_off = True

    async def stop(self) -> None:
        """End the callers."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.limiter.aclose()

    async def _call(self) -> None:
        while not self.is_killed:
            try:
                async with self.limiter.slot("export"):
                    self.sending += 1
                    try:
                        await self.service.export(self.rng.uniform(0.2, 2.0))
                    finally:
                        self.sending -= 1
            except LimiterUnavailableError:
                await asyncio.sleep(20.0)


_process: ContextVar[Process | None] = ContextVar("_process", default=None)


@attrs.define
class Fleet:
    """Four processes at work."""

    store: PostgresStore
    service: Service
    processes: list[Process] = attrs.field(factory=list[Process])

    def add(self) -> None:
        """Start one more process."""
        limiter = PostgresLimiter.from_url(
            self.store.server.url, app="app", limits=LIMITS, lease=LEASE
        )
        number = len(self.processes)
        process = Process(limiter, self.service, random.Random(number))
        process.start()
        self.processes.append(process)

    async def saw(self, exports: int) -> None:
        """Wait until so many have come."""
        while len(self.service.starts) < exports:  # noqa: ASYNC110 - time is driven
            await asyncio.sleep(1.0)


Fault: TypeAlias = Callable[[Fleet], Awaitable[None]]


@pytest.fixture
def store(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresStore]:
    """A database that has been in use, whose clock is the loop's."""
    store = PostgresStore(postgres)
    store.use()
    with connected(postgres.url) as connection:
        connection.execute(
            """
            CREATE TABLE amplitude_cohorts.time (seconds double precision);
            INSERT INTO amplitude_cohorts.time VALUES (0);
            CREATE OR REPLACE FUNCTION amplitude_cohorts.cohorts_clock()
            RETURNS double precision LANGUAGE sql VOLATILE
            AS $$ SELECT seconds FROM amplitude_cohorts.time $$
            """
        )
    clock, execute = Clock(postgres.url), Server.execute

    async def driven(server: Server, statement: Any, **parameters: object) -> Any:
        process = _process.get()
        if process is not None and process.is_cut_off:
            raise StoreFailedError
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DrivenLoop)
        clock.set()
        with loop.in_real_time():
            return await execute(server, statement, **parameters)

    monkeypatch.setattr(Server, "execute", driven)
    yield store
    clock.close()


async def used(
    store: PostgresStore, fault: Fault, *, recovery: float = 0.0
) -> tuple[Service, float]:
    """
    Return what the service saw, and the share of the permitted rate that was used.

    It is measured from one lease after the fault on, or from the end of what all have
    to wait for then.
    """
    service = Service()
    fleet = Fleet(store, service)
    for _ in range(4):
        fleet.add()

    await fleet.saw(6)
    await fault(fleet)
    since = asyncio.get_running_loop().time() + recovery
    await asyncio.sleep(recovery)
    await fleet.saw(len(service.starts) + MEASURED)
    share = service.used_of_permitted(since)
    for process in fleet.processes:
        await process.stop()

    return service, share


def check(service: Service, share: float) -> None:
    """No limit is broken, and 95 % of what is permitted is used."""
    assert most_in_any(service.starts, WINDOW - 1e-6) <= LIMITS.exports[0].count
    assert service.most_in_flight <= LIMITS.in_flight
    assert share >= 0.95


async def nothing(_fleet: Fleet) -> None:
    """Nothing goes wrong."""


def test_a_fleet_uses_what_is_permitted(store: PostgresStore) -> None:
    """All the time."""
    check(*run_driven(used(store, nothing)))


def test_a_fleet_whose_members_were_killed(store: PostgresStore) -> None:
    """Once the leases of their places are over, and a window."""

    async def kill(fleet: Fleet) -> None:
        for process in fleet.processes[:2]:
            while not process.sending:  # noqa: ASYNC110 - time is driven
                await asyncio.sleep(0.05)
            process.kill()
            fleet.add()

    check(*run_driven(used(store, kill, recovery=LOST_FOR)))


def test_a_fleet_that_was_cut_off(store: PostgresStore) -> None:
    """For longer than a lease: one lease later."""

    async def cut_off(fleet: Fleet) -> None:
        for is_cut_off in (True, False):
            for process in fleet.processes:
                process.is_cut_off = is_cut_off
            await asyncio.sleep(1.5 * LEASE if is_cut_off else 0.0)

    check(*run_driven(used(store, cut_off, recovery=LEASE)))


def test_a_fleet_whose_server_was_started_anew(store: PostgresStore) -> None:
    """Once all is over that it may have forgotten."""

    async def start_anew(fleet: Fleet) -> None:
        fleet.store.server.kill()
        await asyncio.sleep(1.0)
        fleet.store.server.start()

    check(*run_driven(used(store, start_anew, recovery=LOST_FOR + LEASE)))
