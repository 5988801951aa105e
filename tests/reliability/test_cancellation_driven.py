"""
Every await of every public coroutine is cancelled once.

A call is cancelled at its first await, then another at its second, until one ends
before. After each of them the same call is made again, and has to end well.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async._writes import batches as batches_module
from amplitude_cohorts_async._writes import id_stream as id_stream_module
from amplitude_cohorts_async.errors import AmbiguousUploadError
from amplitude_cohorts_async.jobs import JobRecord, MemoryJobStore
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.models import IdType
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas
from support.canary import API_KEY, SECRET_KEY
from support.cancelling import Way, by_task
from support.exporting import names_in, until

pytestmark = pytest.mark.forced

APP = 153957
OWNER = "datamonster@amplitude.com"
ONE_SLOT = Limits(in_flight=1, exports=(), polls=None, writes=None, release_delay=0.0)
MEMBERS = [f"user-{number}" for number in range(30)]
OTHERS = [f"user-{number}" for number in range(15, 45)]
STORE_OF_THE_DIRECTORY = ".amplitude-exports.db"

MOST_AWAITS = 200
"""A call that is never over has awaits without end."""

Call = Callable[["World"], Awaitable[object]]


@attrs.frozen(kw_only=True)
class World:
    """
    What one call has to itself, while emulator and client are shared.

    Attributes:
        number: Makes the names of its cohorts; no other call has them.
        folder: An empty folder.
        spent_before: Exports.
    """

    emulator: CohortsEmulator
    client: CohortsClient
    number: str
    folder: Path
    spent_before: int

    @property
    def cohort(self) -> str:
        """A cohort that nobody exported or wrote to before."""
        return f"c{self.number}"

    @property
    def clock(self) -> FakeClock:
        """The time of all."""
        assert isinstance(self.emulator.clock, FakeClock)
        return self.emulator.clock

    @property
    def second(self) -> str:
        """Another one."""
        return f"d{self.number}"

    @property
    def token(self) -> str:
        """The token of the export that was made before the call."""
        return (self.folder.parent / f"token{self.number}").read_text()

    @property
    def spent(self) -> int:
        """The exports that this call, and its repetition, spent."""
        return self.emulator.spent - self.spent_before


@attrs.frozen(kw_only=True)
class Scene:
    """
    A public call, and what is true once it was cancelled and made again.

    Attributes:
        again: The call after a cancelled one, if it is not the same.
        prepare: Is not cancelled.
        spends: The exports of both together: least and most.
        files: What may be in the folder afterwards.
        check: Further facts.
        is_resumable: Whether a part may be left, for the next call to go on with.
        is_tidy: Whether the store is emptied, because the call reads all of it.
        awaits: So many there are at least; else nothing would have been tested.
    """

    call: Call
    again: Call | None = None
    prepare: Call | None = None
    spends: tuple[int, int] = (0, 0)
    files: tuple[str, ...] = ()
    check: Call | None = None
    awaits: int = 2
    is_resumable: bool = False
    is_tidy: bool = False


# -- What is called ----------------------------------------------------------


async def export(world: World) -> None:
    """Save to text."""
    await world.client.export(world.cohort, world.folder / "a.csv")


async def export_gzip(world: World) -> None:
    """Save as served."""
    await world.client.export(world.cohort, world.folder / "a.csv.gz")


async def export_occurrence(world: World) -> None:
    """Save under a key."""
    await world.client.export(world.cohort, world.folder / "a.csv", occurrence="monday")


async def export_unchanged(world: World) -> None:
    """Save what is saved already."""
    await world.client.export(world.cohort, world.folder / "a.csv", skip_unchanged=True)


async def export_many(world: World) -> None:
    """Save two."""
    cohorts = [world.cohort, world.second]

    async for outcome in world.client.export_many(cohorts, world.folder):
        assert outcome.error is None


async def request(world: World) -> None:
    """Request an export."""
    await world.client.request_export(world.cohort)


async def request_or_join(world: World) -> None:
    """Request an export, or go on with one."""
    await world.client.request_export(world.cohort, join=True)


async def members(world: World) -> None:
    """Read members as they come."""
    job = await world.client.request_export(world.cohort, join=True)

    async with job.members() as stream:
        assert set(MEMBERS) == {str(member.user_id) async for member in stream}


async def record_batches(world: World) -> None:
    """Read columns as they come."""
    pytest.importorskip("pyarrow")
    job = await world.client.request_export(world.cohort, join=True)

    async with job.record_batches() as batches:
        assert len(MEMBERS) == sum([batch.num_rows async for batch in batches])


def resumed(world: World) -> ExportJob:
    """Take up what was requested before."""
    return world.client.resume_export(world.token)


async def wait(world: World) -> None:
    """Wait for the job."""
    await resumed(world).wait()


async def poll(world: World) -> None:
    """Ask for its state."""
    await resumed(world).poll()


async def download(world: World) -> None:
    """Save the file of what was requested before."""
    await resumed(world).download(world.folder / "a.csv")


async def upload(world: World) -> None:
    """Make a cohort, with a journal."""
    report = await world.client.upload_cohort(
        f"Buyers {world.number}",
        MEMBERS,
        id_type=IdType.USER_ID,
        app_id=APP,
        owner=OWNER,
        journal=world.folder / "journal",
    )
    assert set(MEMBERS) == world.emulator.members_of(str(report.cohort_id))


async def upload_again(world: World) -> None:
    """Make a cohort; while it may still appear, it is not made again."""
    try:
        await upload(world)
    except AmbiguousUploadError:
        world.clock.advance(1_000)
        await upload(world)


async def replace(world: World) -> None:
    """Put other members into a cohort, without a journal."""
    await world.client.upload_cohort(
        f"Cohort {world.cohort}",
        OTHERS,
        id_type=IdType.USER_ID,
        app_id=APP,
        owner=OWNER,
        replace=world.cohort,
    )


async def update(world: World) -> None:
    """Add and remove."""
    await world.client.update_membership(
        world.cohort, add=OTHERS, remove=MEMBERS[:15], journal=world.folder / "journal"
    )


async def sync(world: World) -> None:
    """Compare with an export, then add and remove."""
    await world.client.sync_membership(world.cohort, OTHERS)


async def sync_with(world: World) -> None:
    """Compare with what the caller knows."""
    await world.client.sync_membership(
        world.cohort, OTHERS, current=MEMBERS, journal=world.folder / "journal"
    )


async def dry_run(world: World) -> None:
    """Compare only."""
    report = await world.client.sync_membership(world.cohort, OTHERS, dry_run=True)
    assert 15 == len(report.add) == len(report.remove)


async def read(world: World) -> None:
    """Read all that can be read."""
    await world.client.list_cohorts(include_sync_info=True)
    await world.client.get_cohort(world.cohort)
    await world.client.get_usage()
    await world.client.plan([world.cohort])


async def keep_books(world: World) -> None:
    """List, put aside and forget."""
    found = [
        record
        for record in await world.client.jobs()
        if record.cohort_id == world.cohort
    ]

    for record in found:
        await world.client.forget_job(await world.client.park_job(record))


async def run_jobs(world: World) -> None:
    """Deliver what was left."""
    async for outcome in world.client.run_jobs():
        assert outcome.error is None


async def tick(world: World) -> None:
    """Make all steps of an export, one after the other."""
    target = world.folder / "a.csv"
    record = JobRecord.new(world.cohort, target, occurrence="monday")

    while not (tick := await world.client.tick(record)).done:
        record = tick.record
        assert tick.due_in is not None
        world.clock.advance(tick.due_in)


async def slot(world: World) -> None:
    """Hold the one slot that there is."""
    async with world.client.slot():
        await asyncio.sleep(0)


# -- What was there before, and what is there afterwards ---------------------


async def requested(world: World) -> None:
    """An export whose token is known."""
    job = await world.client.request_export(world.cohort)
    (world.folder.parent / f"token{world.number}").write_text(job.token)


async def saved(world: World) -> None:
    """A whole file, byte for byte what an undisturbed export has."""
    rows = (world.folder / "a.csv").read_text().splitlines()
    assert {f'"{name}"' for name in MEMBERS} == {row.split(",")[1] for row in rows[1:]}


async def left(world: World) -> None:
    """An export that its caller left while the job ran."""
    with pytest.raises(TimeoutError):
        await world.client.export(world.cohort, world.folder / "a.csv", timeout=0.6)


async def all_known(world: World) -> None:
    """The store knows each export that was spent."""
    records = [
        record
        for record in await world.client.jobs()
        if record.cohort_id == world.cohort
    ]
    assert world.spent == len(records)
    assert all(record.token for record in records)


async def others(world: World) -> None:
    """The members are those that were wanted."""
    assert set(OTHERS) == world.emulator.members_of(world.cohort)


async def one_cohort(world: World) -> None:
    """No second cohort was made."""
    names = [cohort.name for cohort in await world.client.list_cohorts()]
    assert 1 == names.count(f"Buyers {world.number}")


SCENES = {
    "export": Scene(
        call=export, check=saved, spends=(1, 1), files=("a.csv",), awaits=10
    ),
    "export gzip": Scene(
        call=export_gzip,
        spends=(1, 1),
        files=("a.csv.gz",),
        awaits=10,
        is_resumable=True,
    ),
    "export, occurrence": Scene(
        call=export_occurrence, check=saved, spends=(1, 1), files=("a.csv",), awaits=10
    ),
    "export, unchanged": Scene(
        prepare=export, call=export_unchanged, spends=(1, 1), files=("a.csv",), awaits=4
    ),
    "export_many": Scene(call=export_many, spends=(2, 2), awaits=3),
    "request_export": Scene(call=request, check=all_known, spends=(1, 2)),
    "request_export, join": Scene(call=request_or_join, check=all_known, spends=(1, 1)),
    "members": Scene(call=members, check=all_known, spends=(1, 1), awaits=8),
    "record_batches": Scene(
        call=record_batches, check=all_known, spends=(1, 1), awaits=8
    ),
    "wait": Scene(prepare=requested, call=wait, spends=(1, 1)),
    "poll": Scene(prepare=requested, call=poll, spends=(1, 1), awaits=1),
    "download": Scene(
        prepare=requested, call=download, check=saved, spends=(1, 1), files=("a.csv",)
    ),
    "upload_cohort": Scene(
        call=upload, again=upload_again, check=one_cohort, files=("journal",)
    ),
    "upload_cohort, replace": Scene(call=replace, check=others),
    "update_membership": Scene(call=update, check=others, files=("journal",)),
    "sync_membership": Scene(call=sync, check=others, spends=(1, 2), awaits=12),
    "sync_membership, current": Scene(call=sync_with, check=others, files=("journal",)),
    "sync_membership, dry run": Scene(call=dry_run, spends=(1, 1), awaits=8),
    "list, get, usage, plan": Scene(call=read, awaits=4),
    "jobs, park, forget": Scene(
        prepare=requested, call=keep_books, spends=(1, 1), is_tidy=True
    ),
    "run_jobs": Scene(
        prepare=left,
        call=run_jobs,
        check=saved,
        spends=(1, 1),
        files=("a.csv",),
        is_tidy=True,
    ),
    "tick": Scene(call=tick, check=saved, spends=(1, 1), files=("a.csv",), awaits=20),
    "slot": Scene(call=slot, awaits=1),
}


@pytest.fixture
async def service(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """An emulator without quotas, whose files come from its store."""
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        quotas=Quotas.unlimited(),
        inline_below=0,
    ) as emulator:
        yield emulator


@pytest.fixture(params=["memory", "sqlite"])
async def caller(
    request: pytest.FixtureRequest,
    service: CohortsEmulator,
    clock: FakeClock,
    tmp_path: Path,
) -> AsyncIterator[CohortsClient]:
    """A client with one slot, so that a lost one would stop all."""
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=service.base_url,
        clock=clock,
        limits=ONE_SLOT,
        jobs=tmp_path / "exports.db" if "sqlite" == request.param else MemoryJobStore(),
        polling=Polling(initial_delay=0.5, interval=0.5, jitter=0.0),
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def batches_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ids a request, so that a few ids make many."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 10)
    monkeypatch.setattr(id_stream_module, "MOST_IDS", 10)


def ours() -> list[asyncio.Task[object]]:
    """List the tasks that run code of the library's."""
    return [
        task
        for task in asyncio.all_tasks()
        if "amplitude_cohorts_async" in repr(task.get_coro())
        or "/amplitude_cohorts_async/_" in repr(task)
    ]


def is_idle(client: CohortsClient) -> bool:
    """Whether no task of ours runs, no slot is taken, and nobody waits for one."""
    statistics = client._operations.session.limiter.statistics()

    return not ours() and 0 == statistics["in_flight"] == statistics["waiting"]


async def drive(
    scene: Scene, way: Way, client: CohortsClient, emulator: CohortsEmulator, at: Path
) -> int:
    """Cancel a scene's call at each of its awaits; return how many there are."""
    number = 0
    is_over = False

    while not is_over:
        number += 1
        assert number < MOST_AWAITS
        folder = at / f"{number}"
        folder.mkdir()
        # A call that reads the whole store has as many awaits as that has cohorts.
        name = "1" if scene.is_tidy else f"{number}"
        for cohort in (f"c{name}", f"d{name}"):
            emulator.add_cohort(cohort, members=MEMBERS)
        world = World(
            emulator=emulator,
            client=client,
            number=name,
            folder=folder,
            spent_before=emulator.spent,
        )
        if scene.prepare is not None:
            await scene.prepare(world)

        is_over = await way(scene.call(world), number)  # type: ignore[arg-type]

        async with asyncio.timeout(20):
            await until(lambda: is_idle(client))
            hidden = {name for name in names_in(folder) if name.startswith(".")}
            hidden.discard(STORE_OF_THE_DIRECTORY)
            assert scene.is_resumable or not hidden, f"left at await {number}"
            if not is_over:
                await (scene.again or scene.call)(world)
            await until(lambda: is_idle(client))

        least, most = scene.spends
        assert least <= world.spent <= most, f"spent {world.spent} at await {number}"
        if scene.files:
            assert list(scene.files) == names_in(folder)
        if scene.check is not None:
            await scene.check(world)
        if scene.is_tidy:
            for record in await client.jobs():
                await client.forget_job(record)

    assert [] == emulator.violations

    return number - 1


@pytest.mark.forced
@pytest.mark.parametrize("name", SCENES)
async def test_a_call_cancelled_anywhere_is_made_again(
    service: CohortsEmulator, caller: CohortsClient, tmp_path: Path, *, name: str
) -> None:
    """The same call ends well; both together spend, write and leave what one does."""
    threads = threading.active_count()

    awaits = await drive(SCENES[name], by_task, caller, service, tmp_path)

    assert awaits >= SCENES[name].awaits
    assert threading.active_count() < threads + 20
