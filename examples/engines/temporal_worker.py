"""
Export cohorts by Temporal: an activity makes one step, and the workflow sleeps.

    pip install '.[postgres]' temporalio  # in a checkout of this project
    python temporal_worker.py
    python temporal_worker.py 26umsb5 /data/26umsb5.csv 2026-11-24

The second line is a worker, the third asks for an export. They need AMPLITUDE_API_KEY,
AMPLITUDE_SECRET_KEY and AMPLITUDE_LIMITER_URL, where the limits and what was spent are
kept for all workers, and TEMPORAL_ADDRESS: the service of Temporal holds neither.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from amplitude_cohorts_async import CohortsClient
    from amplitude_cohorts_async.errors import CohortsError
    from amplitude_cohorts_async.jobs import JobRecord

QUEUE = "cohorts"
SILENT = timedelta(seconds=30)
"""A worker that is not heard of for so long is dead: another one makes its step."""


@dataclass
class Step:
    """
    What a step leaves for the next one.

    Attributes:
        record: The export.
        due_in: Seconds until the next step; None if the file is there.
    """

    record: str
    due_in: float | None


@activity.defn
async def tick(record: str) -> Step:
    """Make one step."""
    alive = asyncio.create_task(show_life())

    try:
        async with CohortsClient.from_env() as client:
            made = await client.tick(JobRecord.from_json(record))
    except CohortsError as error:
        # What a later step can mend comes back as a `due_in`; this is final.
        token = getattr(error, "token", None)
        raise ApplicationError(
            str(error), token, type=type(error).__name__, non_retryable=True
        ) from error
    finally:
        alive.cancel()

    return Step(made.record.to_json(), made.due_in)


async def show_life() -> None:
    """Tell Temporal that this worker lives: a download may take its time."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(SILENT.total_seconds() / 3)


@workflow.defn
class CohortExport:
    """One export."""

    @workflow.run
    async def run(self, record: str) -> None:
        """Make one step after the other."""
        while True:
            step = await workflow.execute_activity(
                tick,
                record,
                start_to_close_timeout=timedelta(hours=6),
                heartbeat_timeout=SILENT,
            )
            if step.due_in is None:
                return
            record = step.record
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(record)
            await asyncio.sleep(step.due_in)


async def work(client: Client) -> None:
    """Work until killed."""
    async with Worker(
        client, task_queue=QUEUE, workflows=[CohortExport], activities=[tick]
    ):
        await asyncio.Event().wait()


async def start(
    client: Client, record: JobRecord
) -> WorkflowHandle[CohortExport, None]:
    """Ask for an export; one that runs already is the same."""
    return await client.start_workflow(
        CohortExport.run,
        record.to_json(),
        id=record.key,
        task_queue=QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def main() -> None:
    """Be a worker, or ask for the export of the command line."""
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))

    if not sys.argv[1:]:
        await work(client)

    cohort_id, path, occurrence = sys.argv[1:]
    record = JobRecord.new(cohort_id, path, occurrence=occurrence)
    handle = await start(client, record)
    await handle.result()


if __name__ == "__main__":
    asyncio.run(main())
