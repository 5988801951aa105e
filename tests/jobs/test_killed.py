"""Real processes, which are killed, or ask for the same at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas, faults
from amplitude_cohorts_async.testing.faults import Step
from support.canary import API_KEY, SECRET_KEY
from support.exporting import until
from support.exporting_process import Exporter
from support.stage import DURABLE, TEN

pytestmark = pytest.mark.slow

where_durable = pytest.mark.parametrize("store", DURABLE, indirect=True)


@pytest.fixture
async def service() -> AsyncIterator[CohortsEmulator]:
    """A service in real time; a job takes as long as its test has patience."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, quotas=Quotas(windows=())
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"], job_seconds=0.5)
        for cohort_id in TEN:
            emulator.add_cohort(cohort_id, members=["ann"], job_seconds=0.2)
        yield emulator


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty store."""
    if request.param == "sqlite":
        return str(tmp_path / "exports.db")

    server = {"redis": "valkey"}.get(request.param, request.param)

    return str(request.getfixturevalue(server).url)


async def kill_when(
    process: asyncio.subprocess.Process, condition: Callable[[], bool]
) -> None:
    """End a process at some moment as a power cut does."""
    await until(lambda: condition() or process.returncode is not None)
    assert process.returncode is None, await process.communicate()
    process.kill()
    await process.communicate()


@where_durable
@pytest.mark.parametrize("step", ["status", "file"])
async def test_killed_while_it_polls_or_downloads(
    service: CohortsEmulator, store: str, tmp_path: Path, step: Step
) -> None:
    """The next process goes on with its export."""
    exporter = Exporter(service.base_url, store, str(tmp_path / "a.csv"))
    service.fail_next("file", faults.hang() if step == "file" else faults.works())

    process = await exporter.start()
    await kill_when(process, lambda: bool(service.requests(step)))

    assert 0 == await exporter.spent()
    assert 1 == service.spent
    assert "ann" in (tmp_path / "a.csv").read_text()


async def test_a_run_without_a_store_is_killed(
    service: CohortsEmulator, tmp_path: Path
) -> None:
    """
    Its directory has one: ten exports in all; what was delivered is left alone.

    A request that left, and whose answer was not recorded yet, is in doubt.
    """
    exporter = Exporter(service.base_url, "", str(tmp_path), "many", ",".join(TEN))

    process = await exporter.start()
    await kill_when(process, lambda: len([*tmp_path.glob("cohort*.csv")]) >= 2)
    requested = service.spent
    rest, in_doubt = await exporter.told()

    assert requested + rest == service.spent
    assert 10 == len([*tmp_path.glob("cohort*.csv")]) + in_doubt
    assert 10 - in_doubt <= service.spent <= 10


@where_durable
async def test_eight_processes_at_once(store: str, tmp_path: Path) -> None:
    """One export, whichever of them is first, and a file for each."""
    clock = FakeClock(jumps=False)

    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=Quotas(windows=())
    ) as service:
        service.add_cohort("c1", members=["ann"], job_seconds=1.0)
        exporters = [
            Exporter(service.base_url, store, str(tmp_path / f"{number}.csv"))
            for number in range(8)
        ]
        exports = asyncio.gather(*(exporter.spent() for exporter in exporters))
        # The job ends when all of them wait for it.
        while await begun(store, service) < len(exporters):
            assert not exports.done(), await exports
            await asyncio.sleep(0.05)
        clock.advance(1.0)
        spent = await exports

    assert 1 == service.spent == sum(spent)
    assert 8 == len([*tmp_path.glob("*.csv")])


async def begun(store: str, service: CohortsEmulator) -> int:
    """Count the deliveries in a store."""
    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=service.base_url, jobs=store
    ) as client:
        return sum(len(record.deliveries) for record in await client.jobs())
