"""
Procrastinate on Postgres: a job for each step, and workers of its queue.

Run with a number it is a worker, set up as docs/howto/engines.md says.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from procrastinate import App, PsycopgConnector

from amplitude_cohorts_async.contrib.procrastinate import CohortExports

from .common import Place, Workers, client, run, say_ready


def app_of(database: str) -> App:
    """Return the app, the same in all processes."""
    return App(connector=PsycopgConnector(conninfo=database, min_size=1, max_size=5))


@contextmanager
def prepare(place: Place) -> Iterator[Callable[[], None]]:
    """Make its tables, and start the workers."""
    app = app_of(place.database or "")
    with app.open():
        app.schema_manager.apply_schema()

    with Workers(__spec__.name, place.workers):
        yield lambda: asyncio.run(export_all(place))


async def export_all(place: Place) -> None:
    """Defer the first steps, and wait until no job is left."""
    app = app_of(place.database or "")
    exports = CohortExports(app)

    async with app.open_async():
        for record in place.records():
            await exports.defer_async(record)
        while await _are_left(app):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(1)


async def _are_left(app: App) -> bool:
    jobs = await app.job_manager.list_jobs_async(task="cohort_exports:tick")

    return any(job.status in {"todo", "doing"} for job in jobs)


async def work(database: str) -> None:
    """Work until interrupted."""
    app = app_of(database)
    CohortExports(app, client=client)

    async with app.open_async():
        say_ready()
        await app.run_worker_async(concurrency=5, fetch_job_polling_interval=1.0)


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(work(Place.here().database or ""))
    else:
        run(prepare)
