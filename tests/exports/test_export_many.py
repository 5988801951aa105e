"""Many exports: each outcome as it comes, none spent twice, runs taken up again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, LocalLimiter
from amplitude_cohorts_async._io.sinks import part_file
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    ApiError,
    ConnectionFailedError,
    ExportFailedError,
    ExportTimeoutError,
    InvalidInputError,
    JobStoreUnavailableError,
    NotFoundError,
    TransportError,
)
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.models import ExportOutcome
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas, faults
from amplitude_cohorts_async.testing.faults import Fault
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import until
from support.scripted_store import ScriptedStore

IDS = [f"cohort{number}" for number in range(6)]
NAME = ".amplitude-exports.db"
LONG_AGO = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@pytest.fixture
async def emulator(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """Six cohorts of a service without windows."""
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        quotas=Quotas(windows=()),
    ) as emulator:
        for cohort_id in IDS:
            emulator.add_cohort(
                cohort_id,
                members=[f"member-of-{cohort_id}"],
            )
        yield emulator


@pytest.fixture
async def client(
    emulator: CohortsEmulator, clock: FakeClock
) -> AsyncIterator[CohortsClient]:
    """A client that waits for no window."""
    async with unlimited_client(emulator.base_url, clock) as client:
        yield client


def stranger(emulator: CohortsEmulator, clock: FakeClock) -> CohortsClient:
    """Make a client that knows of no other, as one in another process."""
    return CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        limiter=LocalLimiter(UNLIMITED, clock=clock),
    )


async def collect(batch: AsyncIterator[ExportOutcome]) -> dict[str, ExportOutcome]:
    """Run a batch to its end."""
    return {outcome.cohort_id: outcome async for outcome in batch}


async def test_every_cohort_has_its_file(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Six cohorts are six files and six exports."""
    outcomes = await collect(client.export_many(IDS, tmp_path))

    assert set(IDS) == set(outcomes)
    assert 6 == emulator.spent == sum(each.spent for each in outcomes.values())
    assert "member-of-cohort3" in (tmp_path / "cohort3.csv").read_text()


async def test_one_failure_stops_nobody(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """A job that fails, and a cohort that is not there, are outcomes like others."""
    emulator.fail_next("status", faults.job_failed())

    outcomes = await collect(client.export_many([*IDS, "nobody"], tmp_path))
    errors = [each.error for each in outcomes.values() if each.error is not None]

    assert 7 == len(outcomes)
    assert {ExportFailedError, NotFoundError} == {type(error) for error in errors}
    assert 5 == sum(each.saved is not None for each in outcomes.values())


async def test_no_more_are_under_way_than_allowed(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """The next export is requested when an outcome was taken."""
    async with client.export_many(IDS, tmp_path, max_concurrency=2) as batch:
        first = await anext(batch)

        assert first.saved is not None
        assert 2 == emulator.spent


async def test_a_repeated_id_is_exported_once(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """A cohort has one file."""
    await collect(client.export_many(["cohort0", "cohort0"], tmp_path))

    assert 1 == emulator.spent


async def test_nothing_is_requested_before_the_first_step(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Making the iterator spends nothing."""
    client.export_many(IDS, tmp_path)

    assert 0 == emulator.spent


async def test_a_run_that_was_left_goes_on_without_spending_twice(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """What was saved is not exported again, what was requested is resumed."""
    async with client.export_many(IDS, tmp_path, max_concurrency=3) as batch:
        await anext(batch)
        await anext(batch)

    before = emulator.spent
    outcomes = await collect(client.export_many(IDS, tmp_path))

    assert 3 <= before < 6
    assert 6 == emulator.spent
    assert 6 == sum(each.saved is not None for each in outcomes.values())


async def test_a_run_that_came_to_its_end_is_not_taken_up(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """The next run is a new one and gets the members as they are then."""
    await collect(client.export_many(IDS[:2], tmp_path))
    await collect(client.export_many(IDS[:2], tmp_path))

    assert 4 == emulator.spent


async def test_unchanged_cohorts_cost_one_list_for_all(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """The nightly run spends exports on what changed since the last."""
    await collect(client.export_many(IDS, tmp_path))
    clock.advance(60)
    emulator.add_cohort("cohort1", members=["somebody-new"])

    outcomes = await collect(client.export_many(IDS, tmp_path, skip_unchanged=True))
    spent = {each.cohort_id for each in outcomes.values() if each.spent}

    assert {"cohort1"} == spent
    assert (7, 1) == (emulator.spent, emulator.requests("list"))
    assert "somebody-new" in (tmp_path / "cohort1.csv").read_text()


async def test_a_watcher_may_take_each_file_at_once(
    client: CohortsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a file that was delivered is needed afterwards."""
    (tmp_path / "taken").mkdir()
    real = part_file.sync_folder

    def take(folder: Path) -> None:
        real(folder)
        for path in folder.glob("cohort*.csv"):
            # Another download's thread may have taken it just now.
            with suppress(FileNotFoundError):
                path.rename(tmp_path / "taken" / path.name)

    monkeypatch.setattr(part_file, "sync_folder", take)
    found = await collect(client.export_many(IDS, tmp_path))

    assert [None] * 6 == [outcome.error for outcome in found.values()]
    assert 6 == len([*(tmp_path / "taken").iterdir()])


async def test_an_id_cannot_leave_the_directory(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """A slash in an id does not become a folder."""
    emulator.add_cohort("../c1", members=["ann"])

    (outcome,) = (await collect(client.export_many(["../c1"], tmp_path))).values()

    assert outcome.saved is not None
    assert tmp_path / "..%2Fc1.csv" == outcome.saved.path


@pytest.mark.parametrize(
    "problem", ["directory", "id", "one text", "format", "max concurrency"]
)
async def test_what_cannot_work_is_refused_before_anything_is_spent(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, problem: str
) -> None:
    """Bad input is an error of the call, not an outcome of each cohort."""
    directory = tmp_path / "missing" if problem == "directory" else tmp_path
    ids = [*IDS, ""] if problem == "id" else IDS
    ids = "26umsb5" if problem == "one text" else ids
    format_ = "xlsx" if problem == "format" else "csv"
    max_concurrency = 0 if problem == "max concurrency" else 4

    with pytest.raises(InvalidInputError):
        await collect(
            client.export_many(
                ids, directory, format=format_, max_concurrency=max_concurrency
            )
        )

    assert [] == emulator.log


async def test_an_export_cancelled_while_it_was_requested_is_on_record(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """Another process with the same directory goes on with it."""
    async with stranger(emulator, clock) as client:
        batch = client.export_many(IDS[:1], tmp_path)
        step = asyncio.create_task(anext(batch))
        await until(lambda: bool(emulator.requests("export")))
        step.cancel()
        await batch.aclose()

    async with stranger(emulator, clock) as client:
        await collect(client.export_many(IDS[:1], tmp_path))

    assert 1 == emulator.spent


async def test_an_export_still_running_at_the_end_of_a_run_is_not_spent_again(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """What was paid for and not saved is taken up by the next run."""
    emulator.add_cohort("slow", members=["ann"], job_seconds=100)

    async with stranger(emulator, clock) as client:
        first = await collect(client.export_many(["slow"], tmp_path, timeout=11))

    async with stranger(emulator, clock) as client:
        second = await collect(client.export_many(["slow"], tmp_path))

    assert isinstance(first["slow"].error, ExportTimeoutError)
    assert second["slow"].saved is not None
    assert 1 == emulator.spent


async def test_an_export_that_failed_is_requested_anew_by_the_next_run(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """A job that the service gave up is not asked for again and again."""
    emulator.fail_next("status", faults.job_failed())

    await collect(client.export_many(IDS[:1], tmp_path))
    outcomes = await collect(client.export_many(IDS[:1], tmp_path))

    assert outcomes["cohort0"].saved is not None
    assert 2 == emulator.spent


async def test_a_store_that_cannot_be_kept_is_told_before_anything_is_spent(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Without a store a run that dies would spend twice."""
    (tmp_path / NAME).mkdir()

    with pytest.raises(JobStoreUnavailableError, match="no export was spent"):
        await collect(client.export_many(IDS, tmp_path))

    assert [] == emulator.log


@pytest.fixture
def store() -> ScriptedStore:
    """A store that a test breaks."""
    return ScriptedStore()


@pytest.fixture
async def recorded(
    emulator: CohortsEmulator, clock: FakeClock, store: ScriptedStore
) -> AsyncIterator[CohortsClient]:
    """A client of that store."""
    async with unlimited_client(
        emulator.base_url,
        clock,
        jobs=store,
    ) as client:
        yield client


async def test_what_cannot_be_recorded_is_not_requested(
    recorded: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    store: ScriptedStore,
) -> None:
    """A disk that fills up costs no export, and the outcomes say so."""
    store.refuses = {"attempted"}

    outcomes = await collect(recorded.export_many(IDS, tmp_path))
    errors = {type(each.error) for each in outcomes.values()}

    assert 0 == emulator.spent == emulator.requests("export")
    assert {JobStoreUnavailableError} == errors


async def test_an_export_goes_on_when_its_token_cannot_be_recorded(
    recorded: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    store: ScriptedStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was spent is downloaded, and the log has the token."""
    store.refuses = {"requested", "ready"}

    outcome = (await collect(recorded.export_many(IDS[:1], tmp_path)))["cohort0"]

    assert outcome.saved is not None
    assert outcome.saved.token in caplog.text
    assert (1, 1) == (outcome.spent, emulator.spent)


async def test_a_lost_answer_is_told_by_the_next_run(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """The request was recorded before it was sent; its cohort is told, no other."""
    emulator.fail_next("export", faults.lost_answer())

    first = await collect(client.export_many(IDS[:1], tmp_path))
    second = await collect(client.export_many(IDS[:2], tmp_path))

    assert isinstance(first["cohort0"].error, TransportError)
    assert isinstance(second["cohort0"].error, AmbiguousExportError)
    assert second["cohort1"].saved is not None
    assert 2 == emulator.spent


async def test_a_lost_answer_is_spent_again_when_the_caller_says_so(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller says so; afterwards it is in doubt no more."""
    emulator.fail_next("export", faults.lost_answer())
    await collect(client.export_many(IDS[:1], tmp_path))

    spent = await collect(client.export_many(IDS[:1], tmp_path, on_unknown="spend"))
    after = await collect(client.export_many(IDS[:1], tmp_path))
    warnings = [text for text in caplog.messages if "may have been spent" in text]

    assert spent["cohort0"].saved is not None is not after["cohort0"].saved
    assert 1 == len(warnings)
    assert "cohort0" in warnings[0]


@pytest.mark.parametrize(
    "fault", [faults.throttled(), faults.refused(400, "no"), faults.broken(503)]
)
async def test_a_request_that_was_refused_leaves_no_attempt_open(
    recorded: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    store: ScriptedStore,
    fault: Fault,
) -> None:
    """What surely spent nothing is not warned of."""
    emulator.fail_next("export", fault, times=None)

    outcomes = await collect(recorded.export_many(IDS[:1], tmp_path))

    assert isinstance(outcomes["cohort0"].error, ApiError)
    assert {} == store.of_cohort("cohort0").exports


async def test_a_request_that_was_never_sent_leaves_no_attempt_open(
    recorded: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    store: ScriptedStore,
) -> None:
    """A service that cannot be reached has spent nothing."""
    await emulator.__aexit__(None, None, None)
    outcomes = await collect(recorded.export_many(IDS[:1], tmp_path))

    assert isinstance(outcomes["cohort0"].error, ConnectionFailedError)
    assert {} == store.of_cohort("cohort0").exports


async def test_a_run_that_ends_forgets_nothing_of_another(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """Two processes may write into one directory."""
    emulator.add_cohort("slow", members=["ann"], job_seconds=100)

    async with stranger(emulator, clock) as one, stranger(emulator, clock) as other:
        ending = one.export_many(IDS[:1], tmp_path)
        await anext(ending)
        await collect(other.export_many(["slow"], tmp_path, timeout=11))
        await collect(ending)

    async with stranger(emulator, clock) as client:
        await collect(client.export_many(["slow"], tmp_path))

    assert 2 == emulator.spent
