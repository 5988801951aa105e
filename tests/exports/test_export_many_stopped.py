"""A run of many exports that is left early spends nothing from then on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from amplitude_cohorts_async import CohortsClient, LocalLimiter
from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.jobs import SqliteJobStore, Work
from amplitude_cohorts_async.limits import Limits, Rate
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY
from support.exporting import until

T = TypeVar("T")

IDS = [f"cohort{number}" for number in range(6)]
HOUR = 3600.0


def tasks_of_runs() -> set[asyncio.Task[object]]:
    """Return the tasks of exports that are under way."""
    return {
        task for task in asyncio.all_tasks() if task.get_name().startswith("export of ")
    }


@pytest.fixture
def clock() -> FakeClock:
    """A clock that does not jump while a busy machine is slow to answer."""
    return FakeClock(grace=0.05)


@pytest.fixture(autouse=True)
def cohorts(emulator: CohortsEmulator) -> None:
    """Six cohorts, whose exports take a moment."""
    for cohort_id in IDS:
        emulator.add_cohort(cohort_id, members=["ann"])


@pytest.fixture
async def client(
    emulator: CohortsEmulator, clock: FakeClock
) -> AsyncIterator[CohortsClient]:
    """A client that requests one export a minute, so that most of them wait."""
    limits = Limits(exports=Rate(1, per=60.0))

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        limiter=LocalLimiter(limits, clock=clock),
    ) as client:
        yield client


async def test_after_a_break_nothing_is_requested(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """An iterator that is held in a variable spends nothing by itself."""
    batch = client.export_many(IDS, tmp_path)
    async for _ in batch:
        break
    spent = emulator.spent
    await clock.sleep(HOUR)

    assert spent == emulator.spent < 6


async def test_an_error_in_the_body_stops_the_requests(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """The exception leaves the loop, and the loop spends nothing more."""
    with pytest.raises(LookupError):
        async for _ in client.export_many(IDS, tmp_path):
            raise LookupError
    spent = emulator.spent
    await clock.sleep(HOUR)

    assert spent == emulator.spent < 6


async def test_a_time_out_in_the_body_stops_the_requests(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """So does a time-out that strikes while the body is at work."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as scope:
            async for _ in client.export_many(IDS, tmp_path):
                scope.reschedule(0)
                await asyncio.Event().wait()
    spent = emulator.spent
    await clock.sleep(HOUR)

    assert spent == emulator.spent < 6


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_step_that_is_cancelled_stops_the_run(
    client: CohortsClient,
    emulator: CohortsEmulator,
    clock: FakeClock,
    tmp_path: Path,
    taken: int,
) -> None:
    """A time-out that strikes while the iterator works leaves no task behind."""
    batch = client.export_many(IDS, tmp_path)
    for _ in range(taken):
        await anext(batch)
    step = asyncio.create_task(anext(batch))
    # Not a time: the clock jumps when nothing happens for one.
    for _ in range(20):
        await asyncio.sleep(0)
    step.cancel()
    await asyncio.wait([step])
    spent = emulator.spent
    await clock.sleep(HOUR)

    assert step.cancelled()
    assert set() == tasks_of_runs()
    assert spent == emulator.spent
    with pytest.raises(StopAsyncIteration):
        await anext(batch)


async def test_leaving_the_context_stops_everything(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """No task is left when the context is, and nothing is spent later."""
    async with client.export_many(IDS, tmp_path) as batch:
        await anext(batch)

    left = tasks_of_runs()
    spent = emulator.spent
    await clock.sleep(HOUR)

    assert set() == left
    assert spent == emulator.spent


async def test_in_its_context_a_run_works_ahead(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """The exports that were begun go on while the body is at work."""
    async with client.export_many(IDS, tmp_path, max_concurrency=3) as batch:
        await anext(batch)
        await until(lambda: 3 == emulator.spent)


@pytest.mark.slow
async def test_a_second_loop_goes_on_where_the_first_was_left(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Two loops over one iterator, one after the other, get each outcome once."""
    batch = client.export_many(IDS, tmp_path)
    first: list[str] = []

    async for outcome in batch:
        first.append(outcome.cohort_id)
        break
    rest = [outcome.cohort_id async for outcome in batch]

    assert sorted(IDS) == sorted(first + rest)
    assert 6 == emulator.spent


@pytest.mark.slow
async def test_two_loops_at_once_share_the_outcomes(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Each outcome comes once, to one of them, and both loops end."""
    batch = client.export_many(IDS, tmp_path)

    async def loop() -> list[str]:
        return [outcome.cohort_id async for outcome in batch]

    one, other = await asyncio.gather(loop(), loop())

    assert sorted(IDS) == sorted([*one, *other])
    assert 6 == emulator.spent


@pytest.mark.slow
async def test_a_loop_that_is_left_does_not_hold_up_another(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Requests go out as long as one loop waits for an outcome."""
    batch = client.export_many(IDS, tmp_path)

    async def loop() -> list[str]:
        return [outcome.cohort_id async for outcome in batch]

    rest = asyncio.create_task(loop())
    first = await anext(batch)

    assert sorted(IDS) == sorted([first.cohort_id, *await rest])
    assert 6 == emulator.spent


async def test_an_iterator_that_is_dropped_stops(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """Its tasks end when nothing refers to it any more."""
    batch = client.export_many(IDS, tmp_path)
    await anext(batch)
    spent, running = emulator.spent, tasks_of_runs()

    del batch
    gc.collect()
    await asyncio.wait(running)
    await clock.sleep(HOUR)

    assert spent == emulator.spent < 6


async def test_closing_the_client_stops_its_runs(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """The client waits for what it started, and the iterator says why it ends."""
    batch = client.export_many(IDS, tmp_path)
    await anext(batch)
    spent = emulator.spent

    await client.aclose()
    left = tasks_of_runs()
    await clock.sleep(HOUR)

    assert set() == left
    assert spent == emulator.spent < 6
    with pytest.raises(ConfigurationError, match="closed"):
        await anext(batch)


async def test_closing_the_client_ends_the_step_of_another_task(
    client: CohortsClient, tmp_path: Path
) -> None:
    """A loop in another task gets an error, and not the end of the outcomes."""
    batch = client.export_many(IDS, tmp_path)
    await anext(batch)
    step = asyncio.create_task(anext(batch))
    await asyncio.sleep(0)

    await client.aclose()

    with pytest.raises(ConfigurationError, match="closed"):
        await step


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cancelled", "dropped"])
async def test_the_record_of_a_run_that_was_stopped_stays_open(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, way: str
) -> None:
    """The same call goes on with it, and no export is spent twice."""
    batch = client.export_many(IDS, tmp_path)
    await anext(batch)
    if "cancelled" == way:
        step = asyncio.create_task(anext(batch))
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
    del batch

    outcomes = [outcome async for outcome in client.export_many(IDS, tmp_path)]

    assert 6 == len([outcome for outcome in outcomes if outcome.saved])
    assert 6 == emulator.spent


class SlowToLeave(SqliteJobStore):
    """A store that takes its time for the second change of the runs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.changes = 0

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Wait before the change, as a busy machine does."""
        self.changes += group == "runs"
        if (group, self.changes) == ("runs", 2):
            await asyncio.sleep(0.05)

        return await super().transact(app, group, work)


async def test_a_dropped_run_is_gone_on_with_at_once(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """It is left before the next one looks for it, however long that takes."""
    (tmp_path / "files").mkdir()

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        limiter=LocalLimiter(clock=clock),
        jobs=SlowToLeave(tmp_path / "exports.db"),
    ) as client:
        batch = client.export_many(IDS, tmp_path / "files")
        await anext(batch)
        del batch

        again = client.export_many(IDS, tmp_path / "files")
        outcomes = [outcome async for outcome in again]

    assert 6 == len([outcome for outcome in outcomes if outcome.saved])
    assert 6 == emulator.spent
