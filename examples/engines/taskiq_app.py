"""
Export cohorts by taskiq: a step every few seconds, until the file is there.

    pip install '.[redis]' taskiq taskiq-redis  # in a checkout of this project
    taskiq worker taskiq_app:broker
    taskiq scheduler taskiq_app:scheduler --update-interval 1
    python taskiq_app.py 26umsb5 /data/26umsb5.csv 2026-11-24

TASKIQ_SERVER is the Redis or Valkey of the queue. AMPLITUDE_LIMITER_URL, which may be
the same one, is needed: it keeps the limits and what was spent for all workers. Without
it, or AMPLITUDE_JOBS, a step is refused. All need AMPLITUDE_API_KEY and
AMPLITUDE_SECRET_KEY, too.

A message that a killed worker had is lost: the broker looks for such messages only
when a new one comes. So no step is left to the one before it. All of them are
scheduled before the first one works, and the last one ends the schedule. They all have
the first record, so a job store that forgets an export lets it be spent again: use one
that writes to disk, or Postgres.
"""

from __future__ import annotations

import asyncio
import os
import sys

from taskiq import TaskiqScheduler
from taskiq.serializers import JSONSerializer
from taskiq_redis import ListRedisScheduleSource, RedisStreamBroker

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import CohortsError
from amplitude_cohorts_async.jobs import JobRecord

EVERY = 5
"""Whole seconds between steps. One that comes before its time asks only the store."""

SERVER = os.environ.get("TASKIQ_SERVER", "redis://localhost:6379/0")
broker = RedisStreamBroker(
    SERVER,
    queue_name="cohorts",
    # What was asked for before the first worker started is worked on, too.
    consumer_id="0",
    # The schedule goes on while there is no worker.
    maxlen=10_000,
)
schedules = ListRedisScheduleSource(
    SERVER, prefix="cohorts-schedule", serializer=JSONSerializer()
)
scheduler = TaskiqScheduler(broker, [schedules])


@broker.task(task_name="cohorts.tick")
async def tick(record: str) -> None:
    """Make one step of an export; end its schedule after the last one."""
    step = JobRecord.from_json(record)

    try:
        async with CohortsClient.from_env() as client:
            made = await client.tick(step)
    except CohortsError:
        # Another step would end in the same way: ask again when you have seen to it.
        await schedules.delete_schedule(step.key)
        raise

    if made.due_in is None:
        await schedules.delete_schedule(step.key)


async def export(cohort_id: str, path: str, occurrence: str) -> str:
    """Ask for an export, and return its schedule's id; once more changes nothing."""
    record = JobRecord.new(cohort_id, path, occurrence=occurrence)
    step = tick.kicker().with_schedule_id(record.key)
    await step.schedule_by_interval(schedules, EVERY, record.to_json())

    return record.key


if __name__ == "__main__":
    print(asyncio.run(export(*sys.argv[1:])))
