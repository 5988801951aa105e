"""A plan costs nothing and says what will happen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.events import Event, QuotaWait
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY

IDS = [f"cohort{number}" for number in range(9)]


@pytest.fixture
def clock() -> FakeClock:
    """A clock that does not jump while a busy machine is slow to answer."""
    return FakeClock(grace=0.5)


@pytest.fixture
async def client(
    emulator: CohortsEmulator, clock: FakeClock
) -> AsyncIterator[CohortsClient]:
    """
    A client that asks once a job: each wait costs the clock's grace, in real time.
    """
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        polling=Polling(initial_delay=41, jitter=0),
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def cohorts(emulator: CohortsEmulator, clock: FakeClock) -> None:
    """Nine cohorts, computed a minute ago."""
    for cohort_id in IDS:
        emulator.add_cohort(cohort_id, members=["ann"], job_seconds=40)

    clock.advance(60)


async def test_a_plan_spends_nothing(
    client: CohortsClient, emulator: CohortsEmulator
) -> None:
    """One list and one usage, whatever the number of cohorts."""
    plan = await client.plan(IDS)

    assert (9, 491) == (plan.needed, plan.left_after)
    assert 0 == emulator.spent
    assert (1, 1) == (emulator.requests("list"), emulator.requests("usage"))


async def test_one_text_is_not_taken_apart(
    client: CohortsClient, emulator: CohortsEmulator
) -> None:
    """An id instead of a list of ids is an error, before anything is sent."""
    with pytest.raises(InvalidInputError, match="one text"):
        await client.plan(IDS[0])

    assert [] == emulator.log


@pytest.mark.slow
async def test_a_plan_agrees_with_the_run(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """Starts and end agree with the run within five per cent."""
    plan = await client.plan(IDS, job_seconds=40)
    began = clock.now()
    outcomes = [outcome async for outcome in client.export_many(IDS, tmp_path)]
    took = clock.now() - began
    starts = [record.at - began for record in emulator.log if record.step == "export"]

    assert 9 == len([each for each in outcomes if each.saved])
    assert pytest.approx(plan.ends_in, rel=0.05) == took
    assert (
        pytest.approx([planned.starts_in for planned in plan.exports], rel=0.05, abs=1)
        == starts
    )
    assert plan.needed == emulator.spent


async def test_a_plan_knows_what_started_a_moment_ago(
    client: CohortsClient, clock: FakeClock
) -> None:
    """Places in the windows that are taken are not planned with."""
    for cohort_id in IDS[:4]:
        await client.request_export(cohort_id)

    plan = await client.plan(IDS[4:5])

    assert 55 < (plan.exports[0].starts_in or 0) <= 61


async def test_unchanged_and_unknown_cohorts_need_no_export(
    client: CohortsClient, tmp_path: Path
) -> None:
    """The plan says which, and why."""
    saved = await client.export(IDS[0], tmp_path / "0.csv")

    plan = await client.plan([*IDS[:2], "nobody"], since=[saved])

    assert ["nobody"] == plan.unknown
    assert 1 == plan.needed
    assert ["unchanged since it was saved", None] == [
        planned.skipped for planned in plan.exports
    ]


async def test_a_wait_for_a_window_is_told(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """The hook hears how long the fifth export of a minute has to wait."""
    told: list[Event] = []

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock, hook=told.append
    ) as client:
        for cohort_id in IDS[:5]:
            await client.request_export(cohort_id)

    (wait,) = [event for event in told if isinstance(event, QuotaWait)]

    assert IDS[4] == wait.cohort_id
    assert 55 < wait.seconds <= 61
