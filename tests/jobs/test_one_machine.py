"""
`export()` and the steps of `tick()` are one machine, under two loops.

Whatever was left before and whatever the service answers: both send the same requests
in the same order, spend as many exports, and end alike.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async.errors import CohortsError
from amplitude_cohorts_async.jobs import JobRecord, MemoryJobStore
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas, faults
from amplitude_cohorts_async.testing.faults import Fault
from support.canary import API_KEY, SECRET_KEY
from support.stage import Stage
from support.ticking import MOST_TICKS

NOVEMBER = datetime(2026, 11, 10, tzinfo=UTC)
_REFUSALS: list[Callable[[], Fault]] = [
    lambda: faults.broken(503, retry_after=7),
    lambda: faults.throttled(retry_after=7),
    lambda: faults.refused(400, "no"),
    lambda: faults.refused(403, "no"),
]
_ANSWERS_TO_A_POLL: list[Callable[[], Fault]] = [
    lambda: faults.broken(500),
    faults.throttled,
    lambda: faults.refused(404, "no such job"),
    lambda: faults.refused(410, "gone"),
    faults.lost_answer,
    faults.job_failed,
]
_ANSWERS_TO_A_FILE: list[Callable[[], Fault]] = [
    lambda: faults.broken(503),
    lambda: faults.refused(404, "no file"),
    faults.link_expired,
]


async def _nothing(_stage: Stage) -> None:
    """No export was requested before."""


async def _left(stage: Stage) -> None:
    """One was requested, and its caller was cancelled."""
    await stage.leave(way="cancelled")


async def _delivered(stage: Stage) -> None:
    """One was delivered to the same target."""
    await stage.export()


async def _in_doubt(stage: Stage) -> None:
    """Its caller was killed before the answer was recorded."""
    await stage.kill(before="requested")


@attrs.frozen
class Course:
    """What was sent, answered and spent, and how it ended."""

    requests: list[tuple[str, int | None]]
    spent: int
    end: str
    text: str


async def _by_export(stage: Stage, occurrence: str | None) -> None:
    async with stage.client() as client:
        await client.export("c1", stage.path(), occurrence=occurrence)


async def _by_steps(stage: Stage, occurrence: str | None) -> None:
    record = JobRecord.new("c1", stage.path(), occurrence=occurrence)

    for _ in range(MOST_TICKS):
        async with stage.client() as client:
            tick = await client.tick(record)
        if tick.done:
            return
        record = tick.record
        stage.clock.advance(tick.due_in or 0.0)

    raise AssertionError("it never ends")


async def _course(
    folder: Path, seed: int, way: Callable[[Stage, str | None], Awaitable[None]]
) -> Course:
    chance, end = random.Random(seed), "done"
    clock, store = FakeClock(utc=NOVEMBER), MemoryJobStore()

    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=Quotas(windows=())
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"], job_seconds=30)
        stage = Stage(emulator, clock, folder, lambda: store)
        await chance.choice([_nothing, _nothing, _left, _delivered, _in_doubt])(stage)
        before = len(emulator.log)

        for step, answers, most in (
            ("export", _REFUSALS, 1),
            ("status", _ANSWERS_TO_A_POLL, 5),
            ("file", _ANSWERS_TO_A_FILE, 2),
        ):
            for answer in chance.choices(answers, k=chance.randint(0, most)):
                emulator.fail_next(step, answer())

        try:
            await way(stage, chance.choice([None, "monday"]))
        except CohortsError as error:
            end = type(error).__name__

        path = stage.path()
        return Course(
            # How often a job that runs is polled is a matter of time alone.
            [
                (each.step, each.status)
                for each in emulator.log[before:]
                if (each.step, each.status) != ("status", 202)
            ],
            emulator.spent,
            end,
            path.read_text() if path.exists() else "",
        )


@pytest.mark.parametrize("seed", range(60))
async def test_export_and_ticks_take_the_same_course(tmp_path: Path, seed: int) -> None:
    """Whatever was left before, and whatever is answered."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()

    waited = await _course(tmp_path / "one", seed, _by_export)
    stepped = await _course(tmp_path / "other", seed, _by_steps)

    assert attrs.asdict(waited) == attrs.asdict(stepped)
