"""What was spent is listed, put aside, forgotten, and delivered by whoever comes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._core.tokens import ExportRef
from amplitude_cohorts_async._exports.app_jobs import AppJobs
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    ExportTimeoutError,
    InvalidInputError,
    ServerError,
    TransportError,
)
from amplitude_cohorts_async.jobs import MemoryJobStore, SqliteJobStore
from amplitude_cohorts_async.models import ExportOutcome
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY


@pytest.fixture(autouse=True)
def cohort(emulator: CohortsEmulator) -> None:
    """A cohort whose jobs take long enough to leave them."""
    emulator.add_cohort("c1", members=["ann", "bob"], job_seconds=100)


@pytest.fixture
async def client(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> AsyncIterator[CohortsClient]:
    """A client whose store is a file."""
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        jobs=tmp_path / "exports.db",
    ) as client:
        yield client


async def leave(client: CohortsClient, to: Path) -> None:
    """Request an export, and give up waiting for it."""
    with pytest.raises(ExportTimeoutError):
        await client.export("c1", to, timeout=11)


async def ran(client: CohortsClient) -> list[ExportOutcome]:
    """What a runner makes of what is left."""
    return [outcome async for outcome in client.run_jobs()]


async def test_what_an_outage_stops_is_tried_again(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """By a runner that goes on for ever, which tells of it each time."""
    await leave(client, tmp_path / "members.csv")
    emulator.fail_next("status", faults.broken(503), times=20)

    async with aclosing(client.run_jobs(forever=True)) as outcomes:
        async for outcome in outcomes:
            if outcome.saved is not None:
                break
            assert isinstance(outcome.error, TransportError | ServerError)

    assert "ann" in (tmp_path / "members.csv").read_text()
    assert 1 == emulator.spent


async def test_a_folder_that_comes_back(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """A runner that goes on for ever tells that it is away, once, and goes on then."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    await leave(client, folder / "members.csv")
    folder.rename(tmp_path / "away")
    errors: list[object] = []

    async with aclosing(client.run_jobs(forever=True)) as outcomes:
        async for outcome in outcomes:
            if outcome.saved is not None:
                break
            errors.append(outcome.error)
            (tmp_path / "away").rename(folder)

    assert [InvalidInputError] == [type(error) for error in errors]
    assert "ann" in (folder / "members.csv").read_text()
    assert 1 == emulator.spent


async def test_what_was_left_is_listed(client: CohortsClient, tmp_path: Path) -> None:
    """With its id, its state, and where it goes."""
    await leave(client, tmp_path / "a.csv")

    (record,) = await client.jobs()

    assert ("c1", "requested", True) == (
        record.cohort_id,
        record.state,
        record.is_open,
    )
    assert record.token is not None
    assert record.deliveries[0].target is not None
    assert record.deliveries[0].target.endswith(f":{tmp_path / 'a.csv'}")


async def test_what_was_delivered_is_not_open(
    client: CohortsClient, tmp_path: Path
) -> None:
    """It is listed among all others, with its size."""
    saved = await client.export("c1", tmp_path / "a.csv")

    (record,) = await client.jobs()

    assert [] == await client.jobs(open_only=True)
    assert "ready" == record.state
    assert saved.size == record.deliveries[0].size
    assert record.deliveries[0].answered_at is not None


async def test_a_runner_delivers_what_was_left(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """And spends nothing."""
    await leave(client, tmp_path / "a.csv")

    (outcome,) = await ran(client)

    assert outcome.saved is not None
    assert "ann" in (tmp_path / "a.csv").read_text()
    assert 1 == emulator.spent
    assert [] == await ran(client)


async def test_another_process_delivers_what_was_left(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """The store outlives the client."""
    await leave(client, tmp_path / "a.csv")
    await client.aclose()

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        jobs=SqliteJobStore(tmp_path / "exports.db"),
    ) as other:
        (outcome,) = await ran(other)

    assert outcome.saved is not None
    assert 1 == emulator.spent


async def test_two_runners_share_the_work(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Each file is written by one of them."""
    await leave(client, tmp_path / "a.csv")

    both = await asyncio.gather(ran(client), ran(client))

    assert 1 == sum(map(len, both))
    assert 1 == emulator.spent


async def test_a_parked_export_is_left_alone(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Neither a runner nor the same call takes it up; its token does."""
    await leave(client, tmp_path / "a.csv")
    (record,) = await client.jobs()

    parked = await client.park_job(record)

    assert ("parked", False) == (parked.state, parked.is_open)
    assert [] == await ran(client)
    await client.export("c1", tmp_path / "a.csv")
    assert 2 == emulator.spent
    await client.resume_export(str(parked.token)).download(tmp_path / "b.csv")
    assert 2 == emulator.spent


async def test_a_job_is_one_of_the_list(client: CohortsClient) -> None:
    """Its id or its token is not."""
    for change in (client.park_job, client.forget_job):
        with pytest.raises(InvalidInputError, match=r"not a str$"):
            await change("R1")  # type: ignore[arg-type]


async def test_what_is_not_spent_cannot_be_parked(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Nor what is not in the store."""
    emulator.fail_next("export", faults.lost_answer())

    with pytest.raises(TransportError):
        await client.export("c1", tmp_path / "a.csv")

    (record,) = await client.jobs()

    with pytest.raises(InvalidInputError, match="attempted"):
        await client.park_job(record)
    await client.forget_job(record)
    with pytest.raises(InvalidInputError, match="not in the job store"):
        await client.park_job(record)


async def test_an_attempt_without_an_answer_is_told_until_it_is_forgotten(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """By the same call and by a runner; nothing more is spent."""
    emulator.fail_next("export", faults.lost_answer())
    with pytest.raises(TransportError):
        await client.export("c1", tmp_path / "a.csv")

    with pytest.raises(AmbiguousExportError, match="may have been spent"):
        await client.export("c1", tmp_path / "a.csv")
    (told,) = await ran(client)
    assert isinstance(told.error, AmbiguousExportError)
    assert 1 == emulator.spent

    (record,) = await client.jobs(open_only=True)
    await client.forget_job(record)
    await client.export("c1", tmp_path / "a.csv")

    assert 2 == emulator.spent


@pytest.mark.posix
@pytest.mark.parametrize("name", ["a.csv", "link/a.csv", "sub/../a.csv"])
async def test_a_newer_export_of_a_target_stays(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, name: str
) -> None:
    """A runner never writes an older export over a newer one, whatever its name was."""
    (tmp_path / "link").symlink_to(".")
    (tmp_path / "sub").mkdir()
    await leave(client, tmp_path / name)
    emulator.add_cohort("c1", members=["eve"])
    await client.export("c1", tmp_path / "a.csv")

    assert [] == await ran(client)
    assert "eve" in (tmp_path / "a.csv").read_text()
    assert 2 == emulator.spent


@pytest.mark.posix
async def test_a_file_is_known_by_another_name(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Through a link to its folder it is the same file, and is not fetched again."""
    (tmp_path / "link").symlink_to(".")
    await client.export("c1", tmp_path / "link" / "a.csv")

    saved = await client.export("c1", tmp_path / "a.csv", skip_unchanged=True)

    assert saved.unchanged
    assert tmp_path / "a.csv" == saved.path
    assert 1 == emulator.requests("file")


async def test_a_long_download_is_seen_to_move(clock: FakeClock) -> None:
    """Once a second the record says how many bytes have come."""
    jobs = AppJobs(MemoryJobStore(), "app", clock)
    ref = ExportRef(request_id="r1", cohort_id="c1", requested_at=clock.utcnow())
    delivery = await jobs.deliver(ref, "here:/a.csv", "csv")
    seen: list[int | None] = []

    for count in range(0, 60, 10):
        delivery.received(count)
        (known,) = await jobs.records()
        seen.append(known.record.deliveries[0].received)
        clock.advance(0.5)

    assert [None, None, 20, 20, 40, 40] == seen


async def test_who_names_an_export_takes_over_what_was_left(
    client: CohortsClient, tmp_path: Path
) -> None:
    """The file at its target is one delivery, and nothing is open then."""
    await leave(client, tmp_path / "a.csv")
    (record,) = await client.jobs()

    await client.resume_export(str(record.token)).download(tmp_path / "a.csv")

    assert [] == await client.jobs(open_only=True)


@pytest.mark.parametrize("format", ["csv", "csv.gz"])
async def test_a_file_without_a_name_is_delivered_when_its_block_ends(
    client: CohortsClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    emulator: CohortsEmulator,
    format: str,  # noqa: A002
) -> None:
    """Nobody else's folder holds it; an error in the block leaves it to the next."""
    folder = tmp_path / "temporary"
    await asyncio.to_thread(folder.mkdir)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    job = await client.request_export("c1", join=True)
    with pytest.raises(ZeroDivisionError):
        async with job.file(format=format):
            raise ZeroDivisionError
    is_open = [each.is_open for each in await client.jobs()]
    job = await client.request_export("c1", join=True)
    async with job.file(format=format) as file:
        names = await asyncio.to_thread(lambda: list(folder.iterdir()))
        data = await asyncio.to_thread(file.read)
    saved = await job.download(tmp_path / f"a.{format}")

    assert ([True], [], 1) == (is_open, names, emulator.spent)
    assert data == await asyncio.to_thread(saved.path.read_bytes)
    assert [] == await client.jobs(open_only=True)
