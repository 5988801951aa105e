"""
DBOS on Postgres: a workflow for each export, and workers that share its queue.

Run with a number it is that worker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbos import DBOS, DBOSClient, EnqueueOptions, run_dbos_database_migrations

from amplitude_cohorts_async.contrib.dbos import (
    QUEUE,
    VERSION,
    WORKFLOW,
    CohortExports,
    dbos_config,
)

from .common import Place, Workers, client, run, say_ready

_OVER = ["SUCCESS", "ERROR", "CANCELLED"]


@contextmanager
def prepare(place: Place) -> Iterator[Callable[[], None]]:
    """Make its tables, and start the workers."""
    assert place.database is not None
    run_dbos_database_migrations(place.database)
    engine = DBOSClient(system_database_url=place.database)

    with Workers(__spec__.name, place.workers):
        yield lambda: export_all(engine, place)

    engine.destroy()


def export_all(engine: DBOSClient, place: Place) -> None:
    """Put the workflows into the queue, and wait for the last one."""
    records = place.records()

    for record in records:
        options: EnqueueOptions = {
            "queue_name": QUEUE,
            "workflow_name": WORKFLOW,
            "workflow_id": record.key,
            "app_version": VERSION,
        }
        engine.enqueue(options, record.to_json())

    while len(engine.list_workflows(name=WORKFLOW, status=_OVER)) < len(records):
        time.sleep(1)


def work(database: str) -> None:
    """Work until interrupted."""
    exports = CohortExports(client=client)
    DBOS(config={**dbos_config(database), "log_level": "WARNING"})
    DBOS.launch()
    exports.listen()
    say_ready()
    sys.stdin.readline()


if __name__ == "__main__":
    if sys.argv[1:]:
        work(Place.here().database or "")
    else:
        run(prepare)
