"""
Export cohorts by Prefect: a flow makes one step after the other, and sleeps in between.

    pip install '.[postgres]' prefect  # in a checkout of this project
    python prefect_flow.py 26umsb5 /data/26umsb5.csv 2026-11-24

Needs AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY, and AMPLITUDE_LIMITER_URL, where the
limits and what was spent are kept for all flows: Prefect's own server holds neither.

Prefect starts nothing again by itself when the process of a flow is killed. Whoever
runs the flow again, for the same occurrence, goes on with the same export.
"""

from __future__ import annotations

import asyncio
import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.jobs import JobRecord


@task(task_run_name="step", cache_policy=NO_CACHE)
async def tick(record: str) -> tuple[str, float | None]:
    """
    Make one step; return the record for the next one, and the seconds until then.

    None instead of seconds tells that the file is there.
    """
    async with CohortsClient.from_env() as client:
        made = await client.tick(JobRecord.from_json(record))

    return made.record.to_json(), made.due_in


@flow(flow_run_name="{cohort_id} {occurrence}")
async def export(cohort_id: str, path: str, occurrence: str) -> str:
    """Export a cohort; the same call is the same export for seven days."""
    record = JobRecord.new(cohort_id, path, occurrence=occurrence).to_json()

    while True:
        record, due_in = await tick(record)
        if due_in is None:
            return path
        await asyncio.sleep(due_in)


if __name__ == "__main__":
    asyncio.run(export(*sys.argv[1:]))
