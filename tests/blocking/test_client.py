"""What a blocking client does, beside what the async one does for it."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import traceback
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async import IdType, MembershipOperation, read_ids
from amplitude_cohorts_async._io import progress
from amplitude_cohorts_async._io.progress_libraries import BarState
from amplitude_cohorts_async.blocking import (
    CohortsClient,
    _portal,
    diff_ids,
    export_cohort,
)
from amplitude_cohorts_async.errors import (
    CohortsError,
    ConfigurationError,
    InvalidInputError,
    NotFoundError,
    PartialWriteError,
)
from amplitude_cohorts_async.events import BytesReceived, Event, ExportRequested
from amplitude_cohorts_async.testing import CohortsEmulator

from .conftest import COHORT

HERE = threading.main_thread


def test_calls_wait_for_their_results(client: CohortsClient) -> None:
    """A value, an attribute of a value, and an error come to the calling thread."""
    assert [COHORT, "9apg8e8f"] == [each.id for each in client.list_cohorts()]
    assert COHORT == client.get_cohort(COHORT).id
    assert 0 == client.get_usage().used

    with pytest.raises(NotFoundError):
        client.get_cohort("another")


def test_a_traceback_has_no_frame_of_the_bridge_in_the_loop(
    client: CohortsClient, tmp_path: Path
) -> None:
    """What was called comes right after the call; its own frames and causes stay."""
    job = client.resume_export("unknown1")

    for call, function in (
        (partial(client.get_cohort, "another"), "get_cohort"),
        (lambda: next(client.export_many(["c1"], tmp_path / "away")), "__anext__"),
        (lambda: job.members().__enter__(), "__aenter__"),
    ):
        with pytest.raises(CohortsError) as caught:
            call()

        frames = traceback.extract_tb(caught.tb)
        bridged = [number for number, frame in enumerate(frames) if is_bridge(frame)]
        called = frames[bridged[-1] + 1]
        assert bridged == [*range(bridged[0], bridged[-1] + 1)]
        assert "run_with" == frames[bridged[-1]].name
        assert function == called.name
        assert len(frames) > bridged[-1] + 2

    assert isinstance(caught.value.__cause__, NotFoundError)
    assert caught.value.__cause__.__traceback__ is not None


def test_a_traceback_has_the_frame_of_the_callers_own_error(
    client: CohortsClient,
) -> None:
    """It is the last, behind those of what called it."""

    def ids() -> Iterator[str]:
        """Yield one, and fail."""
        yield "user-1"
        raise LookupError("mine")

    with pytest.raises(LookupError) as caught:
        client.update_membership(COHORT, add=ids())

    assert "ids" == traceback.extract_tb(caught.tb)[-1].name


def is_bridge(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame is of the blocking client."""
    return Path(frame.filename).parent == Path(_portal.__file__).parent


def test_a_file_is_saved(client: CohortsClient, tmp_path: Path) -> None:
    """`export()` and the steps of a job."""
    saved = client.export(COHORT, tmp_path / "first.csv")
    job = client.request_export(COHORT)

    assert job.wait() is job
    assert job.poll().done
    assert job.download(tmp_path / "second.csv").sha256 == saved.sha256
    assert job.token == client.resume_export(job.token).token
    assert 25_001 == len(saved.path.read_text().splitlines())


def test_members_are_each_read_once(client: CohortsClient) -> None:
    """One by one, in batches, and what a loop has left."""
    job = client.request_export(COHORT)

    with job.members() as members:
        first = [*islice(members, 4), next(members)]
        batches = list(members.batches(7_000))
        found = {member.amplitude_id for part in (first, *batches) for member in part}

        assert [7_000, 7_000, 7_000, 3_995] == [*map(len, batches)]
        assert members.is_exhausted
        assert 25_000 == members.rows
        assert 25_000 == len(found)
        with pytest.raises(InvalidInputError, match="were read already"):
            next(iter(members))

    with job.members() as members:
        assert 25_000 == sum(1 for _ in members)


def test_members_are_read_inside_of_their_block(client: CohortsClient) -> None:
    """Afterwards an error says so, and nothing waits for ever."""
    with client.request_export(COHORT).members() as members:
        next(members)

    members.close()
    with pytest.raises(InvalidInputError, match="after the block"):
        next(members.batches())


def test_a_file_is_opened(client: CohortsClient) -> None:
    """`file()` gives one that this thread reads."""
    with client.request_export(COHORT).file() as file:
        assert 25_001 == len(file.readlines())


def test_record_batches_cross(client: CohortsClient) -> None:
    """Arrow's batches come as an iterator."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

    with client.request_export(COHORT).record_batches() as batches:
        assert 25_000 == sum(batch.num_rows for batch in batches)


def test_a_block_that_fails_is_left_with_its_error(client: CohortsClient) -> None:
    """The export was delivered to nobody then, as with the async client."""
    job = client.request_export(COHORT)
    error = ValueError("no")

    with pytest.raises(ValueError, match="no") as caught, job.file():
        raise error

    assert error is caught.value
    (record,) = client.jobs()
    assert record.is_open


def test_many_exports(client: CohortsClient, tmp_path: Path) -> None:
    """Outcomes come one after another, also to a `with`."""
    ids = (each for each in [COHORT, "9apg8e8f"])
    outcomes = [*client.export_many(ids, tmp_path)]

    with client.export_many(["9apg8e8f"], tmp_path, reuse_within=0) as batch:
        again = [*batch]

    batch.close()
    assert {COHORT, "9apg8e8f"} == {each.cohort_id for each in outcomes}
    assert [1] == [each.spent for each in again]


def test_what_was_left_is_delivered(client: CohortsClient, tmp_path: Path) -> None:
    """`run_jobs()` is an iterator that may be left early."""
    client.export(COHORT, tmp_path / "members.csv")

    assert [] == [*client.run_jobs()]
    client.run_jobs(forever=True).close()  # type: ignore[attr-defined]


def test_plan_and_jobs(client: CohortsClient, tmp_path: Path) -> None:
    """Iterables of values are read before anything is asked."""
    saved = client.export(COHORT, tmp_path / "members.csv")
    plan = client.plan((id_ for id_ in [COHORT]), since=iter([saved]))
    (record,) = client.jobs()

    assert 0 == plan.needed
    client.forget_job(record)
    assert [] == client.jobs()


def test_a_slot_is_held_meanwhile(client: CohortsClient) -> None:
    """`slot()` is left by the thread that has entered it."""
    with client.slot():
        assert 0 == client.get_usage().used


@pytest.mark.parametrize("count", [3, 25_000])
def test_ids_are_read_in_the_calling_thread(client: CohortsClient, count: int) -> None:
    """A generator of the caller's, whose cursor may belong to its thread."""
    threads: set[threading.Thread] = set()

    def ids() -> Iterator[str]:
        """Yield ids, as of a database."""
        for number in range(count):
            threads.add(threading.current_thread())
            yield f"user-{number:07}"

    report = client.upload_cohort(
        "new", ids(), id_type=IdType.USER_ID, app_id=153957, owner="me@example.com"
    )

    assert count == report.total
    assert {HERE()} == threads


@pytest.mark.parametrize("make", [list, set, tuple, iter, dict.fromkeys])
def test_collections_of_ids(
    client: CohortsClient, cohorts_emulator: CohortsEmulator, make: Any
) -> None:
    """Every kind that the async client takes is taken, and a mapping refused."""
    cohorts_emulator.add_cohort("manual", members=["a"], type="manual_upload")
    ids = make(["a", "b"])

    if isinstance(ids, dict):
        with pytest.raises(InvalidInputError, match="a mapping"):
            client.sync_membership("manual", ids, current=["a"])
        ids = ids.keys()

    assert ["b"] == [*client.sync_membership("manual", ids, current=["a"]).add]


def test_operations_and_files_of_ids(
    client: CohortsClient, cohorts_emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """The ids of each operation are read like any others."""
    cohorts_emulator.add_cohort("manual", members=["a"], type="manual_upload")
    path = tmp_path / "ids.txt"
    path.write_text("b\nc\n")
    operations = iter(
        [
            MembershipOperation("ADD", read_ids(path)),
            MembershipOperation("ADD", (id_ for id_ in ["d"])),
            MembershipOperation("REMOVE", ["a"]),
        ]
    )

    report = client.update_membership("manual", operations=operations)

    assert 3 == len(report.operations)
    assert 1 == diff_ids(path, iter(["b"])).kept


def test_what_ids_raise_ends_the_call(client: CohortsClient) -> None:
    """An error of the caller's own iterable comes back to the caller."""

    def ids() -> Iterator[str]:
        """Yield one, then fail."""
        yield "user-1"
        raise KeyError("cursor")

    with pytest.raises(KeyError, match="cursor"):
        client.upload_cohort(
            "new", ids(), id_type=IdType.USER_ID, app_id=153957, owner="me@example.com"
        )


def test_async_arguments_are_refused(client: CohortsClient, tmp_path: Path) -> None:
    """What would have to be awaited is no argument of a blocking client."""

    async def ids() -> Any:
        """Yield nothing."""
        yield "a"

    async def told(_: object) -> None:
        """Do nothing."""

    with pytest.raises(InvalidInputError, match="async iterable"):
        client.sync_membership("manual", ids())
    with pytest.raises(InvalidInputError, match="async function"):
        client.sync_membership("manual", ["a"], on_skipped=told)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="async function"):
        client.export(COHORT, tmp_path / "members.csv", progress=told)  # type: ignore[arg-type]


def test_skipped_ids_are_told_here(
    client: CohortsClient, cohorts_emulator: CohortsEmulator
) -> None:
    """The write waits for the callback, and what that raises ends it."""
    cohorts_emulator.add_cohort("manual", members=["a"], type="manual_upload")
    told: list[object] = []

    client.update_membership(
        "manual",
        add=["b", "unknown-1"],
        on_skipped=lambda ids: told.append((threading.current_thread(), [*ids])),
    )

    assert [(HERE(), ["unknown-1"])] == told
    with pytest.raises(PartialWriteError, match="by zero"):
        client.update_membership(
            "manual", add=["unknown-2"], on_skipped=lambda _: told[1 // 0]
        )


def test_progress_is_told_here(client: CohortsClient, tmp_path: Path) -> None:
    """In the thread of the call, before it returns."""
    told: list[object] = []

    def tell(event: BytesReceived) -> None:
        """Keep what is told."""
        told.append((threading.current_thread(), event.received))

    saved = client.export(COHORT, tmp_path / "members.csv", progress=tell)

    assert (HERE(), saved.downloaded) == told[-1]


def test_what_progress_raises_ends_the_call(
    client: CohortsClient, tmp_path: Path
) -> None:
    """With the token of the export in a note."""
    job = client.request_export(COHORT)

    def tell(_: BytesReceived) -> None:
        """Refuse to go on."""
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough") as caught:
        job.download(tmp_path / "members.csv", progress=tell)

    assert job.token in caught.value.__notes__[0]


def test_events_are_told_here(
    cohorts_emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Each in order, in the thread of a call, also those between two calls."""
    cohorts_emulator.add_cohort(COHORT, size=10)
    heard: list[tuple[object, Event]] = []

    def hear(event: Event) -> None:
        """Keep it; what a hook raises is logged."""
        heard.append((threading.current_thread(), event))
        raise ValueError("a hook")

    with CohortsClient.from_env(clock=cohorts_emulator.clock, hook=hear) as client:
        with client.export_many([COHORT], tmp_path) as batch:
            next(batch)
        client.get_usage()

    assert {HERE()} == {thread for thread, _ in heard}
    assert [ExportRequested] == [
        type(event) for _, event in heard if isinstance(event, ExportRequested)
    ]


def test_context_variables_reach_the_loop(client: CohortsClient) -> None:
    """A span or a request's id that the caller has set is seen by what it calls."""
    variable = ContextVar("variable", default="outside")
    seen: list[str] = []

    async def look() -> None:
        """Look at it in the loop."""
        seen.append(variable.get())

    def call() -> None:
        """Set it, and call."""
        variable.set("inside")
        client._bridge.call().run(look)

    copy_context().run(call)

    assert ["inside"] == seen


def test_threads_share_a_client(client: CohortsClient, tmp_path: Path) -> None:
    """Several call at once, and each has its own result."""
    sizes: dict[int, int] = {}

    def export(number: int) -> None:
        """Export the one cohort to a file of one's own."""
        sizes[number] = client.export(COHORT, tmp_path / f"{number}.csv").size

    threads = [threading.Thread(target=export, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 4 == len(sizes)
    assert 1 == len(set(sizes.values()))
    assert 1 == client.get_usage().used


async def test_works_where_a_loop_runs(
    cohorts_emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """As in a cell of a notebook, whose loop waits meanwhile."""
    cohorts_emulator.add_cohort(COHORT, size=10)
    assert asyncio.get_running_loop().is_running()

    with CohortsClient.from_env(clock=cohorts_emulator.clock) as client:
        saved = client.export(COHORT, tmp_path / "members.csv")
        with client.resume_export(str(saved.token)).members() as members:
            assert 10 == len([*members])


def test_its_own_loop_refuses_a_call(client: CohortsClient) -> None:
    """It would wait for itself."""

    async def call() -> None:
        """Call from the loop's thread."""
        client.get_usage()

    with pytest.raises(ConfigurationError, match="its own event loop"):
        client._bridge.call().run(call)


@pytest.mark.parametrize("make", [CohortsClient, CohortsClient.from_env])
def test_a_session_is_refused(make: Any) -> None:
    """It belongs to another loop; the message says what there is instead."""
    with pytest.raises(ConfigurationError, match="pass proxy="):
        make(api_key="key", secret_key="secret", session=object())


def test_wrong_arguments_are_told_at_once() -> None:
    """By the constructor, as those of the async client are; no thread starts."""
    with pytest.raises(ConfigurationError):
        CohortsClient("", "secret")

    assert _portal._portal is None


async def test_async_with_says_what_to_write() -> None:
    """A forgotten import is named."""
    client = CohortsClient("key", "secret")

    with pytest.raises(TypeError, match="write `with CohortsClient"):
        async with client:
            pass


def test_a_closed_client_refuses(client: CohortsClient) -> None:
    """Closing it twice does no harm."""
    client.close()
    client.close()

    with pytest.raises(ConfigurationError, match="closed"):
        client.get_usage()


def test_a_client_is_not_pickled() -> None:
    """It holds keys; its repr shows none of them."""
    client = CohortsClient("key", "secret")

    assert "<CohortsClient of https://amplitude.com>" == repr(client)
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps(client)


def test_a_dropped_client_is_closed_with_a_warning(
    cohorts_emulator: CohortsEmulator,
) -> None:
    """A cell that is run again drops the client of its first run."""
    client: Any = CohortsClient.from_env(clock=cohorts_emulator.clock)
    client.get_usage()
    inner = client._bridge.client

    with pytest.warns(ResourceWarning, match=r"client\.close\(\)"):
        del client
        gc.collect()

    asked = CohortsClient.from_env(clock=cohorts_emulator.clock)
    with asked:
        asked.get_usage()
    assert inner._is_closed


def test_export_cohort(cohorts_emulator: CohortsEmulator, tmp_path: Path) -> None:
    """The one-liner finds its keys in the environment."""
    cohorts_emulator.add_cohort(COHORT, size=10)

    with pytest.raises(NotFoundError):
        export_cohort("another", tmp_path / "members.csv")


def test_bars_are_drawn_here(
    client: CohortsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the thread of the call, where a notebook's cell is; each is closed."""
    threads: list[threading.Thread] = []
    shown: list[str] = []

    class Lines:
        """Keeps who draws."""

        def __init__(self, state: BarState) -> None:
            self.update(state)

        def update(self, state: BarState) -> None:
            """Keep it."""
            threads.append(threading.current_thread())
            shown.append(state.description)

        def refresh(self) -> None:
            """Keep it."""
            threads.append(threading.current_thread())

        def close(self) -> None:
            """Keep it."""
            shown.append("closed")

    monkeypatch.setattr(progress, "installed_library", lambda: "lines")
    monkeypatch.setattr(progress, "load_renderer", lambda _: Lines)
    client.export(COHORT, tmp_path / "members.csv", progress=True)
    for _ in client.export_many([COHORT, "9apg8e8f"], tmp_path, progress=True):
        pass

    job = client.request_export(COHORT).wait(progress=True)
    with job.members(progress=True) as members:
        assert 25_000 == sum(1 for _ in members)
    assert f"cohort {COHORT}: 25,000 members" == shown[-2]
    with job.file(progress=True):
        pass
    assert [] == [*client.run_jobs(progress=True)]

    assert {HERE()} == {*threads}
    assert 6 == shown.count("closed")
    assert "closed" == shown[-1]
