"""What is waited for between two steps has a line of the log, too: one each."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._io.waits import WaitLog
from amplitude_cohorts_async.jobs import JobRecord
from amplitude_cohorts_async.limiters import LocalLimiter, SqliteLimiter
from amplitude_cohorts_async.limits import Limits, Rate
from amplitude_cohorts_async.testing import faults
from support.stage import Stage

TWO = Limits(exports=Rate(2, per=60), clock_margin=0.0)
WINDOW = "a place in the window of exports, 2 in 60 s"
POLL = "the next poll of export, and so on until it is ready"


@pytest.fixture
def causes(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what was waited for, without how long and which export."""
    caplog.set_level(logging.INFO, "amplitude_cohorts_async")

    def read() -> list[str]:
        return [
            re.sub(r"export \S+,", "export,", str(vars(record)["cause"]))
            for record in caplog.records
            if record.levelno == logging.INFO and record.name.endswith(".waits")
        ]

    return read


async def deliver(stage: Stage, client: CohortsClient, *names: str) -> None:
    """Make the steps of some exports, each when it is due, until all are saved."""
    records = [
        JobRecord.new(each, stage.path(f"{each}.csv"), occurrence="monday")
        for each in names
    ]

    while records:
        ticks = [await client.tick(each) for each in records]
        records = [tick.record for tick in ticks if not tick.done]
        stage.clock.advance(min(tick.due_in or 0.0 for tick in ticks) or 0.001)


@pytest.mark.parametrize("is_of_machine", [False, True])
async def test_a_wait_for_the_window_is_told_once(
    stage: Stage, causes: Callable[[], list[str]], tmp_path: Path, is_of_machine: bool
) -> None:
    """Of four exports two wait: one line, however many steps find no place."""
    names = ["c1", "cohort1", "cohort2", "cohort3"]
    for name in names[1:]:
        stage.emulator.add_cohort(name, size=1)
    limiter = (
        SqliteLimiter(tmp_path / "limits.db", app="a", limits=TWO, clock=stage.clock)
        if is_of_machine
        else LocalLimiter(TWO, clock=stage.clock)
    )

    async with stage.client(limiter=limiter, limits=None) as client:
        await deliver(stage, client, *names)

    found = causes()
    assert 1 == found.count(WINDOW)
    assert 4 == found.count(POLL)
    # The limits of a machine are by the system's clock, too.
    assert {WINDOW, POLL, "its place in line"} >= set(found)


async def test_a_step_that_failed_says_why_the_next_one_waits(
    stage: Stage, causes: Callable[[], list[str]]
) -> None:
    """A pause that the service asks for, and another trouble; each once."""
    stage.emulator.fail_next(
        "status", faults.throttled(retry_after=40), faults.broken(500)
    )

    async with stage.client() as client:
        await deliver(stage, client, "c1")

    assert "the end of the pause after a 429" in causes()
    assert 1 == sum("because this one failed: " in each for each in causes())


async def test_run_jobs_tells_of_its_waits(
    stage: Stage, causes: Callable[[], list[str]]
) -> None:
    """That an export is polled, once; and nothing of the looks into the store."""
    async with stage.client() as client:
        tick = await client.tick(JobRecord.new("c1", stage.path(), occurrence="monday"))
    assert tick.record.is_open
    stage.clock.advance(60.0)
    before = len(causes())

    async with stage.client() as client:
        assert [None] == [each.error async for each in client.run_jobs()]

    assert [POLL] == causes()[before:]


def test_another_one_is_told_of_when_the_first_goes_on(
    causes: Callable[[], list[str]],
) -> None:
    """A cause is told of one at a time; of who never comes back, until it is over."""
    log = WaitLog()

    log.tell_between("a", "a window", 60.0, now=0.0)
    log.tell_between("b", "a window", 60.0, now=1.0)
    log.tell_between("a", "a window", 30.0, now=31.0)
    assert 1 == len(causes())

    log.went_on("a")
    log.tell_between("b", "a window", 60.0, now=60.0)
    assert 2 == len(causes())

    log.tell_between("c", "a window", 60.0, now=125.0)
    assert 2 == len(causes())
    log.tell_between("c", "a window", 60.0, now=131.0)
    assert 3 == len(causes())

    log.tell_between("c", "a pause", 60.0, now=132.0)
    log.tell_between("b", "a window", 0.9, now=133.0)
    assert [*["a window"] * 3, "a pause"] == causes()
