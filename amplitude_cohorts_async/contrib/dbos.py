"""
Exports as durable workflows of DBOS: one that is killed goes on in another worker.

A workflow makes the steps of `CohortsClient.tick()`, each a recorded step of DBOS, and
sleeps in between; its id is the record's key. DBOS takes up the workflows of a killed
executor only under the same executor id and application version. So workers have
distinct ids and a fixed version (`dbos_config()`), and a scheduled sweep lets any of
them go on with what is overdue: in DBOS, and in our job store.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict
from uuid import uuid4

from .. import CohortsClient
from ..errors import MissingExtraError
from ..jobs import JobRecord

try:
    from dbos import (
        DBOS,
        DBOSConfig,
        SetWorkflowID,
        WorkflowHandleAsync,
        WorkflowStatus,
    )
except ModuleNotFoundError as _error:
    raise MissingExtraError("exports as workflows of DBOS", extra="dbos") from _error

__all__ = ("QUEUE", "VERSION", "WORKFLOW", "CohortExports", "Exported", "dbos_config")

QUEUE = "cohort-exports"
"""The queue of the exports."""

WORKFLOW = "amplitude_cohorts.export"
"""The name of the workflow, whose argument is `JobRecord.to_json()`."""

VERSION = "cohort-exports-1"
"""An application version: it changes only when running workflows could not go on."""

_logger = logging.getLogger(__name__)

_SWEEP = "amplitude_cohorts.sweep"
_STEP_OF_STATE = {"requested": "poll", "ready": "download"}
_STEP_NAMES = {"request", *_STEP_OF_STATE.values()}


class Exported(TypedDict):
    """
    The result of a workflow.

    Attributes:
        path: The file.
        size: Its bytes.
        sha256: Its digest.
    """

    path: str
    size: int
    sha256: str | None


class _StepResult(TypedDict):
    """
    What a step leaves for the next one; DBOS stores and shows it.

    Attributes:
        error: Why it is tried again, for those who look at the step.
    """

    record: str
    state: str
    due_in: float | None
    exported: Exported | None
    error: str | None


class CohortExports:
    """
    The workflow that exports a cohort, and the sweep that finds what was left.

    Make one before ``DBOS.launch()``, in each process that works or asks for exports,
    and call `listen()` after it.
    """

    def __init__(
        self,
        *,
        client: Callable[
            [], AbstractAsyncContextManager[CohortsClient]
        ] = CohortsClient.from_env,
        queue: str = QUEUE,
        overdue_after: float = 60.0,
    ) -> None:
        """
        Register the workflows.

        Args:
            client: Makes the client of a step, which is closed after it. All workers
                need the same job store and limiter: AMPLITUDE_JOBS and
                AMPLITUDE_LIMITER_URL.
            queue: The queue of the exports.
            overdue_after: Seconds after which a step that was due counts as abandoned.
                One that is still running is harmless: it goes on, and nothing is sent
                twice.
        """
        self._client = client
        self._queue = queue
        self._overdue_after = overdue_after

        @DBOS.workflow(name=WORKFLOW)
        async def export(text: str) -> Exported:
            return await self._run(text)

        @DBOS.workflow(name=_SWEEP)
        async def sweep(_at: datetime, _context: Any) -> None:
            await self._sweep()

        self._export, self._sweep_workflow = export, sweep

    def listen(
        self, *, sweep_schedule: str = "* * * * *", worker_concurrency: int = 50
    ) -> None:
        """
        Register the queue and the schedule of the sweep; after ``DBOS.launch()``.

        Args:
            sweep_schedule: When to sweep, as a cron expression; the whole fleet sweeps
                once each time.
            worker_concurrency: How many exports run in one process. Almost all of them
                sleep: what the limits allow is the limiter's business.
        """
        DBOS.register_queue(self._queue, worker_concurrency=worker_concurrency)
        DBOS.apply_schedules(
            [
                {
                    "schedule_name": _SWEEP,
                    "workflow_fn": self._sweep_workflow,
                    "schedule": sweep_schedule,
                    "context": None,
                }
            ]
        )

    async def start(
        self, record: JobRecord, *, attempt: int = 1
    ) -> WorkflowHandleAsync[Exported]:
        """
        Have an export made by any worker, or find the workflow that makes it.

        Args:
            record: Of `JobRecord.new()`, with an occurrence: its key is the id of the
                workflow, and an equal record finds the same one.
            attempt: DBOS answers for ever what a workflow ended with, be it an error;
                another number starts another workflow, which goes on with the same
                export.
        """
        workflow_id = record.key if attempt == 1 else f"{record.key}-{attempt}"

        with SetWorkflowID(workflow_id):
            return await DBOS.enqueue_workflow_async(
                self._queue, self._export, record.to_json()
            )

    async def _run(self, text: str) -> Exported:
        name = "request"

        while True:
            step = await DBOS.run_step_async({"name": name}, self._tick, text)
            if step["exported"] is not None:
                return step["exported"]

            text, name = step["record"], _STEP_OF_STATE.get(step["state"], "request")
            if step["due_in"]:
                await DBOS.sleep_async(step["due_in"])

    async def _tick(self, text: str) -> _StepResult:
        async with self._client() as client:
            tick = await client.tick(JobRecord.from_json(text))
        saved, error = tick.saved, tick.last_error
        if error is not None:
            _logger.warning("%s is tried again: %s", tick.record.key, error)
        exported: Exported | None = None
        if saved is not None:
            exported = {
                "path": saved.location or str(saved.path),
                "size": saved.size,
                "sha256": saved.sha256,
            }

        return _StepResult(
            record=tick.record.to_json(),
            state=tick.record.state,
            due_in=tick.due_in,
            exported=exported,
            error=None if error is None else str(error),
        )

    async def _sweep(self) -> None:
        """Let some worker go on with what is overdue, and start what has no workflow."""
        for workflow_id in await DBOS.run_step_async(
            {"name": "overdue"}, self._overdue
        ):
            await DBOS.resume_workflow_async(workflow_id, queue_name=self._queue)

        for text in await DBOS.run_step_async({"name": "abandoned"}, self._abandoned):
            await self.start(JobRecord.from_json(text))

    async def _overdue(self) -> list[str]:
        """Return the workflows whose executor has not made the step that was due."""
        latest = time.time() - self._overdue_after
        running = await DBOS.list_workflows_async(
            name=WORKFLOW, status="PENDING", load_input=False, load_output=False
        )

        return [each.workflow_id for each in running if await _due_at(each) < latest]

    async def _abandoned(self) -> list[str]:
        """Return the exports to files of this host that nobody has gone on with."""
        latest = datetime.now(UTC) - timedelta(seconds=self._overdue_after)
        async with self._client() as client:
            records = await client.jobs(open_only=True)

        return [
            startable.to_json()
            for record in records
            if record.updated_at is None or record.updated_at < latest
            if (startable := _startable(record)) is not None
        ]


def dbos_config(
    system_database_url: str | None = None,
    *,
    name: str = "cohort-exports",
    executor_id: str | None = None,
    application_version: str = VERSION,
) -> DBOSConfig:
    """
    Return a configuration with which any worker may go on with another's exports.

    Args:
        system_database_url: Of Postgres for a fleet; a file of SQLite in the working
            folder by default, for one process.
        executor_id: Never that of another process that runs. One that stays the same
            lets a restarted process go on at once; by default it is a new one, and the
            sweep does it.
        application_version: The same in all deploys, until you change a workflow of
            yours so that those that run cannot go on.
    """
    return {
        "name": name,
        "system_database_url": system_database_url,
        "executor_id": executor_id or f"{socket.gethostname()}-{uuid4().hex[:8]}",
        "application_version": application_version,
    }


async def _due_at(workflow: WorkflowStatus) -> float:
    """Return when its next step is due; when it was started, before the first one."""
    due_at = (workflow.updated_at or 0) / 1000

    for step in await DBOS.list_workflow_steps_async(workflow.workflow_id):
        if step["function_name"] in _STEP_NAMES and step["output"] is not None:
            ended_at = (step["completed_at_epoch_ms"] or 0) / 1000
            due_at = max(due_at, ended_at + (step["output"]["due_in"] or 0.0))

    return due_at


def _startable(record: JobRecord) -> JobRecord | None:
    """Return the record for `start()`; None if this host cannot go on with its file."""
    here = f"{socket.gethostname()}:"
    left = [
        each
        for each in record.deliveries
        if each.finished_at is None and (each.target or "").startswith(here)
    ]

    # Without an occurrence only this host can go on: `run_jobs()` does.
    if not left or record.occurrence is None:
        return None

    path, suffix = str(left[0].target).removeprefix(here), left[0].format

    return JobRecord.new(
        record.cohort_id,
        path,
        properties=record.properties,
        occurrence=record.occurrence,
        format=None if path.endswith(f".{suffix}") else suffix,
    )
