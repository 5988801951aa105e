"""
Export cohorts by Celery: a task makes one step, and is repeated when the next is due.

    pip install '.[redis]' 'celery[redis]'  # in a checkout of this project
    celery --app celery_app worker --loglevel INFO
    python celery_app.py 26umsb5 /data/26umsb5.csv 2026-11-24

The second is a worker, the third asks for an export. A log level before `worker` is
refused by Celery.

CELERY_BROKER_URL is the Redis or Valkey of the queue. AMPLITUDE_LIMITER_URL, which may be
the same one, is needed: it keeps the limits and what was spent for all workers. Without
it, or AMPLITUDE_JOBS, a step is refused. All need AMPLITUDE_API_KEY and
AMPLITUDE_SECRET_KEY, too.
"""

from __future__ import annotations

import asyncio
import os
import sys

from celery import Celery, Task

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.jobs import JobRecord, Tick

LONGEST_WAIT = 60.0
NOT_ACKNOWLEDGED = 300
"""
Seconds after which the broker gives the task of a killed worker to another one.

More than `LONGEST_WAIT`, and than the longest download: a task that was only slow is
given to another worker as well, which then waits for the first.
"""

SERVER = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")
app = Celery("cohorts", broker=SERVER, backend=SERVER)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": NOT_ACKNOWLEDGED,
        # Look for them every ten seconds, not every hundred.
        "unacked_restore_throttle": 1,
    },
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
)


@app.task(name="cohorts.tick", bind=True, max_retries=None)
def tick(self: Task[[str], str], record: str) -> str:
    """Make one step of an export; return the path of the file when it is there."""
    made = asyncio.run(make(record))

    if made.due_in is not None:
        # As often as it takes: a task that cannot be sent again is over.
        raise self.retry(
            # It knows what was spent, even if the job store should forget it.
            args=(made.record.to_json(),),
            countdown=min(made.due_in, LONGEST_WAIT),
            retry_policy={"max_retries": None},
        )

    return str(made.record.to)


async def make(record: str) -> Tick:
    """Make one step."""
    async with CohortsClient.from_env() as client:
        return await client.tick(JobRecord.from_json(record))


def export(cohort_id: str, path: str, occurrence: str) -> str:
    """Ask for an export, and return its task's id; once more changes nothing."""
    record = JobRecord.new(cohort_id, path, occurrence=occurrence)
    tick.apply_async((record.to_json(),), task_id=record.key)

    return record.key


if __name__ == "__main__":
    print(export(*sys.argv[1:]))
