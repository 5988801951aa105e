"""Exports that were spent and whose caller left before the file was delivered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import (
    CohortsError,
    ConnectionFailedError,
    ExportFailedError,
    ExportTimeoutError,
    JobStoreUnavailableError,
    StorageError,
)
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import (
    ACCEPTED,
    COHORT,
    COMPLETED,
    CSV,
    EXPORT,
    OBJECT,
    RUNNING,
    STATUS,
    until,
    whole,
)
from support.fault_server import DROP, FaultServer, Reply, reply
from support.scripted_store import ScriptedStore
from support.stepping import Stepped

HANG = Reply(raw=whole().raw[:9_000], then="hang")


@pytest.fixture(autouse=True)
def cohort(emulator: CohortsEmulator) -> None:
    """A cohort whose jobs take long enough to leave them."""
    emulator.add_cohort("c1", members=["ann", "bob"], job_seconds=100)


async def leave(client: CohortsClient, path: Path) -> ExportTimeoutError:
    """Request an export and give up waiting for it."""
    with pytest.raises(ExportTimeoutError) as caught:
        await client.export("c1", path, timeout=11)

    return caught.value


@pytest.fixture
async def patient(
    server: FaultServer, clock: FakeClock
) -> AsyncIterator[CohortsClient]:
    """A client of the scripted server that waits long for each byte."""
    async with unlimited_client(server.url, clock) as client:
        yield client


@pytest.mark.slow
async def test_the_next_call_takes_up_what_a_cancelled_one_spent(
    server: FaultServer, patient: CohortsClient, tmp_path: Path
) -> None:
    """Wherever a call is cancelled, the call after it spends no second export."""
    target = tmp_path / "c1.csv"
    at = 0
    steps: list[int] = []

    async def export() -> None:
        this = asyncio.current_task()
        assert this is not None
        call = Stepped(patient.export(COHORT, target), at=at, act=this.cancel)
        await call
        steps.append(call.steps)

    while not steps or steps[-1] >= at:
        at += 1
        server.seen.clear()
        server.on(STATUS, RUNNING, COMPLETED)
        task = asyncio.ensure_future(export())
        await asyncio.wait([task])

        if task.cancelled():
            spent = len(server.requests(EXPORT))
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert spent == len(getattr(caught.value, "__notes__", ()))
            await patient.export(COHORT, target)

        assert 1 == len(server.requests(EXPORT))
        assert CSV == target.read_bytes()

    assert at > 10


async def test_a_cancellation_carries_the_token(
    emulator: CohortsEmulator,
    client: CohortsClient,
    clock: FakeClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The token stands in a note of the error and in the log, and is good."""
    caplog.set_level(logging.INFO)
    emulator.fail_next("file", faults.hang())
    task = asyncio.create_task(client.export("c1", tmp_path / "c1.csv"))
    await until(lambda: emulator.requests("file") == 1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    (note,) = caught.value.__notes__
    token = note[note.index("{") :]
    assert (1, "c1") == (emulator.spent, client.resume_export(token).cohort_id)
    assert [token in message for message in caplog.messages].count(True) == 1
    assert (await client.resume_export(token).download(tmp_path / "a.csv")).rows == 2
    assert 1 == emulator.spent


@pytest.mark.parametrize("way", ["timeout", "wait_for"])
async def test_a_time_out_of_the_callers_own_carries_the_token(
    server: FaultServer, patient: CohortsClient, tmp_path: Path, way: str
) -> None:
    """It hangs on the cancellation that the time-out was made of."""
    server.on(OBJECT, HANG)
    export = patient.export(COHORT, tmp_path / "c1.csv")

    with pytest.raises(TimeoutError) as caught:
        if way == "wait_for":
            # Long enough for the export to be requested on a busy machine.
            await asyncio.wait_for(export, 5.0)
        else:
            async with asyncio.timeout(5.0):
                await export

    cause = caught.value.__cause__ or caught.value.__context__
    assert isinstance(cause, asyncio.CancelledError)
    assert "Sf7M9j" in cause.__notes__[0]


async def test_an_export_whose_job_is_done_is_taken_up(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock, tmp_path: Path
) -> None:
    """What was left while it ran may have ended since; its file was paid for."""
    left = await leave(client, tmp_path / "c1.csv")
    clock.advance(600)

    saved = await client.export("c1", tmp_path / "c1.csv")

    assert (1, left.token) == (emulator.spent, saved.token)


async def test_another_client_takes_it_up(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock, tmp_path: Path
) -> None:
    """The app is what counts, not the client."""
    left = await leave(client, tmp_path / "c1.csv")
    clock.advance(600)

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock
    ) as other:
        saved = await other.export("c1", tmp_path / "c1.csv")

    assert (1, left.token) == (emulator.spent, saved.token)


async def test_after_an_hour_it_is_too_old(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock, tmp_path: Path
) -> None:
    """Who asks for members wants those of today; the token still has the old ones."""
    await leave(client, tmp_path / "c1.csv")
    clock.advance(3_600)

    await client.export("c1", tmp_path / "c1.csv")

    assert 2 == emulator.spent


async def test_a_job_that_failed_meanwhile_is_not_taken_up(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock, tmp_path: Path
) -> None:
    """It will never have a file, so a new export is requested."""
    left = await leave(client, tmp_path / "c1.csv")
    emulator.fail_next("status", faults.job_failed())
    with pytest.raises(ExportFailedError):
        await client.resume_export(left.token or "").wait()

    await client.export("c1", tmp_path / "c1.csv")

    assert 2 == emulator.spent


@pytest.mark.posix
async def test_a_disk_that_refused_leaves_the_export_to_the_next_call(
    server: FaultServer, patient: CohortsClient, tmp_path: Path
) -> None:
    """A file that could not be written was not delivered."""
    import resource  # noqa: PLC0415  not on every system
    import signal  # noqa: PLC0415

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))

    try:
        with pytest.raises(StorageError) as caught:
            await patient.export(COHORT, tmp_path / "c1.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    saved = await patient.export(COHORT, tmp_path / "c1.csv")
    assert 1 == len(server.requests(EXPORT))
    assert caught.value.token == saved.token


async def test_a_target_that_is_lost_while_the_job_runs_keeps_the_token(
    server: FaultServer, patient: CohortsClient, tmp_path: Path
) -> None:
    """A folder that was there when the export was requested may be gone by now."""
    server.on(STATUS, RUNNING, COMPLETED)
    folder = tmp_path / "folder"
    folder.mkdir()
    task = asyncio.create_task(patient.export(COHORT, folder / "c1.csv"))
    await until(lambda: bool(server.requests(EXPORT)))
    folder.rmdir()

    with pytest.raises(CohortsError) as caught:
        await task

    saved = await patient.export(COHORT, tmp_path / "c1.csv")
    assert 1 == len(server.requests(EXPORT))
    assert caught.value.token == saved.token


async def test_each_of_two_who_joined_gets_a_file(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """The one who is served first does not take the export from the other."""
    first, second = await asyncio.gather(
        client.export("c1", tmp_path / "a.csv"),
        client.export("c1", tmp_path / "b.csv"),
    )

    assert 1 == emulator.spent
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.parametrize("way", ["download", "members", "batches", "record_batches"])
async def test_what_was_delivered_is_not_handed_to_a_later_call(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path, way: str
) -> None:
    """A job of one's own that was read to its end is over for everybody."""
    if way == "record_batches":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

    job = await client.request_export("c1")

    if way == "download":
        await job.download(tmp_path / "a.csv")
    elif way == "record_batches":
        async with job.record_batches() as batches:
            assert 2 == sum([batch.num_rows async for batch in batches])
    else:
        async with job.members() as stream:
            if way == "members":
                assert 2 == len([member async for member in stream])
            else:
                assert [2] == [len(batch) async for batch in stream.batches()]

    await client.export("c1", tmp_path / "c1.csv")

    assert 2 == emulator.spent


@pytest.mark.parametrize("join", [False, True])
async def test_a_job_that_was_downloaded_is_not_handed_to_a_stream(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path, join: bool
) -> None:
    """The job was requested for a file: no stream of it was left."""
    job = await client.request_export("c1", join=join)
    await job.download(tmp_path / "a.csv")

    await client.request_export("c1", join=True)

    assert 2 == emulator.spent


async def test_what_a_sync_read_is_not_handed_to_a_later_call(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """A sync reads the members to their end."""
    await client.sync_membership("c1", ["ann", "bob"], dry_run=True)
    await client.export("c1", tmp_path / "c1.csv")

    assert 2 == emulator.spent


async def test_a_stream_that_was_left_is_taken_up(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """Members that were not read to the end were not delivered."""
    job = await client.request_export("c1")

    async with job.members():
        pass

    saved = await client.export("c1", tmp_path / "c1.csv")

    assert (1, job.token) == (emulator.spent, saved.token)


@pytest.mark.parametrize("way", ["members", "batches", "record_batches"])
async def test_a_stream_that_failed_half_way_is_taken_up(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path, way: str
) -> None:
    """The text of a small file is read ahead of what the loop has in hand."""
    if way == "record_batches":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

    job = await client.request_export("c1")

    with pytest.raises(LookupError):
        if way == "record_batches":
            async with job.record_batches() as batches:
                async for _ in batches:
                    raise LookupError
        else:
            async with job.members() as stream:
                async for _ in stream if way == "members" else stream.batches(1):
                    raise LookupError

    saved = await client.export("c1", tmp_path / "c1.csv")

    assert (1, job.token) == (emulator.spent, saved.token)


@pytest.fixture
def store(server: FaultServer) -> ScriptedStore:
    """A store that counts the requests sent before each change."""
    return ScriptedStore(listen=lambda: len(server.requests(EXPORT)))


@pytest.fixture
async def recorded(
    server: FaultServer, clock: FakeClock, store: ScriptedStore
) -> AsyncIterator[CohortsClient]:
    """A client of the scripted server, and of that store."""
    async with unlimited_client(
        server.url,
        clock,
        jobs=store,
    ) as client:
        yield client


async def test_each_request_is_recorded_before_and_after(
    server: FaultServer, recorded: CohortsClient, store: ScriptedStore
) -> None:
    """A refusal sets the attempt back, and the export's id ends it."""
    server.on(EXPORT, reply(429, retry_after="1"), DROP, ACCEPTED)

    with pytest.raises(ConnectionFailedError):
        await recorded.request_export(COHORT)

    assert [
        ("queued", 0),
        ("attempted", 0),
        ("queued", 1),
        ("attempted", 1),
    ] == store.heard

    await recorded.request_export(COHORT)
    assert [("queued", 2), ("attempted", 2), ("requested", 3)] == store.heard[4:]


async def test_what_cannot_be_recorded_is_not_sent(
    server: FaultServer, recorded: CohortsClient, store: ScriptedStore
) -> None:
    """An attempt that is not stored would be forgotten by a crash."""
    store.refuses = {"attempted"}

    with pytest.raises(JobStoreUnavailableError):
        await recorded.request_export(COHORT)

    assert [("queued", 0)] == store.heard
    assert [] == server.seen


async def test_a_call_that_leaves_while_it_is_recorded_sends_nothing(
    server: FaultServer, recorded: CohortsClient, store: ScriptedStore
) -> None:
    """The attempt may be stored by then, so it is forgotten."""
    may_answer = store.answers["attempted"] = asyncio.Event()
    task = asyncio.ensure_future(recorded.request_export(COHORT))
    await until(lambda: "attempted" in store.reached)
    task.cancel()
    await asyncio.sleep(0)
    may_answer.set()
    await asyncio.wait([task])

    assert task.cancelled()
    assert {} == store.of_cohort(COHORT).exports
    assert [] == server.seen


async def test_a_slow_record_outlasts_the_grace_period(
    server: FaultServer,
    recorded: CohortsClient,
    store: ScriptedStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The grace period is the request's: what the answer told is recorded anyway."""
    monkeypatch.setattr("amplitude_cohorts_async._exports.purchase.GRACE", 0.0)
    may_answer = store.answers["requested"] = asyncio.Event()
    task = asyncio.ensure_future(recorded.request_export(COHORT))
    await until(lambda: "requested" in store.reached)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    may_answer.set()

    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    again = await recorded.export(COHORT, tmp_path / "c1.csv")

    assert [again.token] == [note[-len(again.token) :] for note in notes(caught)]
    assert 1 == len(server.requests(EXPORT))


def notes(caught: pytest.ExceptionInfo[asyncio.CancelledError]) -> list[str]:
    """Return the notes of a cancellation."""
    return list(getattr(caught.value, "__notes__", ()))


async def test_an_error_of_another_job_is_none_of_this_one(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """What fails while members are read may be something else."""
    job = await client.request_export("c1")
    other = ExportFailedError("another job failed", request_id="other")

    with pytest.raises(ExportFailedError) as caught:
        async with job.members():
            raise other

    saved = await client.export("c1", tmp_path / "c1.csv")
    assert caught.value.token is None
    assert (1, job.token) == (emulator.spent, saved.token)
