"""
The command `jobs run --forever` as a service, in each worker.

It finishes what is spent, so this process requests the exports, by ticks. Run with a
number it is that worker.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.cli import main
from amplitude_cohorts_async.jobs import JobRecord

from .common import Place, Workers, client, run, say_ready

_NOT_SPENT = {"", "queued", "attempted"}


@contextmanager
def prepare(place: Place) -> Iterator[Callable[[], None]]:
    """Start the processes."""
    with Workers(__spec__.name, place.workers):
        yield lambda: asyncio.run(request_all(place.records()))


async def request_all(records: list[JobRecord]) -> None:
    """Request all exports, and wait until the workers have finished them."""
    async with client() as cohorts:
        async with asyncio.TaskGroup() as group:
            for record in records:
                group.create_task(request(cohorts, record))

        while await cohorts.jobs(open_only=True):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.5)


async def request(cohorts: CohortsClient, record: JobRecord) -> None:
    """Make the steps of one export until it is spent."""
    while True:
        tick = await cohorts.tick(record)
        record = tick.record
        if record.state not in _NOT_SPENT:
            return
        await asyncio.sleep(tick.due_in or 0.0)


def work() -> None:
    """Be the command, with a client that is scaled."""
    CohortsClient.from_env = staticmethod(client)  # type: ignore[method-assign, assignment]
    say_ready()
    main(["jobs", "run", "--forever", "--quiet"])


if __name__ == "__main__":
    if sys.argv[1:]:
        work()
    else:
        run(prepare)
