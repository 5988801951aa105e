"""
Exports by procrastinate: a job makes one step, and defers the next one.

The jobs are in Postgres, and any worker of the queue makes the next step. A job whose
worker was killed is found by its missing heartbeat, and its step is made again: the
job store of the client knows what was spent. It has to be one that all workers share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime, timedelta

from .. import CohortsClient
from ..errors import MissingExtraError
from ..jobs import JobRecord

try:
    from procrastinate import App, JobContext, RetryStrategy
    from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
    from procrastinate.job_context import AbortReason
    from procrastinate.jobs import Status
except ModuleNotFoundError as _error:
    raise MissingExtraError(
        "exports by procrastinate", extra="procrastinate"
    ) from _error

__all__ = ("CohortExports",)

_logger = logging.getLogger(__name__)


class CohortExports:
    """The tasks of a procrastinate app that export cohorts."""

    def __init__(
        self,
        app: App,
        *,
        client: Callable[
            [], AbstractAsyncContextManager[CohortsClient]
        ] = CohortsClient.from_env,
        name: str = "cohort_exports",
        sweep_schedule: str = "* * * * *",
        overdue_after: float = 30.0,
    ) -> None:
        """
        Register the tasks; do so wherever the app is defined.

        Args:
            app: What the workers run.
            client: Makes the client of a step, which is closed after it; return a
                ``nullcontext(client)`` to keep one open.
            name: Of the queue, and the first part of the tasks' names; another one
                for each project of Amplitude's.
            sweep_schedule: When to look for jobs of killed workers, as a cron
                expression.
            overdue_after: Seconds without a heartbeat after which a worker counts as
                killed; more than twice the workers' ``update_heartbeat_interval``.
        """
        self._app = app
        self._client = client
        self._name = name
        self._overdue_after = overdue_after

        self._tick_task = app.task(
            name=f"{name}:tick",
            queue=name,
            pass_context=True,
            # The step was made; only the queue could not be written.
            retry=RetryStrategy(wait=1, retry_exceptions=[ConnectorException]),
        )(self._tick)
        # Without a `lock`: a sweep that was killed would keep out all others.
        self._sweep_task = app.periodic(cron=sweep_schedule, periodic_id=name)(
            app.task(name=f"{name}:sweep", queue=name, queueing_lock=f"{name}:sweep")(
                self._sweep
            )
        )

    async def defer_async(self, record: JobRecord) -> bool:
        """
        Defer the first step of an export; return whether its job is new.

        If one of the same record waits already, that one makes the step. The app has
        to be open.
        """
        return await self._defer(record)

    async def _defer(self, record: JobRecord, due_in: float = 0.0) -> bool:
        job = self._tick_task.configure(
            queueing_lock=record.key,
            # A job without a date starts at once, whatever the server's clock says.
            schedule_at=_now() + timedelta(seconds=due_in) if due_in > 0 else None,
        )

        try:
            await job.defer_async(record=record.to_json())
        except AlreadyEnqueued:
            return False

        return True

    async def _tick(self, context: JobContext, *, record: str) -> None:
        """Make one step, and defer the next one."""
        step = JobRecord.from_json(record)

        try:
            async with self._client() as client:
                tick = await client.tick(step)
            step = tick.record

            if tick.last_error is not None:
                _logger.warning("%s is tried again: %s", step.key, tick.last_error)
            if tick.due_in is not None:
                await self._defer(step, tick.due_in)
        except asyncio.CancelledError:
            # The worker ends; if a user aborts the job, that is the export's end.
            if context.abort_reason() is AbortReason.SHUTDOWN:
                await self._defer(step)
            raise

    async def _sweep(self, timestamp: int) -> None:  # noqa: ARG002 - a cron job's
        """
        Make the steps of killed workers again, by new jobs.

        A worker that was only slow ends its own job. If that job were queued again, it
        would end the one that is to go on with the export.
        """
        jobs = self._app.job_manager
        aborted = set(await jobs.list_jobs_to_abort_async(self._name))
        stalled = await jobs.get_stalled_jobs(
            queue=self._name, seconds_since_heartbeat=self._overdue_after
        )

        for job in stalled:
            # The new one first: if this worker is killed in between, the next sweep
            # finds the old one again.
            if job.task_name == self._tick_task.name and job.id not in aborted:
                await self._defer(JobRecord.from_json(str(job.task_kwargs["record"])))

            # Another sweep, or the slow worker, may have ended it.
            with suppress(ConnectorException):
                await jobs.finish_job(job, status=Status.ABORTED, delete_job=False)


def _now() -> datetime:
    return datetime.now(UTC)
