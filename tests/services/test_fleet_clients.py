"""Clients that share limits and exports through a real Valkey, or a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import LimiterUnavailableError, MonthlyQuotaError
from amplitude_cohorts_async.limits import LEAVE_ROOM, Limits, Rate
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator, Quotas
from support.canary import API_KEY, SECRET_KEY
from support.fleet_stores import limiter_of

if TYPE_CHECKING:
    from support.fleet_stores import FleetStore

pytestmark = pytest.mark.services

QUICK = Limits(exports=Rate(4, per=0.2), clock_margin=0.01, release_delay=0.1)
EAGER = Polling(initial_delay=0.1, interval=0.1)


@pytest.fixture
async def emulator() -> AsyncIterator[CohortsEmulator]:
    """A service with short jobs and three exports a month."""
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        job_seconds=0.3,
        quotas=Quotas(windows=(), month=3),
    ) as emulator:
        emulator.add_cohort("c1", members=["ann", "bob"])
        yield emulator


@pytest.fixture(autouse=True)
def old_store(fleet_store: FleetStore) -> None:
    """A store that has been in use: a new one makes everybody wait first."""
    fleet_store.use("fleet")


@asynccontextmanager
async def member_of_fleet(
    emulator: CohortsEmulator, fleet_store: FleetStore
) -> AsyncIterator[CohortsClient]:
    """A client with a limiter, as each process of a fleet has its own."""
    limiter = limiter_of(fleet_store, app="fleet", limits=QUICK, lease=1.0)

    async with (
        aclosing(limiter),
        CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=emulator.base_url,
            limiter=limiter,
            polling=EAGER,
        ) as client,
    ):
        yield client


async def test_the_fleet_requests_an_export_once(
    emulator: CohortsEmulator, fleet_store: FleetStore, tmp_path: Path
) -> None:
    """Two clients with limiters of their own find each other on the board."""
    async with (
        member_of_fleet(emulator, fleet_store) as one,
        member_of_fleet(emulator, fleet_store) as two,
    ):
        saved = await asyncio.gather(
            one.export("c1", tmp_path / "one.csv"),
            two.export("c1", tmp_path / "two.csv"),
        )

    assert 1 == emulator.spent
    assert saved[0].token == saved[1].token
    assert [] == emulator.violations


async def test_the_fleet_counts_the_month_together(
    emulator: CohortsEmulator, fleet_store: FleetStore
) -> None:
    """What one spent is gone for the other, before the service is asked again."""
    async with (
        member_of_fleet(emulator, fleet_store) as one,
        member_of_fleet(emulator, fleet_store) as two,
    ):
        await two.request_export("c1")
        await one.request_export("c1")
        await one.request_export("c1")

        with pytest.raises(MonthlyQuotaError):
            await two.request_export("c1")

    assert 3 == emulator.requests("export")


async def test_one_variable_makes_a_fleet(
    emulator: CohortsEmulator, fleet_store: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the store away nothing is sent: the limiter is the one of the variable."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AMPLITUDE_LIMITER_URL", fleet_store.server.url)
    fleet_store.server.kill()

    try:
        async with CohortsClient.from_env() as client:
            with pytest.raises(LimiterUnavailableError):
                await client.list_cohorts()
    finally:
        fleet_store.server.start()

    assert [] == emulator.log


async def test_the_limits_of_a_client_are_those_of_its_variable(
    emulator: CohortsEmulator, fleet_store: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go to the limiter, which states them for both."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AMPLITUDE_LIMITER_URL", fleet_store.server.url)

    client = CohortsClient.from_env(limits=LEAVE_ROOM)

    assert client._config.limiter is not None
    assert LEAVE_ROOM == client._config.limits == client._config.limiter.limits


async def test_no_key_is_in_the_store(
    emulator: CohortsEmulator, fleet_store: FleetStore, tmp_path: Path
) -> None:
    """Neither names nor values tell whose limits they are."""
    async with member_of_fleet(emulator, fleet_store) as client:
        await client.export("c1", tmp_path / "c1.csv")

    dump = fleet_store.dump()

    assert dump
    for told in dump:
        assert API_KEY.encode() not in told
        assert SECRET_KEY.encode() not in told
