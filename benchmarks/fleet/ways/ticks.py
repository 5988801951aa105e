"""
Ticks in a loop, without an engine: each process ticks its share, and sleeps between.

Run with a number it is that worker.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.jobs import JobRecord

from .common import Place, Workers, client, run, say_ready


@contextmanager
def prepare(place: Place) -> Iterator[Callable[[], None]]:
    """Start the processes."""
    with Workers(__spec__.name, place.workers) as workers:
        yield workers.work


async def work(number: int) -> None:
    """Tick every n-th record until it is done, all at the same time."""
    place = Place.here()

    async with client() as cohorts:
        say_ready()
        await asyncio.to_thread(sys.stdin.readline)
        async with asyncio.TaskGroup() as group:
            for record in place.records()[number :: place.workers]:
                group.create_task(tick_until_done(cohorts, record))


async def tick_until_done(cohorts: CohortsClient, record: JobRecord) -> None:
    """Make the steps of one export."""
    while True:
        tick = await cohorts.tick(record)
        if tick.due_in is None:
            return
        record = tick.record
        await asyncio.sleep(tick.due_in)


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(work(int(sys.argv[1])))
    else:
        run(prepare)
