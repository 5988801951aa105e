"""Exports by procrastinate: its jobs in memory and in Postgres, and real workers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import TransportError
from amplitude_cohorts_async.jobs import JobRecord, Tick
from support.requirements import require

require("procrastinate")

from procrastinate import App  # noqa: E402  optional
from procrastinate.exceptions import ConnectorException  # noqa: E402
from procrastinate.jobs import Job, Status  # noqa: E402
from procrastinate.testing import InMemoryConnector  # noqa: E402

from amplitude_cohorts_async.contrib.procrastinate import CohortExports  # noqa: E402
from support.engines.engine import Workspace  # noqa: E402
from support.engines.procrastinate_jobs import (  # noqa: E402
    ProcrastinateEngine,
    app_of,
)
from support.engines.scene import Scene  # noqa: E402
from support.engines.service import Service  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.surface import describe  # noqa: E402

RECORD = JobRecord.new("c1", "/srv/a.csv", occurrence="monday")
REQUESTED = Tick(record=RECORD, due_in=30.0)
DONE = Tick(record=RECORD, due_in=None, done=True)


class Steps:
    """A client whose steps a test wrote: a tick, an error, or an event to wait for."""

    def __init__(self, *steps: Tick | Exception | asyncio.Event) -> None:
        self._steps = iter(steps)
        self.records: list[JobRecord] = []
        self.began = asyncio.Event()

    async def tick(self, record: JobRecord) -> Tick:
        """Make the next step."""
        self.records.append(record)
        self.began.set()
        step = next(self._steps)

        if isinstance(step, asyncio.Event):
            await step.wait()
            return DONE
        if isinstance(step, Exception):
            raise step
        return step


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.services)])
def closed_app(request: pytest.FixtureRequest) -> App:
    """An app on each place for jobs."""
    if request.param == "memory":
        return App(connector=InMemoryConnector())

    return app_of(request.getfixturevalue("jobs_url"))


@pytest.fixture
async def app(closed_app: App) -> AsyncIterator[App]:
    """The app, open."""
    async with closed_app.open_async():
        yield closed_app


def exports_of(app: App, steps: Steps | None = None) -> CohortExports:
    """Register the tasks; each worker counts as killed when a test calls `sweep()`."""
    client = cast("CohortsClient", steps or Steps(DONE))

    return CohortExports(
        app,
        client=lambda: nullcontext(client),
        sweep_schedule="0 0 29 2 *",
        overdue_after=-1.0,
    )


async def catch_up(app: App, **options: Any) -> None:
    """Run a worker until nothing is due."""
    await app.run_worker_async(
        wait=False, listen_notify=False, install_signal_handlers=False, **options
    )


async def jobs_of(app: App, task: str = "tick") -> list[Job]:
    """Return all jobs of a task, the oldest first."""
    jobs = await app.job_manager.list_jobs_async(task=f"cohort_exports:{task}")
    return sorted(jobs, key=lambda job: job.id or 0)


async def states_of(app: App, task: str = "tick") -> list[str | None]:
    """Return what became of the jobs of a task."""
    return [job.status for job in await jobs_of(app, task)]


async def take(app: App) -> int:
    """Take a job as a worker does that is killed then; return the worker's id."""
    worker = await app.job_manager.register_worker()
    assert await app.job_manager.fetch_job(queues=None, worker_id=worker)

    return worker


async def sweep(app: App) -> None:
    """Look for jobs of killed workers."""
    await app.tasks["cohort_exports:sweep"].func(timestamp=0)


async def test_a_job_for_each_step(app: App) -> None:
    """Each defers the next one, which has its record, and is due when it says."""
    moved = JobRecord.from_json(RECORD.to_json())
    steps = Steps(Tick(record=moved, due_in=0.0), REQUESTED)
    exports = exports_of(app, steps)

    assert await exports.defer_async(RECORD)
    await catch_up(app)

    jobs = await jobs_of(app)
    assert ["succeeded", "succeeded", "todo"] == [job.status for job in jobs]
    assert [None, None] == [job.scheduled_at for job in jobs[:2]]
    assert jobs[2].scheduled_at is not None
    assert {RECORD.key} == {job.queueing_lock for job in jobs}
    assert [RECORD.to_json(), moved.to_json()] == [
        record.to_json() for record in steps.records
    ]


async def test_the_last_step_defers_nothing(app: App) -> None:
    """The file is there."""
    await exports_of(app).defer_async(RECORD)
    await catch_up(app)

    assert ["succeeded"] == await states_of(app)


async def test_the_same_record_is_one_job(app: App) -> None:
    """A second caller hears that there is one, which is no error."""
    exports = exports_of(app)

    told = await asyncio.gather(*(exports.defer_async(RECORD) for _ in range(5)))

    assert [False] * 4 + [True] == sorted(told)
    assert ["todo"] == await states_of(app)


async def test_what_can_be_mended_is_logged(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """And the next step is due as after any other."""
    lost = TransportError("the connection was lost", may_have_happened=False)
    steps = Steps(Tick(record=RECORD, due_in=30.0, last_error=lost))
    await exports_of(app, steps).defer_async(RECORD)

    await catch_up(app)

    assert ["succeeded", "todo"] == await states_of(app)
    assert f"{RECORD.key} is tried again: {lost}" in caplog.messages


async def test_a_final_error_is_the_last_step(app: App) -> None:
    """It is the job's, and nobody tries again."""
    steps = Steps(ValueError("final"), DONE)
    await exports_of(app, steps).defer_async(RECORD)

    await catch_up(app)

    assert ["failed"] == await states_of(app)
    assert 1 == len(steps.records)


async def test_the_next_step_cannot_be_deferred(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue's database is away: the job waits for it, and makes its step again."""
    exports = exports_of(app, Steps(REQUESTED))
    await exports.defer_async(RECORD)

    async def is_away(*_: object, **__: object) -> Job:
        """Raise what procrastinate does."""
        raise ConnectorException

    with monkeypatch.context() as patch:
        patch.setattr(app.job_manager, "defer_job_async", is_away)
        await catch_up(app)

    assert ["todo"] == await states_of(app)


async def test_a_deploy_in_the_middle_of_a_step(app: App) -> None:
    """A worker that has to end leaves the step to the next one."""
    steps = Steps(asyncio.Event())
    await exports_of(app, steps).defer_async(RECORD)

    worker = asyncio.create_task(
        app.run_worker_async(
            shutdown_graceful_timeout=0.0, install_signal_handlers=False
        )
    )
    await steps.began.wait()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)

    assert ["aborted", "todo"] == await states_of(app)


async def test_an_aborted_job_is_the_end_of_its_export(app: App) -> None:
    """A user said so."""
    steps = Steps(asyncio.Event())
    await exports_of(app, steps).defer_async(RECORD)
    worker = asyncio.create_task(
        app.run_worker_async(
            abort_job_polling_interval=0.01, install_signal_handlers=False
        )
    )
    await steps.began.wait()
    (job,) = await jobs_of(app)
    assert job.id is not None

    await app.job_manager.cancel_job_by_id_async(job.id, abort=True)
    while "doing" in await states_of(app):  # noqa: ASYNC110 - the worker ends it
        await asyncio.sleep(0.01)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)

    assert ["aborted"] == await states_of(app)


async def test_the_step_of_a_killed_worker_is_made_again(app: App) -> None:
    """By a new job; the old one is over."""
    await exports_of(app).defer_async(RECORD)
    await take(app)

    await sweep(app)

    assert ["aborted", "todo"] == await states_of(app)
    await catch_up(app)
    assert ["aborted", "succeeded"] == await states_of(app)


async def test_a_swept_step_beside_the_next_one(app: App) -> None:
    """Its worker was killed after it had deferred the next: there is one still."""
    exports = exports_of(app)
    await exports.defer_async(RECORD)
    await take(app)
    assert await exports.defer_async(RECORD)

    await sweep(app)
    await sweep(app)

    assert ["aborted", "todo"] == await states_of(app)


async def test_a_worker_that_was_only_slow(app: App) -> None:
    """It ends its own job, which is not the one that goes on."""
    exports = exports_of(app)
    await exports.defer_async(RECORD)
    await take(app)
    (slow,) = await jobs_of(app)
    await sweep(app)

    assert not await exports.defer_async(RECORD)
    with suppress(ConnectorException):
        await app.job_manager.finish_job(
            slow, status=Status.SUCCEEDED, delete_job=False
        )

    assert "todo" == (await states_of(app))[-1]


async def test_the_job_of_a_worker_that_was_forgotten(app: App) -> None:
    """Another worker that starts forgets who has no heartbeat; its job is found."""
    await exports_of(app).defer_async(RECORD)
    await take(app)
    await app.job_manager.prune_stalled_workers(-1.0)

    await sweep(app)

    assert ["aborted", "todo"] == await states_of(app)


async def test_a_sweep_that_was_killed(app: App) -> None:
    """The next one works, and ends it."""
    exports = exports_of(app)
    task = app.tasks["cohort_exports:sweep"]
    await task.defer_async(timestamp=0)
    await take(app)
    await exports.defer_async(RECORD)
    await take(app)

    await task.defer_async(timestamp=1)
    await sweep(app)

    assert ["aborted", "todo"] == await states_of(app, "sweep")
    assert ["aborted", "todo"] == await states_of(app)


async def test_an_aborted_step_of_a_killed_worker(app: App) -> None:
    """It is not made again."""
    await exports_of(app).defer_async(RECORD)
    await take(app)
    (job,) = await jobs_of(app)
    assert job.id is not None
    await app.job_manager.cancel_job_by_id_async(job.id, abort=True)

    await sweep(app)

    assert ["aborted"] == await states_of(app)


def test_the_page() -> None:
    """What the page says defines an app with both tasks."""
    page = Path(__file__).parents[2] / "docs" / "howto" / "engines.md"
    section = page.read_text().partition("## procrastinate\n")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"__name__": "page"}

    exec(code, names)

    assert {"cohort_exports:tick", "cohort_exports:sweep"} <= set(names["app"].tasks)


def test_the_surface() -> None:
    """A change is made on purpose only."""
    module = import_module("amplitude_cohorts_async.contrib.procrastinate")
    lines = describe(module).splitlines()

    assert [
        "amplitude_cohorts_async.contrib.procrastinate",
        "  class CohortExports(object)",
        "    async def defer_async(self, record: JobRecord) -> bool",
    ] == [line for line in lines if "__init__" not in line]


@pytest.fixture
async def scene(
    tmp_path: Path, service: Service, jobs_server: Postgres, jobs_url: str
) -> AsyncIterator[Scene]:
    """One export by real workers, which share a job store and the limits."""
    environment = {
        **service.environment,
        "AMPLITUDE_JOBS": str(tmp_path / "exports.db"),
        "AMPLITUDE_LIMITER_URL": f"sqlite:///{tmp_path}/limits.db",
    }
    workspace = Workspace(folder=tmp_path, environment=environment)

    async with ProcrastinateEngine(workspace, jobs_server, jobs_url) as engine:
        yield Scene.of(engine, service)


@pytest.mark.services
@pytest.mark.slow
async def test_an_export(scene: Scene) -> None:
    """Asked for twice by two callers; a worker brings the file."""
    await scene.submit()
    await scene.submit()

    await scene.engine.start_worker()

    await scene.ends_well()
    engine = cast("ProcrastinateEngine", scene.engine)
    assert {"succeeded"} == set(await states_of(engine.app))


@pytest.mark.services
@pytest.mark.slow
async def test_a_frozen_worker(scene: Scene) -> None:
    """Another one goes on; awake again it makes its step, and spends nothing."""
    engine = cast("ProcrastinateEngine", scene.engine)
    await engine.start_worker()
    await scene.submit()
    await scene.polled()
    (frozen,) = engine.workers.running

    os.killpg(frozen.pid, signal.SIGSTOP)
    await engine.start_worker()
    # Longer than a worker may be without a heartbeat.
    await asyncio.sleep(3.0)
    os.killpg(frozen.pid, signal.SIGCONT)

    await scene.ends_well()
    await scene.submit()
    await scene.ends_well()
