"""What an engine does again: replayed steps, changed records, doubts and long waits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest

from amplitude_cohorts_async._core.job_rows import (
    ExportRow,
    ExportState,
    Rows,
    read_cohort,
    write_cohort,
)
from amplitude_cohorts_async.errors import AmbiguousExportError, InvalidInputError
from amplitude_cohorts_async.jobs import JobRecord, Tick, Work
from amplitude_cohorts_async.limiters import LocalLimiter
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.testing import faults
from support.exporting import until
from support.scripted_store import ScriptedStore
from support.stage import ALL, Stage, ended
from support.ticking import Engine, engine

T = TypeVar("T")

everywhere = pytest.mark.parametrize("open_store", ALL, indirect=True)
ONE_SLOT = Limits(in_flight=1, exports=(), polls=None, writes=None)


# -- One request a step ------------------------------------------------------


class _InDoubt(ScriptedStore):
    """Has an attempt that is older than all that was requested."""

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Add the attempt first."""

        def with_doubt(rows: Rows, now: float) -> T:
            """Add it as a process left it that was killed."""
            cohort = read_cohort(rows)
            newest = max(cohort.exports.values(), key=lambda row: row.sequence)
            old = ExportRow(
                id="old",
                cohort_id="c1",
                state=ExportState.ATTEMPTED,
                created_at=newest.created_at,
            )
            cohort.exports["old"] = old
            write_cohort(rows, cohort)
            return work(rows, now)

        return await super().transact(app, group, with_doubt)


async def test_the_list_and_a_doubt_are_one_request(stage: Stage) -> None:
    """The error does not tell the usage: that would be the second one."""
    await stage.leave()
    stage.emulator.add_cohort("c1", members=["eve"])
    job = engine(stage, "b.csv", key=None)
    sent = len(stage.emulator.log)

    with pytest.raises(AmbiguousExportError) as told:
        await job.step(_InDoubt(stage.open_store()))

    assert (1, 0) == tuple(map(stage.emulator.requests, ("list", "usage")))
    assert sent + 1 == len(stage.emulator.log)
    assert told.value.used_now is None


async def test_a_step_that_waits_for_the_list_keeps_its_place(stage: Stage) -> None:
    """Who came later does not get the slot before it."""
    await stage.leave()
    job = engine(stage, key=None)

    first, second = await _before_who_came_later(stage, job.record)

    assert first.due_in
    assert "requested" == second.record.state
    assert 1 == stage.emulator.requests("list")


async def _before_who_came_later(stage: Stage, record: JobRecord) -> tuple[Tick, Tick]:
    """
    Make a step while the slot is taken, and the next one when it is free.

    In between another caller queues for the slot.
    """
    limiter = LocalLimiter(ONE_SLOT)

    async with stage.client(limits=None, limiter=limiter) as client:
        async with limiter.slot("other"):
            first = await client.tick(record)
            later = asyncio.ensure_future(_enter(limiter))
            await until(lambda: limiter.statistics()["waiting"] > 0)
        second = await client.tick(first.record)
        await later

    return first, second


async def _enter(limiter: LocalLimiter) -> None:
    async with limiter.slot("other"):
        pass


# -- A delivered record ------------------------------------------------------


async def test_a_delivered_record_is_not_delivered_anew(stage: Stage) -> None:
    """However often it is replayed, the store has its one delivery."""
    job = engine(stage)
    await job.run()

    for _ in range(3):
        assert (await job.step()).done
        stage.path().unlink()
        assert (await job.step()).done

    assert 1 == len(await _deliveries(stage))
    assert 4 == stage.emulator.requests("file")
    assert 1 == stage.spent


async def _deliveries(stage: Stage) -> list[object]:
    async with stage.client() as client:
        return [row for record in await client.jobs() for row in record.deliveries]


async def test_a_file_that_comes_again_comes_once(stage: Stage) -> None:
    """A second worker with the same record waits for the first."""
    job = engine(stage)
    await job.run()
    stage.path().unlink()
    stage.emulator.fail_next("file", faults.hang())

    async with stage.client() as client:
        running = asyncio.ensure_future(client.tick(job.record))
        await until(lambda: stage.emulator.requests("file") == 2)
        other = await job.step()
        await ended(running)

    assert (False, 1) == (other.done, other.due_in)
    assert (await job.step()).done
    assert 1 == len(await _deliveries(stage))


async def test_a_file_that_comes_again_waits_in_order(stage: Stage) -> None:
    """The place of its request is kept, as that of the first one."""
    job = engine(stage)
    await job.run()
    stage.path().unlink()

    first, second = await _before_who_came_later(stage, job.record)

    assert first.due_in
    assert second.done


@everywhere
async def test_the_later_file_of_another_cohort_stays(stage: Stage) -> None:
    """A replayed record answers, and does not bring its older file over it."""
    monday = engine(stage)
    await monday.run()
    other = Engine(stage, JobRecord.new("cohort0", stage.path(), occurrence="monday"))
    await other.run()
    text = stage.path().read_text()

    assert (await monday.step()).done
    await stage.export(occurrence="monday")

    assert text == stage.path().read_text()
    assert 2 == stage.spent
    # Nobody else's file is there any more.
    stage.path().unlink()
    assert (await monday.step()).done
    assert text != stage.path().read_text()


async def test_a_file_that_was_changed_comes_again(stage: Stage) -> None:
    """By nobody that the store knows of."""
    job = engine(stage)
    await job.run()
    text = stage.path().read_text()
    stage.path().write_text("half of")

    assert (await job.step()).done

    assert text == stage.path().read_text()
    assert 1 == stage.spent


async def test_the_record_of_a_file_that_another_brought_is_not_open(
    stage: Stage,
) -> None:
    """Nothing is left to do for two deliveries of one export to one target."""
    one, other = engine(stage, key=None), engine(stage, key=None)
    await one.run("requested")
    await other.step()
    await one.step()

    last = await other.run()

    assert not last.record.is_open
    async with stage.client() as client:
        assert [] == await client.jobs(open_only=True)


# -- A record that was changed by hand ---------------------------------------

CHANGES: list[dict[str, Any]] = [
    {"cohort_id": "cohort0"},
    {"properties": ["plan"]},
    {"occurrence": "tuesday"},
    {"format": "csv.gz"},
    {"to": Path("/tmp/another.csv")},
]


@pytest.mark.parametrize("key", ["monday", None])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
async def test_a_changed_record_is_refused(
    stage: Stage, change: dict[str, Any], key: str | None
) -> None:
    """At every step: it would answer from the export that its name says."""
    job = engine(stage, key=key)
    records = [job.record]
    records.append((await job.run("requested")).record)
    records.append((await job.run()).record)
    sent = len(stage.emulator.log)

    unnamed = attrs.evolve(records[0], delivery_id="0" * 32)

    for record in [*records, unnamed]:
        changed = Engine(stage, attrs.evolve(record, **change))
        with pytest.raises(InvalidInputError, match=r"by hand|not in the job store"):
            await changed.step()

    assert sent == len(stage.emulator.log)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("steps", [0, 1])
async def test_a_changed_record_of_the_list_is_refused(
    stage: Stage, change: dict[str, Any], steps: int
) -> None:
    """As it is listed, and after a step that has named its delivery."""
    await stage.leave()
    async with stage.client() as client:
        (record,) = await client.jobs()
    job = Engine(stage, record)
    for _ in range(steps):
        await job.step()
    job.record = attrs.evolve(job.record, **change)
    sent = len(stage.emulator.log)

    with pytest.raises(InvalidInputError):
        await job.step()

    assert sent == len(stage.emulator.log)


# -- A doubt of a record that says "spend" -----------------------------------


@pytest.mark.parametrize("key", ["monday", None])
@pytest.mark.parametrize("refused", [0, 1])
async def test_a_doubt_spends_once_more(
    stage: Stage, key: str | None, refused: int
) -> None:
    """However often an engine repeats the step of a record that says so."""
    record = JobRecord.new("c1", stage.path(), occurrence=key, on_unknown="spend")
    job = Engine(stage, record)
    stage.emulator.fail_next("export", faults.lost_answer())
    await job.step()
    stage.emulator.fail_next(
        "export", *[faults.throttled(retry_after=1)] * refused, faults.lost_answer()
    )

    for _ in range(1 + refused):
        stage.clock.advance(10)
        await job.step()

    for again in (job.record, record):
        with pytest.raises(AmbiguousExportError, match="third"):
            await Engine(stage, again).step()
    assert 2 == stage.spent

    async with stage.client() as client:
        (listed,) = await client.jobs()
        await client.forget_job(listed)
    assert (await Engine(stage, record).run()).done
    assert 3 == stage.spent
