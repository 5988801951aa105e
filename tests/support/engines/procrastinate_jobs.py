"""
Procrastinate on a real Postgres, with workers that look for killed ones each second.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit
from uuid import uuid4

from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.worker import Worker

from amplitude_cohorts_async.contrib.procrastinate import CohortExports
from amplitude_cohorts_async.errors import CohortsError
from amplitude_cohorts_async.jobs import JobRecord

from ..postgres import Postgres, connected
from .dying import Moment, arm
from .engine import DONE, Engine, Workspace
from .forking import ForkedWorkers

OPEN = {"todo", "doing"}
ERRORS = "PROCRASTINATE_ERRORS"


class ProcrastinateEngine(Engine):
    """A queue in a database of its own, and processes that work on it."""

    restarts: ClassVar[bool] = True

    def __init__(self, workspace: Workspace, server: Postgres, url: str) -> None:
        super().__init__(workspace)
        self.url = url
        self.app = app_of(url)
        self._server = server
        self._exports = CohortExports(self.app)
        self.workers = ForkedWorkers(workspace, work)
        workspace.environment[ERRORS] = str(self._errors)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._errors.mkdir)
        await self.app.open_async()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.workers.end()
        await self.app.close_async()

    async def start_worker(self, dies: Moment | None = None) -> None:
        """Start one more worker."""
        self.workers.start(self.url, dies=dies)

    async def submit(self, record: JobRecord) -> None:
        """Defer the first step."""
        await self._exports.defer_async(record)

    async def ended(self, record: JobRecord) -> str:
        """Wait until no job is left; return what the last one ended with."""
        while True:
            jobs = await self.app.job_manager.list_jobs_async(queueing_lock=record.key)
            if OPEN.isdisjoint({job.status for job in jobs}):
                break
            await asyncio.sleep(0.05)

        last = max(jobs, key=lambda job: job.id or 0)
        if last.status == "succeeded":
            return DONE

        return await asyncio.to_thread((self._errors / f"{last.id}").read_text)

    async def restart(self) -> None:
        """End the workers and Postgres, and start it with one worker."""
        self.workers.end()
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)
        await self.start_worker()

    @property
    def _errors(self) -> Path:
        return self.workspace.folder / "errors"


@contextmanager
def database(server: Postgres) -> Iterator[str]:
    """Have a database with procrastinate's tables; yields its address."""
    name = f"jobs_{uuid4().hex}"
    with connected(server.url) as connection:
        connection.execute(f"CREATE DATABASE {name}")

    url = urlsplit(server.url)._replace(path=f"/{name}").geturl()
    app = app_of(url)
    with app.open():
        app.schema_manager.apply_schema()

    yield url

    with connected(server.url) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def app_of(url: str) -> App:
    """Make an app; all processes of a database have the same tasks."""
    return App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=5))


async def _told(
    run_job: Callable[[], Awaitable[object]], context: JobContext, worker: Worker
) -> object:
    """Run a job; write down the error that it ends with."""
    try:
        return await run_job()
    except CohortsError as error:
        path = Path(os.environ[ERRORS], str(context.job.id))
        await asyncio.to_thread(path.write_text, type(error).__name__)
        raise


def work(url: str) -> None:
    """Work until killed."""
    arm()
    app = app_of(url)
    CohortExports(app, sweep_schedule="* * * * * */1", overdue_after=2.0)
    app.run_worker(
        concurrency=2,
        fetch_job_polling_interval=0.1,
        update_heartbeat_interval=0.2,
        worker_middleware=[_told],
    )
