"""
An export in steps: what each step sends, stores and answers, on every backend.

Each step is made by a client of its own, as in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    ApiError,
    AuthenticationError,
    ConfigurationError,
    ExportExpiredError,
    ExportFailedError,
    InvalidInputError,
    JobStoreUnavailableError,
    MonthlyQuotaError,
    RateLimitedError,
    TransportError,
)
from amplitude_cohorts_async.events import Event, ExportAdopted
from amplitude_cohorts_async.jobs import JobRecord, MemoryJobStore, Tick
from amplitude_cohorts_async.limiters import LocalLimiter
from amplitude_cohorts_async.limits import DOCUMENTED, Limits, Rate
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas, faults
from support.canary import API_KEY, SECRET_KEY
from support.clients import emulator_assuming
from support.exporting import until
from support.scripted_store import ScriptedStore
from support.stage import ALL, DURABLE, Stage, ended, killed
from support.ticking import MOST_TICKS, Engine, engine

everywhere = pytest.mark.parametrize("open_store", ALL, indirect=True)
where_durable = pytest.mark.parametrize("open_store", DURABLE, indirect=True)

A_WEEK = 7 * 86_400.0


@everywhere
@pytest.mark.parametrize("key", ["monday", None])
async def test_steps_to_a_file(stage: Stage, key: str | None) -> None:
    """One request each, whoever makes them, and the file in the end."""
    job = engine(stage, key=key)

    last = await job.run()

    assert last.saved is not None
    assert "ann" in stage.path().read_text()
    assert last.due_in is None
    assert ("ready", False) == (last.record.state, last.record.is_open)
    assert {1} == set(job.sent)
    assert 1 == stage.spent
    # The job takes 100 s: it is polled when that is due, and not more often.
    assert 15 <= stage.emulator.requests("status") <= 27


@everywhere
@pytest.mark.parametrize("key", ["monday", None])
async def test_old_records_spend_nothing(stage: Stage, key: str | None) -> None:
    """Whichever record of the past is passed again, and whenever."""
    job = engine(stage, key=key)
    first = job.record
    await job.run()
    spent = stage.spent

    for record in [first, *(tick.record for tick in job.ticks)]:
        again = await Engine(stage, record).step()
        assert again.done
        assert again.saved is not None

    assert spent == stage.spent
    assert 1 == stage.emulator.requests("file")


@everywhere
async def test_an_old_record_while_it_runs(stage: Stage) -> None:
    """It answers when the next step is due, and sends nothing."""
    job = engine(stage)
    first = job.record
    due = await job.run("requested")

    again = Engine(stage, first)
    tick = await again.step()

    assert tick.due_in == pytest.approx(due.due_in)
    assert [0] == again.sent
    assert 1 == stage.spent


@everywhere
async def test_an_equal_record_is_the_same_export(stage: Stage) -> None:
    """With an occurrence; another target is another delivery of it."""
    await engine(stage).run()

    assert (await engine(stage).step()).done
    await engine(stage, "b.csv").run()

    assert 1 == stage.spent
    assert stage.path().read_text() == stage.path("b.csv").read_text()


@everywhere
async def test_a_record_is_the_export_of_a_call(stage: Stage) -> None:
    """The occurrence of `export()` is that of a record."""
    job = engine(stage)
    await job.run("requested")

    await stage.export("b.csv", occurrence="monday")
    stage.clock.advance(200)
    last = await job.run()

    assert last.done
    assert 1 == stage.spent


@everywhere
async def test_another_occurrence_is_another_export(stage: Stage) -> None:
    """Monday's file is replaced by Tuesday's."""
    await engine(stage).run()
    stage.emulator.add_cohort("c1", members=["eve"])
    await engine(stage, key="tuesday").run()

    assert 2 == stage.spent
    assert "eve" in stage.path().read_text()
    # Monday's record has its answer still, and does not bring the old file back.
    assert (await engine(stage).step()).done
    assert "eve" in stage.path().read_text()


@everywhere
async def test_two_engines_make_the_same_steps(stage: Stage) -> None:
    """At the same time: one sends, the other comes later."""
    one, other = engine(stage), engine(stage)

    for _ in range(MOST_TICKS):
        ticks = await asyncio.gather(_step(one), _step(other))
        if all(tick.done for tick in ticks):
            break
        stage.clock.advance(max(tick.due_in or 0.0 for tick in ticks))
    else:
        raise AssertionError("it never ends")

    assert 1 == stage.spent
    assert "ann" in stage.path().read_text()


async def _step(job: Engine) -> Tick:
    """Make a step beside another one; the clock does not move meanwhile."""
    async with job.stage.client() as client:
        tick = await client.tick(job.record)

    job.record = tick.record
    return tick


@everywhere
async def test_a_step_that_runs_is_left_alone(stage: Stage) -> None:
    """Its lease says so; the other step sends nothing, and does not wait."""
    job = engine(stage)
    store = ScriptedStore(stage.open_store())
    store.holds["requested"] = asyncio.Event()

    async with stage.client(store) as client:
        running = asyncio.ensure_future(client.tick(job.record))
        await until(lambda: "requested" in store.reached)
        other, sent = engine(stage), len(stage.emulator.log)
        try:
            tick = await _step(other)
        finally:
            store.holds["requested"].set()
        await running

    assert 1 == tick.due_in
    assert sent == len(stage.emulator.log)
    assert (await other.run()).done
    assert 1 == stage.spent


@everywhere
async def test_what_was_left_is_adopted(stage: Stage) -> None:
    """Without an occurrence, as by `export()`: the list is one step's request."""
    await stage.leave()
    events: list[Event] = []
    job = engine(stage, key=None)

    async with stage.client(hook=events.append) as client:
        tick = await client.tick(job.record)

    assert (0.0, "requested") == (tick.due_in, tick.record.state)
    assert 1 == stage.emulator.requests("list")
    assert 1 == sum(isinstance(event, ExportAdopted) for event in events)
    job.record = tick.record
    assert (await job.run()).done
    assert 1 == stage.spent
    # What was left is not left any more.
    async with stage.client() as client:
        assert [] == [outcome async for outcome in client.run_jobs()]


@everywhere
async def test_what_was_left_and_edited_is_not_adopted(stage: Stage) -> None:
    """A new one is requested, in the step after the list."""
    await stage.leave()
    stage.emulator.add_cohort("c1", members=["eve"])
    job = engine(stage, key=None)

    await job.run()

    assert {1} == set(job.sent)
    assert 2 == stage.spent
    assert "eve" in stage.path().read_text()


@where_durable
@pytest.mark.parametrize("key", ["monday", None])
async def test_killed_between_sending_and_recording(
    stage: Stage, key: str | None
) -> None:
    """It may have been spent: nothing more is, until that is asked for."""
    job = engine(stage, key=key)
    store = stage.mortal(dies_before="requested")

    async with stage.client(store) as client:
        await killed(client.tick(job.record), store)

    for _ in range(2):
        with pytest.raises(AmbiguousExportError, match="may have been spent"):
            await job.step()
    assert 1 == stage.spent

    job.record = attrs.evolve(job.record, on_unknown="spend")
    assert (await job.run()).done
    assert 2 == stage.spent


@where_durable
@pytest.mark.parametrize("state", ["requested", "ready", "publishing"])
async def test_killed_after_a_state_was_stored(stage: Stage, state: str) -> None:
    """Another process makes the next step."""
    job = engine(stage)
    store = stage.mortal(dies_after=state)

    async with stage.client(store) as client:
        while not store.died.is_set():
            task = asyncio.ensure_future(client.tick(job.record))
            death = asyncio.ensure_future(store.died.wait())
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
            await ended(death)
            if task.done() and not task.exception():
                job.record = task.result().record
                stage.clock.advance(task.result().due_in or 0.0)
            await ended(task)

    assert (await job.run()).done
    assert 1 == stage.spent
    assert "ann" in stage.path().read_text()


@everywhere
async def test_a_file_that_is_gone_comes_again(stage: Stage) -> None:
    """From the same export, for as long as the service keeps it."""
    job = engine(stage)
    await job.run()
    stage.path().unlink()

    assert (await job.step()).done

    assert "ann" in stage.path().read_text()
    assert 1 == stage.spent


@everywhere
async def test_a_job_that_failed_is_told_each_time(stage: Stage) -> None:
    """With its token; an engine that tries again spends nothing."""
    stage.emulator.fail_next("status", faults.job_failed())
    job = engine(stage)
    await job.run("requested")
    stage.clock.advance(20)

    for _ in range(2):
        with pytest.raises(ExportFailedError) as told:
            await job.step()
        assert told.value.token is not None

    assert 1 == stage.spent
    assert "forget_job() with its record" in str(told.value)


@everywhere
async def test_the_first_record_of_a_job_that_failed_forgets_it(stage: Stage) -> None:
    """Its steps begin anew, as the error says."""
    stage.emulator.fail_next("status", faults.job_failed())
    job, again = engine(stage), engine(stage)
    with pytest.raises(ExportFailedError):
        await job.run()

    async with stage.client() as client:
        await client.forget_job(again.record)
    await again.run()

    assert 2 == stage.spent


@everywhere
async def test_an_export_that_was_sent_meanwhile_is_not_forgotten(stage: Stage) -> None:
    """By a record of the queue: another worker may have spent it just then."""
    stage.emulator.fail_next("export", faults.throttled())
    job = engine(stage)
    while not job.record.id:
        await job.step()
    queued = job.record
    assert "queued" == queued.state
    stage.clock.advance(100)
    await job.run("requested")

    async with stage.client() as client:
        with pytest.raises(InvalidInputError, match="was sent since"):
            await client.forget_job(queued)
        assert [1] == [len(await client.jobs())]


@everywhere
async def test_an_export_that_was_put_aside(stage: Stage) -> None:
    """A step does not take it up, nor does it spend another one."""
    job = engine(stage)
    await job.run("requested")
    async with stage.client() as client:
        (record,) = await client.jobs()
        await client.park_job(record)

    with pytest.raises(InvalidInputError, match="was put aside"):
        await job.step()

    assert 1 == stage.spent


@everywhere
async def test_an_export_that_was_forgotten(stage: Stage) -> None:
    """The record of a later step is of nothing any more; it does not begin anew."""
    job = engine(stage)
    await job.run("requested")
    async with stage.client() as client:
        (record,) = await client.jobs()
        await client.forget_job(record)

    with pytest.raises(InvalidInputError, match="is not in the job store"):
        await job.step()

    assert 1 == stage.spent


@everywhere
async def test_a_newer_export_of_the_target_stays(stage: Stage) -> None:
    """A step never brings an older one over it, and says what becomes of its own."""
    job = engine(stage)
    await job.run("requested")
    stage.emulator.add_cohort("c1", members=["eve"])
    await stage.export()
    stage.clock.advance(200)

    with pytest.raises(InvalidInputError, match="newer export") as told:
        await job.step()

    assert told.value.token is not None
    assert "eve" in stage.path().read_text()


@everywhere
async def test_a_listed_export_is_gone_on_with(stage: Stage) -> None:
    """The record of `jobs()` names it, and the file it was meant for."""
    await stage.leave()
    async with stage.client() as client:
        (record,) = await client.jobs()
    job = Engine(stage, record)

    last = await job.run()

    assert last.saved is not None
    assert stage.path() == last.saved.path
    assert 1 == stage.spent


async def test_a_listed_export_without_a_file(stage: Stage) -> None:
    """Nobody said where it goes."""
    async with stage.client() as client:
        await client.request_export("c1")
        (record,) = await client.jobs()

        with pytest.raises(InvalidInputError, match="no file of this host"):
            await client.tick(record)


@everywhere
async def test_a_queued_export_outlives_a_refused_call(stage: Stage) -> None:
    """A call that took it up, and spent nothing, leaves it to the next step."""
    job = await _queued(stage)
    stage.emulator.fail_next("export", faults.refused(403, "Invalid API Key"))

    with pytest.raises(AuthenticationError):
        await stage.export("b.csv", occurrence="monday")

    assert (await job.run()).done
    assert 1 == stage.spent
    assert not stage.path("b.csv").exists()


@everywhere
async def test_a_queued_export_lives_as_long_as_its_steps(stage: Stage) -> None:
    """However long the windows are full."""
    job = await _queued(stage, steps=4, every=8 * 3600.0)

    assert (await job.run()).done
    assert 1 == stage.spent


async def _queued(stage: Stage, *, steps: int = 1, every: float = 0.0) -> Engine:
    """Make steps while the only slot is taken."""
    limits = Limits(in_flight=1, exports=(), polls=None, writes=None)
    limiter = LocalLimiter(limits, clock=stage.clock)
    job = engine(stage)

    async with (
        stage.client(limits=None, limiter=limiter) as client,
        limiter.slot("export"),
    ):
        for _ in range(steps):
            job.record = (await client.tick(job.record)).record
            stage.clock.advance(every)

    assert "queued" == job.record.state
    return job


@everywhere
async def test_the_same_file_is_not_left(stage: Stage) -> None:
    """Of two records of one export and target, one brings the file of both."""
    one, other = engine(stage, key=None), engine(stage, key=None)
    await one.run("requested")
    await other.step()
    await one.step()

    await other.run()

    async with stage.client() as client:
        assert [] == [outcome async for outcome in client.run_jobs()]
    assert (await one.step()).done
    assert 1 == stage.spent


# -- What a later step can mend ----------------------------------------------


@everywhere
@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("export", faults.broken(503, retry_after=40)),
        ("status", faults.broken(500)),
        ("status", faults.throttled(retry_after=40)),
        ("file", faults.broken(503)),
    ],
)
async def test_a_failure_is_mended(
    stage: Stage, step: str, fault: faults.Fault
) -> None:
    """It is in the tick, with the seconds until the next one; nothing is repeated."""
    stage.emulator.fail_next(step, fault)  # type: ignore[arg-type]
    job = engine(stage)

    await job.run()

    (failed,) = [tick for tick in job.ticks if tick.last_error is not None]
    assert isinstance(failed.last_error, ApiError)
    assert failed.due_in is not None
    assert failed.due_in >= (failed.last_error.retry_after or 5.0)
    assert {1} == set(job.sent)
    assert 1 == stage.spent


@everywhere
async def test_an_export_that_is_not_known_yet(stage: Stage) -> None:
    """It is polled like one that runs."""
    async with emulator_assuming(stage.clock, known_after=30) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        job = engine(attrs.evolve(stage, emulator=emulator))

        await job.run()

        assert {None} == {tick.last_error for tick in job.ticks}
        assert emulator.requests("status") > 3
        assert {1} == set(job.sent)
        assert 1 == emulator.spent


async def test_an_export_that_is_never_known(stage: Stage) -> None:
    """After five minutes it is gone, and each step says so."""
    async with emulator_assuming(stage.clock, known_after=1e6) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        job = engine(attrs.evolve(stage, emulator=emulator))

        await job.run("requested")
        stage.clock.advance(299)
        assert "requested" == (await job.step()).record.state
        stage.clock.advance(6)

        for _ in range(2):
            with pytest.raises(ExportExpiredError) as told:
                await job.step()
            assert told.value.token is not None
        assert 1 == emulator.spent


@pytest.mark.parametrize("code", [404, 410])
async def test_a_file_that_comes_late(stage: Stage, code: int) -> None:
    """The step that brings it asks again; a later one does, if that is too early."""
    async with emulator_assuming(
        stage.clock, file_delay=200, early_file_status=code
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        here = attrs.evolve(stage, emulator=emulator)
        record, errors = engine(here).record, set[str]()

        for _ in range(MOST_TICKS):
            async with here.client() as client:
                tick = await client.tick(record)
            if tick.done:
                break
            errors.add(type(tick.last_error).__name__)
            record = tick.record
            stage.clock.advance(tick.due_in or 0.0)

        assert tick.done
        assert {"NoneType", "IncompleteDownloadError"} == errors
        assert 1 == emulator.spent
        assert [] == emulator.violations


async def test_no_answer_to_a_request_is_in_doubt(stage: Stage) -> None:
    """The next step says so."""
    stage.emulator.fail_next("export", faults.lost_answer())
    job = engine(stage)

    tick = await job.step()

    assert isinstance(tick.last_error, TransportError)
    assert "attempted" == tick.record.state
    with pytest.raises(AmbiguousExportError):
        await job.step()
    assert 1 == stage.spent


async def test_a_store_that_is_away(stage: Stage) -> None:
    """The record stays as it is, and nothing is sent."""
    store = ScriptedStore(stage.open_store())
    store.refuses.add("*")
    job = engine(stage)

    tick = await job.step(store)

    assert isinstance(tick.last_error, JobStoreUnavailableError)
    assert 5 == tick.due_in
    assert [0] == job.sent
    assert (await job.run()).done
    assert 1 == stage.spent


async def test_a_store_that_is_away_for_a_listed_export(stage: Stage) -> None:
    """Its target is in the store as well: the next step looks for it."""
    await stage.leave()
    async with stage.client() as client:
        (record,) = await client.jobs()
    store = ScriptedStore(stage.open_store())
    store.refuses.add("*")
    job = Engine(stage, record)

    tick = await job.step(store)

    assert isinstance(tick.last_error, JobStoreUnavailableError)
    assert (await job.run()).done


async def test_a_store_that_fails_after_the_purchase(stage: Stage) -> None:
    """The tick has the token, which the store has not."""
    store = ScriptedStore(stage.open_store())
    store.refuses.add("requested")
    job = engine(stage)

    tick = await job.step(store)

    assert isinstance(tick.last_error, JobStoreUnavailableError)
    assert tick.record.token is not None
    assert 1 == stage.spent


@pytest.mark.parametrize("fault", [faults.lost_answer(), faults.broken(500)])
async def test_a_store_that_forgets_what_may_be_spent(
    stage: Stage, fault: faults.Fault
) -> None:
    """Away since the request was sent: the record names it, and nothing is spent."""
    store = ScriptedStore(stage.open_store())
    store.refuses_after.add("attempted")
    stage.emulator.fail_next("export", fault)
    job = engine(stage)
    tick = await job.step(store)
    assert "attempted" == tick.record.state

    with pytest.raises(InvalidInputError, match="is not in the job store"):
        await job.step(MemoryJobStore())

    assert 1 == stage.emulator.requests("export")


async def test_an_error_about_the_target_has_the_token(stage: Stage) -> None:
    """Its folder is gone: the export is spent all the same."""
    folder = stage.path("folder")
    folder.mkdir()
    job = Engine(stage, JobRecord.new("c1", folder / "a.csv", occurrence="monday"))
    await job.run("requested")
    folder.rmdir()

    with pytest.raises(InvalidInputError) as caught:
        await job.step()

    assert caught.value.token == job.record.token is not None


async def test_the_next_step_stores_what_the_store_has_missed(stage: Stage) -> None:
    """It was away from the answer until the client was closed; the record knows."""
    store = stage.mortal()
    store.refuses.add("requested")
    job = engine(stage)
    await job.step(store)

    tick = await job.run()

    assert tick.done
    assert 1 == stage.spent
    assert tick.record.token is not None


async def test_a_token_of_another_cohort_is_refused(stage: Stage) -> None:
    """Before it is stored for this one."""
    job = engine(stage)
    await job.run("requested")
    token = str(job.record.token).replace("c1", "c2")
    job.record = attrs.evolve(job.record, token=token)

    with pytest.raises(InvalidInputError, match="by hand"):
        await job.step()


async def test_what_nothing_was_sent_for_begins_anew(stage: Stage) -> None:
    """The store forgets it after a day, in which no worker was there."""
    job = engine(stage)
    stage.emulator.fail_next("export", faults.refused(429, "Too many"))
    tick = await job.step()
    assert "queued" == tick.record.state
    async with stage.client() as client:
        (record,) = await client.jobs()
        await client.forget_job(record)

    assert (await job.run()).done
    assert 1 == stage.spent


async def test_what_no_step_can_mend_is_raised(stage: Stage) -> None:
    """And nothing is left in the store."""
    stage.emulator.fail_next("export", faults.refused(403, "Invalid API Key"))
    job = engine(stage)

    with pytest.raises(AuthenticationError):
        await job.step()

    async with stage.client() as client:
        assert [] == await client.jobs()
    assert 0 == stage.spent


def with_a_month(stage: Stage, emulator: CohortsEmulator) -> Engine:
    """An engine whose clients keep the month of another service."""
    here = attrs.evolve(stage, emulator=emulator)

    return Engine(here, engine(stage).record, limits=DOCUMENTED)


@pytest.mark.parametrize("used", [3, 0])
async def test_the_month_is_looked_at(
    stage: Stage, clock: FakeClock, used: int
) -> None:
    """By a step of its own, whose client the next one does not know."""
    quotas = Quotas(windows=(), month=3, used=used)
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=quotas
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        job = with_a_month(stage, emulator)

        if used:
            with pytest.raises(MonthlyQuotaError):
                await job.run()
        else:
            await job.run()
            assert {1} == set(job.sent)

        assert 1 == emulator.requests("usage")
        assert (1 if not used else 0) == emulator.requests("export")


async def test_a_month_that_six_share_is_not_overrun(
    stage: Stage, clock: FakeClock
) -> None:
    """Each step has a client of its own; what one has read, the next one counts on."""
    limiter = LocalLimiter(clock=clock)
    quotas = Quotas(month=3)
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=quotas
    ) as emulator:
        here = attrs.evolve(stage, emulator=emulator)
        records = [
            JobRecord.new(f"c{n}", stage.folder / f"c{n}.csv", occurrence="1")
            for n in range(6)
        ]
        for record in records:
            emulator.add_cohort(record.cohort_id, members=["ann"])
        ended: list[str] = []

        while records and len(emulator.log) < 200:
            record = records.pop(0)
            async with here.client(limits=None, limiter=limiter) as client:
                try:
                    tick = await client.tick(record)
                except MonthlyQuotaError:
                    ended.append("refused")
                    continue
            clock.advance(1)
            if tick.done:
                ended.append("done")
            else:
                records.append(tick.record)

        assert ["done"] * 3 + ["refused"] * 3 == sorted(ended)
        assert 3 == emulator.requests("export")
        assert [] == emulator.violations


async def test_a_month_that_others_have_spent(stage: Stage, clock: FakeClock) -> None:
    """One refusal is enough: the usage is read again."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=Quotas(month=3)
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        job = with_a_month(stage, emulator)
        await job.step()
        emulator.fail_next("export", faults.refused(429, "Exceeded monthly limit"))
        refused = await job.step()
        assert isinstance(refused.last_error, RateLimitedError)

        stage.clock.advance(600)
        await job.step()

        assert (2, 1) == (emulator.requests("usage"), emulator.requests("export"))
        assert (await job.run()).done


async def test_a_month_that_others_have_spent_since_a_client_read_it(
    stage: Stage, clock: FakeClock
) -> None:
    """One that is kept open for all steps forgets what it has read, too."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=Quotas(month=3)
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        job = with_a_month(stage, emulator)
        async with job.stage.client(limits=DOCUMENTED) as client:
            tick = await client.tick(job.record)
            emulator.fail_next("export", faults.refused(429, "Exceeded monthly limit"))
            tick = await client.tick(tick.record)
            assert isinstance(tick.last_error, RateLimitedError)

            clock.advance(600)
            await client.tick(tick.record)

        assert (2, 1) == (emulator.requests("usage"), emulator.requests("export"))


async def test_a_service_whose_month_is_over(stage: Stage, clock: FakeClock) -> None:
    """By our clock: the next step does not ask for its usage again."""
    behind = FakeClock(utc=datetime(2020, 1, 1, tzinfo=UTC), jumps=False)
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=behind, job_seconds=0
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        job = with_a_month(stage, emulator)

        assert (await job.run()).done
        assert 1 == emulator.requests("usage")


@pytest.mark.parametrize("pause", [0, 60, 600])
async def test_a_usage_that_cannot_be_read(
    stage: Stage, clock: FakeClock, pause: float
) -> None:
    """The next step does without it: the service refuses what is too much."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        emulator.fail_next("usage", *[faults.broken(503)] * 9)
        job = with_a_month(stage, emulator)
        job.pause = pause

        assert (await job.run()).done
        assert 1 == emulator.requests("usage")


async def test_a_usage_that_is_due_again_at_each_step(
    stage: Stage, clock: FakeClock
) -> None:
    """Others spend twenty exports in between: the step sends its own all the same."""
    limiter = LocalLimiter(clock=clock)
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock
    ) as emulator:
        here = attrs.evolve(stage, emulator=emulator)
        record = JobRecord.new("c1", stage.path("a.csv"), occurrence="1")
        emulator.add_cohort("c1", members=["ann"])

        for _ in range(3):
            async with here.client(limits=None, limiter=limiter) as client:
                record = (await client.tick(record)).record
            await limiter.counter.add("2026-06:*", 20, until=clock.utcnow())

        assert (1, 1) == (emulator.requests("usage"), emulator.requests("export"))


async def test_a_step_needs_a_store_that_outlives_its_process(stage: Stage) -> None:
    """In memory that nobody chose, the next process would spend it again."""
    record = engine(stage).record
    keys = {"base_url": stage.emulator.base_url, "clock": stage.clock}

    async with CohortsClient(API_KEY, SECRET_KEY, **keys) as client:  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="AMPLITUDE_LIMITER_URL"):
            await client.tick(record)
    assert [] == stage.emulator.log

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        jobs=MemoryJobStore(),
        **keys,  # type: ignore[arg-type]
    ) as client:
        assert (await client.tick(record)).due_in is not None

    # It has read the month's usage.
    assert 0 == stage.spent


@pytest.mark.parametrize("kind", ["export", "poll"])
async def test_no_slot_is_waited_for(stage: Stage, kind: str) -> None:
    """A step has its place in the order, and comes when it is its turn."""
    limits = Limits(in_flight=1, exports=(Rate(1, per=60),), polls=None, writes=None)
    limiter = LocalLimiter(limits, clock=stage.clock)
    job = engine(stage)

    async with stage.client(limits=None, limiter=limiter) as client:
        tick = await client.tick(job.record)
        async with limiter.slot(kind):  # type: ignore[arg-type]
            held = await client.tick(tick.record)
        sent = len(stage.emulator.log)
        later = await client.tick(held.record)

    assert held.last_error is None
    assert held.due_in is not None
    assert held.due_in > 0
    if kind == "export":
        assert sent == len(stage.emulator.log)
        assert 50 < (later.due_in or 0.0) < 70


async def test_a_cancelled_step_leaves_no_lease(stage: Stage) -> None:
    """The same step again goes on at once."""
    stage.emulator.fail_next("status", faults.hang())
    job = engine(stage)
    await job.run("requested")
    stage.clock.advance(20)
    running = asyncio.ensure_future(_step(job))
    await until(lambda: stage.emulator.requests("status") == 1)
    await ended(running)

    await job.step()

    assert 2 == stage.emulator.requests("status")


# -- Records as text ---------------------------------------------------------

NAMES = st.text(min_size=1, max_size=20)


@given(
    cohort=NAMES,
    to=st.sampled_from(["/tmp/a.csv", "a.csv.gz", "x/ü.parquet"]),
    properties=st.booleans() | st.lists(NAMES, max_size=3),
    occurrence=st.none() | NAMES,
)
def test_a_record_as_text(
    cohort: str, to: str, properties: bool | list[str], occurrence: str | None
) -> None:
    """It is the same record, and an equal one has the same name."""
    record = JobRecord.new(cohort, to, properties=properties, occurrence=occurrence)
    again = JobRecord.new(cohort, to, properties=properties, occurrence=occurrence)

    assert record == JobRecord.from_json(record.to_json())
    assert (record.key == again.key) == (occurrence is not None)
    assert Path(to).absolute() == record.to


async def test_a_name_is_that_of_its_folder(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever makes the steps, the file comes to the folder in which it was named."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(stage.folder)
    record = JobRecord.new("c1", "members.csv", occurrence="monday")

    monkeypatch.chdir(elsewhere)
    await Engine(stage, JobRecord.from_json(record.to_json())).run()

    assert (stage.folder / "members.csv").exists()
    assert [] == [*elsewhere.iterdir()]


def test_a_name_in_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is refused: nobody could tell where the file goes."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(InvalidInputError, match="absolute path"):
        JobRecord.new("c1", "members.csv")


@pytest.mark.parametrize(
    "field", ["id", "cohort_id", "occurrence", "format", "on_unknown", "delivery_id"]
)
@pytest.mark.parametrize("value", [5, True, ["a"], {"a": 1}, "\ud800"])
def test_a_record_whose_fields_are_no_text(field: str, value: object) -> None:
    """It is refused before any step."""
    fields = json.loads(JobRecord.new("c1", "/tmp/a.csv").to_json())

    with pytest.raises(InvalidInputError, match="no record of a job"):
        JobRecord.from_json(json.dumps({**fields, field: value}))


@given(st.text() | st.from_type(type(None)).map(json.dumps))
@example("[" * 200_000)
def test_no_record(text: str) -> None:
    """Any other text is refused."""
    with pytest.raises(InvalidInputError, match="no record of a job"):
        JobRecord.from_json(text)


@pytest.mark.parametrize(
    "bad", [{"properties": "plan"}, {"properties": 5}, {"occurrence": date(2026, 1, 1)}]
)
def test_no_text_of_a_record(bad: dict[str, Any]) -> None:
    """It is refused at once: its text would name another export, or none."""
    with pytest.raises(InvalidInputError):
        JobRecord.new("c1", "a.csv", **bad)


def test_a_record_of_a_later_release() -> None:
    """Its text is refused: what it means is not known."""
    text = JobRecord.new("c1", "/tmp/a.csv").to_json()

    with pytest.raises(InvalidInputError, match="another version"):
        JobRecord.from_json(text.replace('"version":1', '"version":2'))


async def test_what_is_no_record(stage: Stage) -> None:
    """A tick says what it takes, and what is wrong with it, and sends nothing."""
    bad = [
        "c1",
        JobRecord.new("", "a.csv"),
        JobRecord.new("c1", Path("/nowhere/at/all/a.csv")),
        JobRecord.new("c1", stage.path("a.txt")),
        JobRecord.new("c1", stage.path(), occurrence="x" * 300),
        JobRecord.new("c1", stage.path(), on_unknown="wait"),  # type: ignore[arg-type]
    ]

    async with stage.client() as client:
        for record in bad:
            with pytest.raises(InvalidInputError):
                await client.tick(record)  # type: ignore[arg-type]

    assert [] == stage.emulator.log
