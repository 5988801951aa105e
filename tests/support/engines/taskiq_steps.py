"""taskiq on a real Valkey, as in its recipe, with a step every second."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar, Self

from amplitude_cohorts_async.jobs import JobRecord

from ..valkey import Valkey
from .dying import Moment
from .engine import DONE, Engine, Workers, Workspace
from .recipes import FOLDER, recipe
from .taskiq_worker import ERROR


class TaskiqEngine(Engine):
    """A stream in a Valkey, workers, and one scheduler."""

    restarts: ClassVar[bool] = True

    def __init__(self, workspace: Workspace, server: Valkey) -> None:
        super().__init__(workspace)
        workspace.environment["TASKIQ_SERVER"] = server.url
        workspace.environment[ERROR] = str(self._error)
        self._workers = Workers(workspace, "taskiq")
        self._recipe = recipe("taskiq_app", workspace.environment)
        self._recipe.EVERY = 1

    async def __aenter__(self) -> Self:
        await self._start_scheduler()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._workers.end()
        await self._recipe.broker.shutdown()

    async def start_worker(self, dies: Moment | None = None) -> None:
        """Start one more worker."""
        await self._workers.start(
            *("worker", "support.engines.taskiq_worker:broker", "--workers=1"),
            "--log-level=CRITICAL",
            dies=dies,
        )

    async def submit(self, record: JobRecord) -> None:
        """Schedule its steps; the error of an earlier one is over."""
        asked = (record.cohort_id, str(record.to), str(record.occurrence))

        await asyncio.to_thread(self._error.unlink, missing_ok=True)
        await self._recipe.export(*asked)

    async def ended(self, record: JobRecord) -> str:
        """Wait for its file, or for an error, which comes after the schedule."""
        while (end := await self._end(record)) is None:  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.05)

        return end

    async def restart(self) -> None:
        """Kill the workers and the scheduler, and start one of each."""
        await self._workers.end()
        await self._start_scheduler()
        await self.start_worker()

    async def _start_scheduler(self) -> None:
        await self._workers.start(
            *("scheduler", "taskiq_app:scheduler", f"--app-dir={FOLDER}"),
            *("--update-interval=1", "--log-level=ERROR"),
        )

    async def _end(self, record: JobRecord) -> str | None:
        schedules = await self._recipe.schedules.get_schedules()
        if record.key in {each.schedule_id for each in schedules}:
            return None

        return await asyncio.to_thread(self._read_end, record)

    def _read_end(self, record: JobRecord) -> str | None:
        if self._error.exists():
            return self._error.read_text() or None

        assert record.to is not None
        return DONE if record.to.exists() else None

    @property
    def _error(self) -> Path:
        return self.workspace.folder / "error"
