"""
The scenes of the store: who calls, what happens, and how many exports it costs.

Each on every backend. A client that is killed is one whose store dies with it: from
that moment on nothing is stored, and its leases have ended. That is what a killed
process leaves behind; `test_killed.py` kills real ones.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._core.claims import Call, Doubt
from amplitude_cohorts_async._writes import batches
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    ApiError,
    ExportTimeoutError,
    InvalidInputError,
    JobStoreUnavailableError,
    RemovalGuardError,
    StorageError,
)
from amplitude_cohorts_async.events import BatchWritten, Event, ExportAdopted
from amplitude_cohorts_async.testing import FakeClock, faults
from amplitude_cohorts_async.testing.faults import Fault
from support.clients import emulator_assuming
from support.exporting import until
from support.scripted_store import ScriptedStore
from support.stage import (
    ALL,
    DURABLE,
    TEN,
    WITH_DIRECTORY,
    Stage,
    collect,
    ended,
    killed,
)

HOUR, DAY = 3_600.0, 86_400.0

everywhere = pytest.mark.parametrize("open_store", ALL, indirect=True)
where_durable = pytest.mark.parametrize("open_store", DURABLE, indirect=True)


# One call, and the same call again.


@everywhere
@pytest.mark.parametrize("way", ["timed out", "cancelled"])
async def test_left_while_polling_and_called_again(stage: Stage, way: str) -> None:
    """One export, and that is told."""
    events: list[Event] = []
    await stage.leave(way=way)

    async with stage.client(hook=events.append) as client:
        saved = await client.export("c1", stage.path())

    assert 1 == stage.spent
    assert 0 == saved.spent
    assert 1 == sum(isinstance(event, ExportAdopted) for event in events)


async def test_left_before_it_was_known(stage: Stage) -> None:
    """A young export that the service does not know yet is taken up, and comes."""
    async with emulator_assuming(stage.clock, known_after=60) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        here = attrs.evolve(stage, emulator=emulator)
        await here.leave()

        assert "ann" in await here.export()
        assert 1 == emulator.spent


async def test_left_and_called_again_by_a_clock_that_is_ahead(stage: Stage) -> None:
    """A 404 of the first moment is none of an old export: one is spent."""
    await stage.leave()
    stage.emulator.fail_next("status", faults.refused(404, "no such job"))
    ahead = FakeClock(utc=stage.clock.utcnow() + timedelta(minutes=50))

    async with stage.client(clock=ahead) as client:
        task = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: stage.emulator.requests("status") > 2)
        stage.clock.advance(100)
        await task

    assert 1 == stage.spent


@everywhere
async def test_left_and_the_definition_is_edited(stage: Stage) -> None:
    """Two exports, and the new members."""
    await stage.leave()
    stage.emulator.add_cohort("c1", members=["eve"])

    assert "eve" in await stage.export()
    assert 2 == stage.spent


@everywhere
async def test_left_and_we_write_to_the_cohort(stage: Stage) -> None:
    """Two exports, and the new members, in whichever process the write was."""
    await stage.leave()
    async with stage.client() as client:
        await client.update_membership("c1", add=["eve"])

    assert "eve" in await stage.export()
    assert 2 == stage.spent


@everywhere
async def test_left_and_called_again_after_two_hours(stage: Stage) -> None:
    """What was requested more than an hour ago is too old."""
    await stage.leave()
    stage.clock.advance(2 * HOUR)
    await stage.export()

    assert 2 == stage.spent


@everywhere
async def test_left_and_called_again_for_something_fresh(stage: Stage) -> None:
    """Nothing that was requested before the call will do."""
    await stage.leave()
    await stage.export(reuse_within=0)

    assert 2 == stage.spent


# Killed.


@where_durable
@pytest.mark.parametrize("state", ["requested", "ready"])
async def test_killed_and_called_again(stage: Stage, state: str) -> None:
    """While polling, and after the rename, before the call returned: one export."""
    await stage.kill(after=state)
    files = stage.emulator.requests("file")

    assert "ann" in await stage.export()
    assert 1 == stage.spent
    # A file that has its name is not downloaded again.
    assert (files or 1) == stage.emulator.requests("file")
    # And a call after that is a new one.
    await stage.export()
    assert 2 == stage.spent


@where_durable
async def test_killed_while_downloading_and_called_again(stage: Stage) -> None:
    """The same export, from its beginning or from where it was cut."""
    stage.emulator.fail_next("file", faults.hang())
    store = stage.mortal()
    async with stage.client(store) as client:
        task = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: stage.emulator.requests("file") == 1)
        store.die()
        await ended(task)

    assert "ann" in await stage.export()
    assert 1 == stage.spent


@where_durable
async def test_killed_between_the_bytes_and_the_record_of_the_id(stage: Stage) -> None:
    """One is counted; the next call says so and spends nothing until it is told to."""
    await stage.kill(before="requested")

    with pytest.raises(AmbiguousExportError) as caught:
        await stage.export()

    assert "c1" in str(caught.value)
    assert 1 == stage.spent
    await stage.export(on_unknown="spend")
    assert 2 == stage.spent


@where_durable
async def test_killed_before_the_bytes(stage: Stage) -> None:
    """What was queued and never sent is spent by the next call, without a question."""
    await stage.kill(after="queued delivery")
    await stage.export()

    assert 1 == stage.spent


@where_durable
async def test_killed_after_a_429(stage: Stage) -> None:
    """Set back before it was killed: the next day's call is in no doubt."""
    stage.emulator.fail_next("export", faults.throttled())
    await stage.kill(after="attempted queued")

    stage.clock.advance(DAY)
    await stage.export()
    assert 1 == stage.spent


@everywhere
@pytest.mark.parametrize(
    "fault", [faults.refused(400, "no"), faults.refused(403, "no")]
)
async def test_refused_and_called_the_next_day(stage: Stage, fault: Fault) -> None:
    """A refusal spends nothing, and leaves no doubt."""
    stage.emulator.fail_next("export", fault)
    with pytest.raises(ApiError):
        await stage.export()

    stage.clock.advance(DAY)
    await stage.export()
    assert 1 == stage.spent


# More than one caller.


@where_durable
async def test_one_of_two_who_joined_is_killed(stage: Stage) -> None:
    """The other's file is none of its own: it gets its own from the same export."""
    store = stage.mortal(dies_after="delivery")
    async with stage.client() as one, stage.client(store) as other:
        first = asyncio.ensure_future(one.export("c1", stage.path("a.csv")))
        await until(lambda: stage.emulator.requests("status") == 1)
        await killed(other.export("c1", stage.path("b.csv")), store)
        await first

    assert await stage.export("b.csv") == stage.path("a.csv").read_text()
    assert 1 == stage.spent


@everywhere
async def test_another_target_after_the_first_was_delivered(stage: Stage) -> None:
    """Nobody gets an old file for a new call."""
    await stage.export("a.csv")
    stage.clock.advance(300)
    await stage.export("b.csv")

    assert 2 == stage.spent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("open_store", "callers"),
    [
        ("memory", 400),
        ("sqlite", 100),
        pytest.param("redis", 100, marks=pytest.mark.services),
        pytest.param("postgres", 100, marks=pytest.mark.services),
    ],
    indirect=["open_store"],
)
async def test_hundreds_of_callers_in_one_loop(stage: Stage, callers: int) -> None:
    """One export, and one poller: as many questions as one caller asks."""
    stage.emulator.add_cohort("c1", members=["ann"], job_seconds=0.2)
    await stage.export("one.csv")
    polls = stage.emulator.requests("status")
    spent = stage.spent

    store = ScriptedStore(stage.open_store())
    async with stage.client(store) as client:
        targets = [stage.path(f"{number}.csv") for number in range(callers)]
        # The job is not done before all have joined, however slow the store is.
        with stage.clock.busy():
            exports = asyncio.gather(*(client.export("c1", to) for to in targets))
            await until(lambda: store.begun >= callers or exports.done())
        await exports

    assert 1 == stage.spent - spent
    assert polls == stage.emulator.requests("status") - polls
    assert all("ann" in path.read_text() for path in targets)


@pytest.mark.slow
@everywhere
async def test_eight_clients_at_once(stage: Stage) -> None:
    """One export, whoever is first."""

    async def export(name: str) -> str:
        return await stage.export(name)

    texts = await asyncio.gather(*(export(f"{number}.csv") for number in range(8)))

    assert 1 == stage.spent
    assert 1 == len(set(texts))


# Many exports.


async def stop_at_four(client: CohortsClient, folder: Path, way: str) -> None:
    """Take four outcomes of ten, and stop in some way."""
    batch = client.export_many(TEN, folder, max_concurrency=2)

    if way == "error":
        with pytest.raises(LookupError):
            async with batch:
                for _ in range(4):
                    await anext(batch)
                raise LookupError
        return

    for _ in range(4):
        await anext(batch)

    if way == "closed":
        await batch.aclose()
    elif way == "cancelled":
        step = asyncio.ensure_future(anext(batch))
        await asyncio.sleep(0)
        await ended(step)
    elif way == "client closed":
        await client.aclose()
    elif way == "dropped":
        del batch
        gc.collect()


where_many = pytest.mark.parametrize("open_store", WITH_DIRECTORY, indirect=True)
WAYS = ["closed", "error", "cancelled", "client closed", "dropped", "held"]


@pytest.mark.slow
@where_many
@pytest.mark.parametrize("way", WAYS)
async def test_many_are_stopped_at_four_and_called_again(
    stage: Stage, way: str
) -> None:
    """Ten in all; the four are left alone, even if their reader has moved them."""
    async with stage.client() as client:
        await stop_at_four(client, stage.folder, way)
    for path in stage.folder.glob("cohort*.csv"):
        path.unlink()

    async with stage.client() as client:
        outcomes = await collect(client.export_many(TEN, stage.folder))

    assert 10 == stage.spent == sum(outcome.saved is not None for outcome in outcomes)
    assert 6 >= len([*stage.folder.glob("cohort*.csv")])


@pytest.mark.slow
@where_many
async def test_many_to_the_end_and_called_again(stage: Stage) -> None:
    """The second run gets the members of its own time."""
    for _ in range(2):
        async with stage.client() as client:
            await collect(client.export_many(TEN, stage.folder))

    assert 20 == stage.spent


@where_many
async def test_two_runs_share_a_directory(stage: Stage) -> None:
    """One ends; the other was stopped, and goes on: each export is spent once."""
    one, other = TEN[:5], TEN[5:]

    async with stage.client() as first, stage.client() as second:
        left = second.export_many(other, stage.folder, max_concurrency=1)
        await anext(left)
        await collect(first.export_many(one, stage.folder))
        await left.aclose()

    async with stage.client() as client:
        await collect(client.export_many(other, stage.folder))

    assert 10 == stage.spent


@where_many
async def test_many_is_left_and_another_process_writes_to_the_cohort(
    stage: Stage,
) -> None:
    """The new members, though the list does not show the write."""
    stage.emulator.add_cohort(
        "c1", members=["ann"], job_seconds=100, overrides={"lastMod": 1}
    )
    async with stage.client() as client:
        await collect(client.export_many(["c1"], stage.folder, timeout=11))

    async with stage.client() as client:
        await client.update_membership("c1", add=["eve"])
        await collect(client.export_many(["c1"], stage.folder, format="csv.gz"))

    assert b"eve" in gzip.decompress(stage.path("c1.csv.gz").read_bytes())
    assert 2 == stage.spent


@where_many
@pytest.mark.parametrize("place", ["same", "other"])
async def test_many_may_have_spent_and_is_forgotten(stage: Stage, place: str) -> None:
    """It stays forgotten, in this process and the next one."""
    stage.emulator.fail_next("export", faults.lost_answer())
    async with stage.client() as client:
        await collect(client.export_many(["c1"], stage.folder))
    async with stage.client() as client:
        (told,) = await collect(client.export_many(["c1"], stage.folder))
        assert isinstance(told.error, AmbiguousExportError)
        (record,) = await client.jobs()
        await client.forget_job(record)
        assert [] == await client.jobs()
        if place == "same":
            (outcome,) = await collect(client.export_many(["c1"], stage.folder))

    if place == "other":
        async with stage.client() as client:
            (outcome,) = await collect(client.export_many(["c1"], stage.folder))

    assert outcome.saved is not None
    assert 2 == stage.spent


@where_many
async def test_one_and_many_at_the_same_time(stage: Stage) -> None:
    """Whoever is first, the other joins."""
    async with stage.client() as client:
        await asyncio.gather(
            client.export("c1", stage.path()),
            collect(client.export_many(["c1"], stage.folder)),
        )

    assert 1 == stage.spent


# Membership.


@pytest.fixture
def one_id_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many writes as ids."""
    monkeypatch.setattr(batches, "MOST_IDS", 1)


@where_durable
async def test_a_sync_killed_before_its_first_write(stage: Stage) -> None:
    """The next one goes on with the same members."""
    stage.emulator.add_cohort("c1", members=["ann", "bob"])
    stage.clock.advance(1)
    store = stage.mortal()
    async with stage.client(store) as client:
        stage.emulator.fail_next("file", faults.hang())
        task = asyncio.ensure_future(client.sync_membership("c1", ["ann", "eve"]))
        await until(lambda: stage.emulator.requests("file") == 1)
        store.die()
        await ended(task)

    async with stage.client() as client:
        await client.sync_membership("c1", ["ann", "eve"])

    assert 1 == stage.spent
    assert {"ann", "eve"} == stage.emulator.members_of("c1")


@where_durable
@pytest.mark.usefixtures("one_id_a_request")
async def test_a_sync_killed_between_two_writes(stage: Stage) -> None:
    """What was read is not what is there: the next one reads again."""
    stage.emulator.add_cohort("c1", members=["ann", "bob"])
    stage.clock.advance(1)
    store = stage.mortal()

    def die(event: Event) -> None:
        if isinstance(event, BatchWritten):
            store.die()

    async with stage.client(store, hook=die) as client:
        await killed(client.sync_membership("c1", ["ann", "eve", "zoe"]), store)

    async with stage.client() as client:
        await client.sync_membership("c1", ["ann", "eve", "zoe"])

    assert 2 == stage.spent
    assert {"ann", "eve", "zoe"} == stage.emulator.members_of("c1")


@everywhere
async def test_a_sync_refused_by_its_guard(stage: Stage) -> None:
    """With a higher share the same call goes on with the same members."""
    stage.emulator.add_cohort("c1", members=["ann", "bob"])
    stage.clock.advance(1)

    for max_removed in (0.1, 1.0):
        async with stage.client() as client:
            with suppress(RemovalGuardError):
                await client.sync_membership("c1", ["eve"], max_removed=max_removed)

    assert 1 == stage.spent
    assert {"eve"} == stage.emulator.members_of("c1")


@everywhere
async def test_a_dry_run_and_the_sync_after_it(stage: Stage) -> None:
    """A dry run that returned has used its export."""
    stage.emulator.add_cohort("c1", members=["ann", "bob"])
    stage.clock.advance(1)
    for dry_run in (True, False):
        async with stage.client() as client:
            await client.sync_membership("c1", ["ann", "eve"], dry_run=dry_run)

    assert 2 == stage.spent


# What is old, parked, frozen or named.


@where_durable
async def test_an_old_export_never_replaces_the_file_of_a_new_one(
    stage: Stage,
) -> None:
    """A runner leaves the target alone."""
    await stage.kill(after="requested")
    stage.emulator.add_cohort("c1", members=["eve"])
    await stage.export()

    async with stage.client() as client:
        outcomes = await collect(client.run_jobs())

    assert [] == outcomes
    assert 2 == stage.spent
    assert "eve" in stage.path().read_text()


@everywhere
@pytest.mark.parametrize("replaced", [False, True])
async def test_an_owner_frozen_before_it_recorded_its_id(
    stage: Stage, replaced: bool
) -> None:
    """Its lease is lost; when it wakes, its export is stored whatever came instead."""
    woken = asyncio.Event()
    frozen = stage.mortal()
    frozen.holds = {"requested": woken}

    async with stage.client(frozen) as client:
        task = asyncio.ensure_future(client.request_export("c1"))
        await until(lambda: stage.spent == 1)
        with pytest.raises(AmbiguousExportError):
            await stage.export()
        if replaced:
            await stage.export(on_unknown="spend")
        woken.set()
        job = await task

    async with stage.client() as client:
        known = [record.request_id for record in await client.jobs()]

    assert job.request_id in known
    assert stage.spent == len(known) == 1 + replaced


@everywhere
async def test_an_owner_that_lost_its_claim_sends_nothing(stage: Stage) -> None:
    """Who was frozen before the bytes left goes on with what another requested."""
    woken = asyncio.Event()
    frozen = stage.mortal()
    frozen.holds = {"attempted": woken}

    async with stage.client(frozen) as client:
        task = asyncio.ensure_future(client.export("c1", stage.path("a.csv")))
        await until(lambda: bool(frozen.heard))
        await stage.export("b.csv")
        woken.set()
        await task

    assert 1 == stage.spent
    assert stage.path("a.csv").read_text() == stage.path("b.csv").read_text()


@everywhere
async def test_a_parked_export_and_the_same_call(stage: Stage) -> None:
    """The call spends; who names the parked one takes it up."""
    await stage.leave()
    async with stage.client() as client:
        (record,) = await client.jobs()
        parked = await client.park_job(record)

    await stage.export()
    assert 2 == stage.spent

    async with stage.client() as client:
        await client.resume_export(str(parked.token)).download(stage.path("b.csv"))
    assert 2 == stage.spent


@everywhere
async def test_one_occurrence_for_two_targets_and_a_day_later(stage: Stage) -> None:
    """One name, one export, whatever happened to the cohort meanwhile."""
    await stage.export("a.csv", occurrence="monday")
    await stage.export("b.csv", occurrence="monday")
    stage.emulator.add_cohort("c1", members=["eve"])
    stage.clock.advance(DAY)
    text = await stage.export("a.csv", occurrence="monday")

    assert 1 == stage.spent
    assert "eve" not in text


@everywhere
async def test_an_occurrence_whose_file_is_gone(stage: Stage) -> None:
    """It is downloaded again from the same export."""
    await stage.export(occurrence="monday")
    stage.path().unlink()

    assert "ann" in await stage.export(occurrence="monday")
    assert 1 == stage.spent


@everywhere
async def test_an_occurrence_joins_no_other(stage: Stage) -> None:
    """Nor does a call without one."""
    await stage.leave()
    await stage.export("b.csv", occurrence="monday")
    await stage.export("c.csv", occurrence="tuesday")

    assert 3 == stage.spent


# The store fails.


@everywhere
async def test_a_store_that_fails_before_the_purchase(stage: Stage) -> None:
    """Nothing is spent, and the error says so."""
    store = ScriptedStore(stage.open_store())
    store.refuses = {"attempted"}

    async with stage.client(store) as client:
        with pytest.raises(JobStoreUnavailableError):
            await client.export("c1", stage.path())

    assert 0 == stage.spent == stage.emulator.requests("export")


@everywhere
async def test_a_store_that_fails_after_the_purchase(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The file comes, the log has the token at once, the store when it is back."""
    store = ScriptedStore(stage.open_store())
    store.refuses = {"requested", "ready"}

    async with stage.client(store) as client:
        saved = await client.export("c1", stage.path())
        warnings = [each for each in caplog.records if each.levelname == "WARNING"]
        store.refuses = set()

    async with stage.client() as client:
        (record,) = await client.jobs()

    assert any(saved.token in each.getMessage() for each in warnings)
    assert ("ready", saved.token) == (record.state, record.token)
    assert 1 == stage.spent


# What comes over what.


@everywhere
async def test_a_newer_export_of_another_cohort_stays_at_its_target(
    stage: Stage,
) -> None:
    """A runner leaves what was given up alone."""
    await stage.leave()
    async with stage.client() as client:
        await client.export("cohort1", stage.path())
        text = stage.path().read_text()
        outcomes = await collect(client.run_jobs())

    assert [] == outcomes
    assert text == stage.path().read_text()


@everywhere
@pytest.mark.parametrize("way", ["export", "request", "many"])
async def test_a_slow_download_does_not_replace_a_newer_file(
    stage: Stage, way: str
) -> None:
    """Its call says so, and its export is kept: it comes where its caller says."""
    store = ScriptedStore(stage.open_store())
    store.holds = {"publishing": (may_go_on := asyncio.Event())}

    async with stage.client(store) as client:
        task = asyncio.ensure_future(slowly(client, stage, way))
        await until(lambda: "publishing" in store.reached)
        stage.emulator.add_cohort("c1", members=["eve"])
        await stage.export("c1.csv", reuse_within=0)
        text = stage.path("c1.csv").read_text()
        may_go_on.set()
        error = await task
        assert text == stage.path("c1.csv").read_text()
        assert ["c1.csv"] == [each.name for each in stage.folder.glob("[!s]*")]
        assert [] == await collect(client.run_jobs())

        job = client.resume_export(error.token or "")
        other = await job.download(stage.path("other.csv"))
        assert "ann" in other.path.read_text()
        await job.download(stage.path("c1.csv"))

    assert "ann" in stage.path("c1.csv").read_text()
    assert 2 == stage.spent


async def slowly(client: CohortsClient, stage: Stage, way: str) -> StorageError:
    """Bring the cohort to c1.csv; return the error with which that ends."""
    with pytest.raises(StorageError, match="newer export of cohort c1") as caught:
        if way == "many":
            async for outcome in client.export_many(["c1"], stage.folder):
                raise outcome.error or AssertionError
        elif way == "request":
            job = await client.request_export("c1")
            await job.download(stage.path("c1.csv"))
        else:
            await client.export("c1", stage.path("c1.csv"))

    return caught.value


@everywhere
async def test_a_newer_file_waits_until_an_older_one_has_its_name(
    stage: Stage,
) -> None:
    """It is renamed after it, even if the older one is slow at that very moment."""
    store = ScriptedStore(stage.open_store())
    store.answers = {"publishing": (may_go_on := asyncio.Event())}

    async with stage.client(store) as client:
        older = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: "publishing" in store.reached)
        stage.emulator.add_cohort("c1", members=["eve"])
        newer = asyncio.ensure_future(stage.export(reuse_within=0))
        await until(lambda: stage.emulator.requests("file") == 2)
        await asyncio.sleep(0.1)
        assert not newer.done()
        may_go_on.set()
        await older
        assert "eve" in await newer

    assert "eve" in stage.path().read_text()
    assert 2 == stage.spent


@where_durable
async def test_killed_while_its_file_got_its_name(stage: Stage) -> None:
    """An older download that was slow does not come over what may be there."""
    slow = ScriptedStore(stage.open_store())
    slow.holds = {"publishing": (may_go_on := asyncio.Event())}

    async with stage.client(slow) as client:
        older = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: "publishing" in slow.reached)
        store = stage.mortal(dies_after="publishing")
        async with stage.client(store) as other:
            await killed(other.export("c1", stage.path(), reuse_within=0), store)
        may_go_on.set()
        with pytest.raises(StorageError, match="newer export"):
            await older

    assert 2 == stage.spent


@everywhere
async def test_an_occurrence_whose_file_is_gone_comes_before_a_newer_one(
    stage: Stage,
) -> None:
    """It is downloaded again, and a newer file waits until it has its name."""
    await stage.export(occurrence="monday")
    stage.path().unlink()
    store = ScriptedStore(stage.open_store())
    store.answers = {"publishing": (may_go_on := asyncio.Event())}

    async with stage.client(store) as client:
        older = asyncio.ensure_future(
            client.export("c1", stage.path(), occurrence="monday")
        )
        await until(lambda: "publishing" in store.reached)
        stage.emulator.add_cohort("c1", members=["eve"])
        newer = asyncio.ensure_future(stage.export())
        await until(lambda: stage.emulator.requests("file") == 3)
        may_go_on.set()
        await older
        assert "eve" in await newer

    assert "eve" in stage.path().read_text()


@everywhere
async def test_an_occurrence_that_is_overtaken_names_nothing(stage: Stage) -> None:
    """A newer export that came after it was looked up stays."""
    await stage.export(occurrence="monday")
    store = ScriptedStore(stage.open_store())
    store.holds = {"delivery": (may_go_on := asyncio.Event())}

    async with stage.client(store) as client:
        task = asyncio.ensure_future(
            client.export("c1", stage.path(), occurrence="monday")
        )
        await until(lambda: "delivery" in store.reached)
        stage.emulator.add_cohort("c1", members=["eve"])
        await stage.export()
        may_go_on.set()
        with pytest.raises(StorageError, match="newer export"):
            await task

    assert "eve" in stage.path().read_text()


@everywhere
async def test_what_is_unchanged_and_overtaken_names_nothing(stage: Stage) -> None:
    """A newer export that came while the list was read stays."""
    stage.clock.advance(10)
    await stage.export()
    stage.clock.advance(10)
    lists = stage.emulator.requests("list")
    stage.emulator.fail_next("list", faults.hang(50), faults.works())

    async with stage.client() as client:
        task = asyncio.ensure_future(
            client.export("c1", stage.path(), skip_unchanged=True)
        )
        await until(lambda: stage.emulator.requests("list") > lists)
        await stage.export(reuse_within=0)
        newer = stage.path().read_bytes(), stage.path().stat().st_ino
        with suppress(StorageError):
            await task

    assert newer == (stage.path().read_bytes(), stage.path().stat().st_ino)


@everywhere
async def test_the_newest_export_at_a_target_is_the_one_that_is_unchanged(
    stage: Stage,
) -> None:
    """An occurrence that came there again is older, whenever it came."""
    stage.clock.advance(10)
    await stage.export(occurrence="monday")
    stage.clock.advance(10)

    async with stage.client() as client:
        newer = await client.export("c1", stage.path())
        stage.clock.advance(10)
        await client.export("c1", stage.path(), occurrence="monday")
        stage.clock.advance(10)
        again = await client.export("c1", stage.path(), skip_unchanged=True)

    assert newer.token == again.token
    assert 0 == again.spent


@everywhere
@pytest.mark.parametrize("is_taken_over", [False, True])
async def test_a_newer_file_waits_for_one_whose_lease_had_ended(
    stage: Stage, is_taken_over: bool
) -> None:
    """Who was frozen before its turn takes a lease with it."""
    frozen = ScriptedStore(stage.open_store())
    frozen.lease = 0.0
    frozen.holds = {"publishing": (woken := asyncio.Event())}
    frozen.answers = {"publishing": (may_go_on := asyncio.Event())}

    async with stage.client(frozen) as client:
        older = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: "publishing" in frozen.reached)
        if is_taken_over:
            store = ScriptedStore(stage.open_store())
            store.holds = {"publishing": asyncio.Event()}
            async with stage.client(store) as other:
                task = asyncio.ensure_future(other.export("c1", stage.path()))
                await until(lambda: "publishing" in store.reached)
                store.die()
                store.holds["publishing"].set()
                await ended(task)
        frozen.lease, frozen.reached = 30.0, set()
        woken.set()
        await until(lambda: "publishing" in frozen.reached)
        stage.emulator.add_cohort("c1", members=["eve"])
        files = stage.emulator.requests("file")
        newer = asyncio.ensure_future(stage.export(reuse_within=0))
        await until(lambda: stage.emulator.requests("file") > files)
        await asyncio.sleep(0.1)
        assert not newer.done()
        may_go_on.set()
        await older
        await newer

    assert "eve" in stage.path().read_text()
    assert 2 == stage.spent


@everywhere
async def test_who_names_an_older_export_waits_for_a_newer_one(stage: Stage) -> None:
    """A file and its manifest are of the same export."""
    store = ScriptedStore(stage.open_store())
    async with stage.client(store) as client:
        job = await client.request_export("c1")
        await job.wait()
        stage.emulator.add_cohort("c1", members=["eve"])
        store.answers = {"publishing": (may_go_on := asyncio.Event())}
        newer = asyncio.ensure_future(
            client.export("c1", stage.path(), reuse_within=0, manifest=True)
        )
        await until(lambda: "publishing" in store.reached)
        store.answers = {}
        named = asyncio.ensure_future(job.download(stage.path(), manifest=True))
        await until(lambda: stage.emulator.requests("file") == 2)
        await asyncio.sleep(0.1)
        assert not named.done()
        may_go_on.set()
        await newer
        saved = await named

    manifest = json.loads(stage.path("a.csv.manifest.json").read_text())
    assert saved.sha256 == manifest["sha256"]
    assert "ann" in stage.path().read_text()


@everywhere
async def test_a_newer_file_waits_though_the_store_is_away(stage: Stage) -> None:
    """It asks again for as long as who renames an older one may live."""
    slow = ScriptedStore(stage.open_store())
    slow.answers = {"publishing": (may_go_on := asyncio.Event())}
    away = ScriptedStore(stage.open_store())

    async with stage.client(slow) as client, stage.client(away) as other:
        older = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: "publishing" in slow.reached)
        stage.emulator.add_cohort("c1", members=["eve"])
        newer = asyncio.ensure_future(other.export("c1", stage.path(), reuse_within=0))
        await until(lambda: stage.emulator.requests("file") == 2)
        await asyncio.sleep(0.1)
        away.refuses = {"*"}
        await asyncio.sleep(0.3)
        away.refuses = set()
        assert not newer.done()
        may_go_on.set()
        await older
        await newer

    assert "eve" in stage.path().read_text()


@everywhere
async def test_a_running_export_that_is_forgotten_still_comes(stage: Stage) -> None:
    """What was at its target before is older."""
    await stage.export()
    stage.emulator.add_cohort("c1", members=["eve"])
    store = ScriptedStore(stage.open_store())
    store.holds = {"publishing": (may_go_on := asyncio.Event())}

    async with stage.client(store) as client:
        task = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: "publishing" in store.reached)
        for record in await client.jobs(open_only=True):
            await client.forget_job(record)
        may_go_on.set()
        await task

    assert "eve" in stage.path().read_text()


@everywhere
async def test_a_run_does_not_go_back_behind_a_newer_export(stage: Stage) -> None:
    """Two for the run, whose first was replaced, and one for the call in between."""
    async with stage.client() as client:
        async with client.export_many(["c1"], stage.folder, timeout=11) as batch:
            (outcome,) = [await anext(batch)]
        assert isinstance(outcome.error, ExportTimeoutError)
        stage.emulator.add_cohort("c1", members=["eve"])
        await client.export("c1", stage.path("c1.csv"), reuse_within=0)
        await collect(client.export_many(["c1"], stage.folder))

    assert "eve" in stage.path("c1.csv").read_text()
    assert 3 == stage.spent


@everywhere
async def test_an_occurrence_does_not_go_back_behind_a_newer_one(stage: Stage) -> None:
    """It says so, and how to have it; what it delivered itself it answers."""
    async with stage.client() as client:
        with pytest.raises(ExportTimeoutError):
            await client.export("c1", stage.path(), occurrence="monday", timeout=11)
        await client.export("c1", stage.path(), occurrence="tuesday")
        await client.export("c1", stage.path(), occurrence="wednesday")
        text = stage.path().read_text()
        with pytest.raises(InvalidInputError, match="newer export") as caught:
            await client.export("c1", stage.path(), occurrence="monday")
        again = await client.export("c1", stage.path(), occurrence="tuesday")

        assert "c1" == client.resume_export(caught.value.token or "").cohort_id

    assert 0 == again.spent
    assert text == stage.path().read_text()
    assert 3 == stage.spent


@everywhere
async def test_an_occurrence_in_another_format_is_that_file(stage: Stage) -> None:
    """The same export, and the file that was asked for."""
    async with stage.client() as client:
        await client.export("c1", stage.path("a"), format="csv", occurrence="monday")
        await client.export("c1", stage.path("a"), format="csv.gz", occurrence="monday")

    assert gzip.decompress(stage.path("a").read_bytes()).startswith(b'"amplitude_id"')
    assert 1 == stage.spent


@everywhere
async def test_what_is_answered_from_a_record_is_delivered(stage: Stage) -> None:
    """Nothing is left open, and a runner does not bring back what was moved."""
    async with stage.client() as client:
        for _ in range(2):
            await client.export("c1", stage.path(), occurrence="monday")
        await stop_at_four(client, stage.folder, "closed")
        await collect(client.export_many(TEN, stage.folder))
        for path in stage.folder.glob("*.csv"):
            path.unlink()

        assert [] == await client.jobs(open_only=True)
        assert [] == await collect(client.run_jobs())

    assert [] == [*stage.folder.glob("*.csv")]


@everywhere
async def test_what_a_stream_took_over_is_no_file(stage: Stage) -> None:
    """A sync goes on with the delivery of an idle job, whose file is another one."""
    store = stage.mortal()
    async with stage.client(store) as client:
        job = await client.request_export("c1", join=True)
        store.lease = 30.0
        stage.emulator.fail_next("file", faults.hang(), times=2)
        sync = asyncio.ensure_future(client.sync_membership("c1", ["ann"]))
        await until(lambda: stage.emulator.requests("file") == 1)
        download = asyncio.ensure_future(job.download(stage.path()))
        await until(lambda: stage.emulator.requests("file") == 2)
        (record,) = await client.jobs()
        await ended(download)
        await ended(sync)

    assert 1 == [each.target for each in record.deliveries].count(None)
    assert 2 == len(record.deliveries)


# What a store is given twice.


@everywhere
async def test_a_living_attempt_is_nobody_elses_doubt(stage: Stage) -> None:
    """Another call that asks for an export of its own forgets it not."""
    store = stage.mortal()
    store.lease = 30.0
    stage.emulator.fail_next("export", faults.hang())

    async with stage.client(store) as client:
        task = asyncio.ensure_future(client.export("c1", stage.path()))
        await until(lambda: stage.emulator.requests("export") == 1)
        async with stage.client() as other:
            await other.request_export("c1")
            (attempted,) = [
                record for record in await other.jobs() if record.state == "attempted"
            ]
        store.die()
        await ended(task)

    assert "c1" == attempted.cohort_id


@everywhere
async def test_an_id_that_was_stored_and_not_confirmed_is_one_export(
    stage: Stage,
) -> None:
    """It is stored again, and no later call is given its old file."""
    store = ScriptedStore(stage.open_store())
    store.forgets_to_answer = {"requested"}

    async with stage.client(store) as client:
        await client.export("c1", stage.path())
        assert 1 == len(await client.jobs())
        await client.export("c1", stage.path("b.csv"))

    assert 2 == stage.spent


@everywhere
async def test_who_reuses_nothing_may_be_in_doubt(stage: Stage) -> None:
    """Of a request that was sent after the call began, and whose caller was killed."""
    async with stage.client() as client:
        jobs = client._operations.exports.jobs
        began = await jobs.last_sequence("c1")
        await stage.kill(after="attempted")
        call = Call(cohort_id="c1", since_sequence=began, reuse_within=0)

        assert isinstance(await jobs.claim(call, None), Doubt)
