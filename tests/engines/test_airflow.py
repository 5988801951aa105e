"""Tasks of Airflow: what a try, a wait and a retry do, without its processes."""

# ruff: noqa: E402 - the engine may be missing

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.requirements import require

require("airflow")

from support.engines import airflow_home  # isort: skip  # noqa: F401 - before Airflow

import jsonschema
from airflow.sdk.exceptions import (
    AirflowFailException,
    TaskDeferralTimeout,
    TaskDeferred,
)
from airflow.serialization.serialized_objects import DagSerialization

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.airflow import (
    AmplitudeCohortsHook,
    CohortComputedSensor,
    CohortComputedTrigger,
    CohortExportOperator,
    CohortExportTrigger,
    CohortSyncOperator,
    CohortUploadOperator,
    occurrence_of,
)
from amplitude_cohorts_async.policies import Polling, Retrying
from amplitude_cohorts_async.testing import CohortsEmulator, Quotas, faults
from support.canary import API_KEY, SECRET_KEY
from support.engines.airflow_task import Task, event_of

if TYPE_CHECKING:
    from support.buckets import Bucket

pytestmark = pytest.mark.filterwarnings("default:::airflow")

CONNECTION = "AIRFLOW_CONN_AMPLITUDE_COHORTS_DEFAULT"


@pytest.fixture
def world(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> CohortsEmulator:
    """Two cohorts, and a connection that names all of it; clients poll often."""
    for name in cohorts_emulator.environment():
        monkeypatch.delenv(name)
    connect(
        monkeypatch, cohorts_emulator, limiter_url=f"sqlite:///{tmp_path}/limits.db"
    )
    often = Polling(initial_delay=0.05, interval=0.05, jitter=0.0)
    monkeypatch.setitem(CohortsClient.__init__.__kwdefaults__, "polling", often)
    cohorts_emulator.add_cohort("c1", members=["ann", "bob"], job_seconds=0.2)
    cohorts_emulator.add_cohort("c2", members=["cat"], job_seconds=0.2)

    return cohorts_emulator


def connect(
    monkeypatch: pytest.MonkeyPatch,
    emulator: CohortsEmulator,
    *,
    secret_key: str = SECRET_KEY,
    **extra: str,
) -> None:
    """Give Airflow a connection to the emulator."""
    connection = {
        "conn_type": "amplitude_cohorts",
        "login": API_KEY,
        "password": secret_key,
        "host": emulator.base_url,
        "extra": json.dumps(extra),
    }
    monkeypatch.setenv(CONNECTION, json.dumps(connection))


def export(tmp_path: Path, **options: Any) -> CohortExportOperator:
    """Return an operator, as each try has its own."""
    options = {"cohort_id": "c1", "path": f"{tmp_path}/c1.csv", **options}
    return CohortExportOperator(task_id="export", **options)


def spend(folder: Path, count: int) -> None:
    """Request exports beside Airflow, with the same limits."""

    async def request() -> None:
        hook = AmplitudeCohortsHook()
        async with await hook.aclient() as client:
            for _ in range(count):
                await client.request_export("c2")

    asyncio.run(request())


def seconds_left(wait: object) -> float:
    """Return in how many seconds a deferred task is to go on."""
    assert isinstance(wait, TaskDeferred)
    assert isinstance(wait.trigger, CohortExportTrigger)
    due_at = datetime.fromisoformat(wait.trigger.due_at)

    return (due_at - datetime.now(UTC)).total_seconds()


def test_the_test_of_a_connection_reads_the_usage(world: CohortsEmulator) -> None:
    """It spends nothing."""
    assert AmplitudeCohortsHook().test_connection() == (
        True,
        "0 of 500 exports are spent this month",
    )


def test_the_test_of_a_connection_of_an_unlimited_plan(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says so in words."""
    with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, quotas=Quotas(month=None, used=7)
    ) as emulator:
        connect(monkeypatch, emulator, limiter_url=f"sqlite:///{tmp_path}/limits.db")

        assert AmplitudeCohortsHook().test_connection() == (
            True,
            "7 exports are spent this month, and the plan has no limit",
        )


def test_a_connection_with_a_wrong_key(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its test says so, and shows no key."""
    connect(monkeypatch, world, secret_key="wrong")

    works, said = AmplitudeCohortsHook().test_connection()

    assert not works
    assert "wrong" not in said.replace("wrong key", "")
    assert API_KEY not in said


@pytest.mark.parametrize("extra", ["no json: hunter2", '["hunter2"]'])
def test_an_extra_that_is_no_object(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    """It may hold a password, so the message does not show it."""
    connection = {"conn_type": "amplitude_cohorts", "login": "a", "password": "b"}
    monkeypatch.setenv(CONNECTION, json.dumps({**connection, "extra": extra}))

    works, said = AmplitudeCohortsHook().test_connection()

    assert not works
    assert "no JSON object" in said
    assert "hunter2" not in said


def test_an_extra_that_nobody_knows(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word that is misspelt would be left out otherwise."""
    connect(monkeypatch, world, limiter="sqlite:///limits.db")

    assert "limiter_url" in AmplitudeCohortsHook().test_connection()[1]


def test_an_export_needs_a_store_that_outlives_the_task(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told before the first byte."""
    connect(monkeypatch, world)

    with pytest.raises(AirflowFailException, match="limiter_url"):
        Task().run(export(tmp_path))

    assert [] == world.log


@pytest.mark.parametrize("mistake", [{"path": "c1.csv"}, {"properties": "plan"}])
def test_a_mistake_is_told_at_once(
    world: CohortsEmulator, tmp_path: Path, mistake: dict[str, Any]
) -> None:
    """No try of the task could mend it."""
    with pytest.raises(AirflowFailException):
        Task().run(export(tmp_path, **mistake))

    assert [] == world.log


def test_an_export_is_spent_deferred_and_brought(
    world: CohortsEmulator, tmp_path: Path
) -> None:
    """Its token is in Airflow's state before it waits, and the result is small."""
    task = Task()
    wait = task.begin(export(tmp_path))

    assert isinstance(wait, TaskDeferred)
    assert wait.timeout
    assert 1 == world.spent
    (kept,) = task.state.values()
    assert isinstance(kept, dict)
    assert wait.trigger.token == kept["token"]

    result = task.go_on(export(tmp_path), wait, event_of(wait.trigger))

    assert isinstance(result, dict)
    assert 2 == result["rows"]
    assert str(tmp_path / "c1.csv") == result["path"]
    assert json.loads(json.dumps(result)) == result
    assert 1 == world.spent


@pytest.mark.services
def test_an_export_to_a_bucket(world: CohortsEmulator, bucket: Bucket) -> None:
    """It is brought where every worker may read it, once."""
    address = bucket.address("c1.csv")

    result = Task().run(export(Path("/"), path=address))

    assert (address, 2) == (result["path"], result["rows"])
    assert b"ann" in (bucket.read("c1.csv") or b"")
    assert [] == bucket.open_uploads()
    assert 1 == world.spent


@pytest.mark.services
def test_a_newer_object_after_the_job_store_was_lost(
    world: CohortsEmulator,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It is not replaced, as a file is not."""
    task, there = Task(), export(tmp_path, path=bucket.address("c1.csv"))
    task.run(there)
    bucket.write("c1.csv", b"of the next run")
    connect(monkeypatch, world, jobs=f"{tmp_path}/other.db")

    with pytest.raises(AirflowFailException, match="move the file"):
        task.run(export(tmp_path, path=bucket.address("c1.csv")))

    assert b"of the next run" == bucket.read("c1.csv")
    assert 1 == world.spent


def test_a_signed_address_fails_at_once(world: CohortsEmulator) -> None:
    """A mistake of the DAG is told before anything is spent."""
    with pytest.raises(AirflowFailException, match="query or credentials"):
        Task().run(export(Path("/"), path="s3://bucket/c1.csv?X-Amz-Signature=5ec2e7"))

    assert 0 == world.spent


def test_a_full_window_defers(world: CohortsEmulator, tmp_path: Path) -> None:
    """No worker waits, nothing is sent, and the task goes on when there is room."""
    spend(tmp_path, 4)
    task = Task()

    wait = task.begin(export(tmp_path))

    assert 10 < seconds_left(wait) < 90
    assert isinstance(wait, TaskDeferred)
    assert wait.trigger.token is None
    assert wait.timeout is None
    assert 4 == world.spent
    assert {} == task.state


def test_no_wait_is_shorter_than_airflow_bears(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It takes a task for lost that runs again before its first process has ended."""
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "5")

    assert 9 < seconds_left(Task().begin(export(tmp_path))) <= 10


def test_a_trigger_that_runs_twice_at_once(
    world: CohortsEmulator, tmp_path: Path
) -> None:
    """Both only ask for the status: of the first triggerer, and of the next one."""
    task = Task()
    wait = task.begin(export(tmp_path))
    assert isinstance(wait, TaskDeferred)
    before = len(world.log)

    with ThreadPoolExecutor() as pool:
        events = list(pool.map(event_of, [wait.trigger, wait.trigger]))

    assert [{"error": None}] * 2 == events
    assert {"status"} == {each.step for each in world.log[before:]}
    assert 1 == world.spent
    assert not (tmp_path / "c1.csv").exists()


def test_a_retry_goes_on_with_the_export(
    world: CohortsEmulator, tmp_path: Path
) -> None:
    """Of the same task, whatever became of the first try."""
    task = Task()
    task.begin(export(tmp_path))

    assert 2 == task.run(export(tmp_path))["rows"]
    assert 1 == world.spent


def test_a_job_store_that_was_lost(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Airflow's own state still has the token."""
    task = Task()
    task.begin(export(tmp_path))
    connect(monkeypatch, world, jobs=f"{tmp_path}/other.db")

    assert 2 == task.run(export(tmp_path))["rows"]
    assert 1 == world.spent


def test_a_task_that_was_changed_after_its_job_store_was_lost(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The token that is kept is of another cohort, and is left alone."""
    task = Task()
    task.begin(export(tmp_path))
    connect(monkeypatch, world, jobs=f"{tmp_path}/other.db")

    assert 1 == task.run(export(tmp_path, cohort_id="c2"))["rows"]
    assert 2 == world.spent


def test_a_newer_file_after_the_job_store_was_lost(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is not replaced, and the task says what to do; then nothing is spent."""
    target = tmp_path / "c1.csv"
    task = Task()
    task.run(export(tmp_path))
    target.write_text("of the next run")
    connect(monkeypatch, world, jobs=f"{tmp_path}/other.db")

    with pytest.raises(AirflowFailException, match="move the file"):
        task.run(export(tmp_path))

    assert "of the next run" == target.read_text()
    # A store that knows the token by now does not spend another export, either.
    for _ in range(2):
        target.unlink()
        assert 2 == task.run(export(tmp_path))["rows"]
    assert 1 == world.spent


def test_a_job_store_that_is_away(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The task waits for it, before its export and after it."""
    folder, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    connect(monkeypatch, world, jobs=f"{folder}/exports.db")
    task = Task()

    assert isinstance(task.begin(export(tmp_path)), TaskDeferred)
    assert 0 == world.spent
    folder.mkdir()
    task.begin(export(tmp_path))
    folder.rename(elsewhere)
    wait = task.begin(export(tmp_path))
    assert isinstance(wait, TaskDeferred)
    elsewhere.rename(folder)

    assert 2 == task.run(export(tmp_path))["rows"]
    assert 1 == world.spent


def test_clear_answers_from_the_record(world: CohortsEmulator, tmp_path: Path) -> None:
    """A task that was cleared spends nothing, and brings a file that is gone."""
    task = Task()
    first = task.run(export(tmp_path))

    assert first == task.run(export(tmp_path))

    (tmp_path / "c1.csv").unlink()
    assert first["sha256"] == task.run(export(tmp_path))["sha256"]
    assert (tmp_path / "c1.csv").exists()
    assert 1 == world.spent


def test_each_run_and_map_index_is_an_export(
    world: CohortsEmulator, tmp_path: Path
) -> None:
    """A task's own occurrence, or one that the user names for several."""
    tasks: Iterable[Task] = [Task("one", 0), Task("one", 1), Task("two")]
    for number, task in enumerate(tasks):
        task.run(export(tmp_path, path=f"{tmp_path}/{number}.csv"))
    assert 3 == world.spent

    for number, run_id in enumerate(["three", "four"]):
        path = f"{tmp_path}/same{number}.csv"
        Task(run_id).run(export(tmp_path, path=path, cohort_id="c2", occurrence="mon"))
    assert 4 == world.spent


def test_the_names_of_tasks_are_theirs_alone() -> None:
    """A run's id may look like a run and a task; long ids are allowed."""
    mapped = occurrence_of(Task("R", 3).context)

    assert "nightly/R/export[3]" == mapped
    assert mapped != occurrence_of(Task("R/export[3]").context)
    long = {occurrence_of(Task("R" * 249 + each, 3).context) for each in "ab"}
    assert [64, 64] == [len(each) for each in long]


def test_nobody_knows_whether_it_was_spent(
    world: CohortsEmulator, tmp_path: Path
) -> None:
    """The task fails at once and spends nothing more, until it is told to."""
    world.fail_next("export", faults.lost_answer())
    task = Task()

    for _ in range(2):
        with pytest.raises(AirflowFailException, match="AmbiguousExportError"):
            task.run(export(tmp_path))
    assert 1 == world.spent

    assert 2 == task.run(export(tmp_path, on_unknown="spend"))["rows"]
    assert 2 == world.spent


def test_a_job_that_failed(world: CohortsEmulator, tmp_path: Path) -> None:
    """The trigger hands it back, and no try of the task follows."""
    world.fail_next("status", faults.job_failed())

    with pytest.raises(AirflowFailException, match="ExportFailedError"):
        Task().run(export(tmp_path))

    assert 1 == world.spent


def test_a_timeout_says_what_is_next(world: CohortsEmulator, tmp_path: Path) -> None:
    """Airflow ends the wait; the export goes on."""
    task = Task()
    task.begin(export(tmp_path, timeout=5))

    with pytest.raises(TaskDeferralTimeout, match="the next try goes on with it"):
        export(tmp_path, timeout=5).resume_execution(
            "__fail__", {"error": "Trigger timeout"}, task.context
        )


def upload(tmp_path: Path, **options: Any) -> CohortUploadOperator:
    """Return an operator, as each try has its own."""
    options = {
        "name": "buyers",
        "ids": ["ann", "bob"],
        "id_type": "user",
        "journal": f"{tmp_path}/buyers.journal",
        "app_id": 153957,
        "cohort_owner": "datamonster@amplitude.com",
        **options,
    }
    return CohortUploadOperator(task_id="upload", **options)


def test_an_upload_creates_one_cohort(world: CohortsEmulator, tmp_path: Path) -> None:
    """A task that was cleared answers from the journal."""
    task = Task()
    before = set(world.cohort_ids)

    first = task.run(upload(tmp_path))

    assert first == task.run(upload(tmp_path))
    assert {first["cohort_id"]} == set(world.cohort_ids) - before
    assert {"ann", "bob"} == world.members_of(first["cohort_id"])
    assert 1 == world.requests("upload")


def test_ids_of_an_upload_may_be_in_a_file(
    world: CohortsEmulator, tmp_path: Path
) -> None:
    """A text is a path."""
    (tmp_path / "ids.txt").write_text("ann\nbob\ncat\n")

    made = Task().run(upload(tmp_path, ids=f"{tmp_path}/ids.txt"))

    assert 3 == made["total"]


def test_nobody_knows_whether_a_cohort_was_created(
    world: CohortsEmulator, tmp_path: Path
) -> None:
    """The task fails at once, and is not sent again by another one."""
    world.fail_next("upload", faults.lost_answer())

    for _ in range(2):
        with pytest.raises(AirflowFailException, match="AmbiguousUploadError"):
            Task().run(upload(tmp_path, published=False))

    assert 1 == world.requests("upload")


def test_a_pause_defers_an_upload(world: CohortsEmulator, tmp_path: Path) -> None:
    """No worker waits: the one that was refused, and those that know of it."""
    world.fail_next("upload", faults.throttled(retry_after=300))

    assert 30 < seconds_left(Task().begin(upload(tmp_path)))
    assert 30 < seconds_left(Task().begin(upload(tmp_path)))

    assert 1 == world.requests("upload")


def sync(tmp_path: Path, **options: Any) -> CohortSyncOperator:
    """Return an operator, as each try has its own."""
    options = {"ids": ["ann", "dora"], "folder": str(tmp_path), **options}
    return CohortSyncOperator(task_id="sync", cohort_id="c1", **options)


def test_a_sync_spends_one_export(world: CohortsEmulator, tmp_path: Path) -> None:
    """A task that was cleared writes nothing more, and the members do not stay."""
    task = Task()

    done = task.run(sync(tmp_path))

    assert {"ann", "dora"} == world.members_of("c1")
    assert (1, 1, 1) == (done["added"], done["removed"], done["kept"])
    assert [] == [*tmp_path.glob("*.csv*")]
    writes = world.requests("membership")
    assert done == task.run(sync(tmp_path))
    assert writes == world.requests("membership")
    assert 1 == world.spent


def test_a_sync_whose_job_store_was_lost(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file of the members is of this export alone, and may be there already."""
    task = Task()
    with pytest.raises(AirflowFailException, match="RemovalGuardError"):
        task.run(sync(tmp_path, ids=["dora"]))
    connect(monkeypatch, world, jobs=f"{tmp_path}/other.db")

    task.run(sync(tmp_path))

    assert {"ann", "dora"} == world.members_of("c1")
    assert 1 == world.spent


def test_a_sync_that_its_guard_refused(world: CohortsEmulator, tmp_path: Path) -> None:
    """With a higher share the same task goes on with the same export."""
    task = Task()
    with pytest.raises(AirflowFailException, match="RemovalGuardError"):
        task.run(sync(tmp_path, ids=["dora"]))
    assert {"ann", "bob"} == world.members_of("c1")

    task.run(sync(tmp_path, ids=["dora"], max_removed=1.0))

    assert {"dora"} == world.members_of("c1")
    assert 1 == world.spent


def test_a_pause_defers_a_sync(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has its export by then, and its writes go on."""
    world.fail_next("membership", faults.throttled(retry_after=300))
    task = Task()
    first = task.begin(sync(tmp_path))
    assert isinstance(first, TaskDeferred)

    paused = task.go_on(sync(tmp_path), first, event_of(first.trigger))

    assert 30 < seconds_left(paused)
    # As if the pause were over.
    connect(monkeypatch, world, jobs=f"{tmp_path}/limits.db.jobs")
    task.run(sync(tmp_path))
    assert {"ann", "dora"} == world.members_of("c1")
    assert 1 == world.spent


def sensor(**options: Any) -> CohortComputedSensor:
    """Return a sensor that looks often."""
    options = {"cohort_id": "c1", "poke_interval": 0.05, **options}
    return CohortComputedSensor(task_id="wait", **options)


def test_a_cohort_that_was_computed(world: CohortsEmulator) -> None:
    """One look is enough."""
    assert Task().run(sensor(since="2026-01-01")) is None
    assert ["list"] == [each.step for each in world.log]


def test_a_sensor_defers_until_it_is_computed(
    world: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trigger looks again when the service was out for a moment."""
    once = Retrying(attempts=1)
    monkeypatch.setitem(CohortsClient.__init__.__kwdefaults__, "retrying", once)
    since = world.clock.utcnow().replace(microsecond=0).isoformat()
    task = Task()
    wait = task.begin(sensor(since=since))
    assert isinstance(wait, TaskDeferred)
    assert isinstance(wait.trigger, CohortComputedTrigger)
    assert wait.timeout

    world.fail_next("list", faults.broken())
    world.add_cohort("c1", members=["ann"])
    event = event_of(wait.trigger)

    assert event["computed_at"] >= since
    assert task.go_on(sensor(since=since), wait, event) is None
    assert 3 == world.requests("list")


def test_a_sensor_of_a_cohort_that_is_gone(world: CohortsEmulator) -> None:
    """The trigger tells, and the task fails."""
    task = Task()
    since = world.clock.utcnow().isoformat()
    wait = task.begin(sensor(since=since))
    assert isinstance(wait, TaskDeferred)
    world.add_cohort("c1", members=["ann"], published=False)

    with pytest.raises(AirflowFailException, match="NotFoundError"):
        task.go_on(sensor(since=since), wait, event_of(wait.trigger))


def test_a_sensor_that_takes_a_slot(world: CohortsEmulator) -> None:
    """Without the triggerer it is a sensor as all others are."""
    plain = sensor(deferrable=False, since="2026-01-01")

    assert Task().run(plain) is None


def test_no_time(world: CohortsEmulator) -> None:
    """A template that gave something else is told."""
    with pytest.raises(AirflowFailException, match="since="):
        Task().run(sensor(since="yesterday"))


LIGHT = """
import sys
from amplitude_cohorts_async.contrib.airflow.provider import get_provider_info
get_provider_info()
print(*{"airflow", "aiohttp", "attrs"} & set(sys.modules))
"""


def test_what_airflow_asks_at_each_start_imports_nothing() -> None:
    """Neither the client nor Airflow's own parts."""
    told = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True
    )

    assert "" == told.stdout.strip()


def test_airflow_takes_what_it_is_told() -> None:
    """By its schema; each name in it can be imported."""
    schema = json.loads(
        files("airflow").joinpath("provider_info.schema.json").read_text()
    )
    (entry,) = (
        each
        for each in entry_points(group="apache_airflow_provider")
        if each.dist and each.dist.name == "amplitude-cohorts-async"
    )

    info = entry.load()()

    jsonschema.validate(info, schema)
    assert entry.dist.name == info["package-name"]
    for part in ("hooks", "operators", "sensors", "triggers"):
        for module in info[part][0]["python-modules"]:
            assert import_module(module).__all__
    (connection,) = info["connection-types"]
    assert AmplitudeCohortsHook.conn_type == connection["connection-type"]
    path, _, name = connection["hook-class-name"].rpartition(".")
    assert AmplitudeCohortsHook is getattr(import_module(path), name)


def test_the_example_of_the_page(world: CohortsEmulator) -> None:
    """Airflow can store it, as it does with each dag; nothing is sent for that."""
    page = Path(__file__).parents[2] / "docs/howto/engines.md"
    chapter = page.read_text().partition("## Airflow")[2]
    code = chapter.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}

    exec(code.replace("):\n", ") as dag:\n", 1), names)

    stored = DagSerialization.from_dict(DagSerialization.to_dict(names["dag"]))
    tasks = {"computed", "export", "export_many", "upload", "sync"}
    assert tasks == set(stored.task_dict)
    assert [] == world.log
