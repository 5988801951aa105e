"""
Plain asyncio: each process exports its share with `export_many()`.

Run with a number it is that worker.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .common import Place, Workers, client, run, say_ready


@contextmanager
def prepare(place: Place) -> Iterator[Callable[[], None]]:
    """Start the processes."""
    with Workers(__spec__.name, place.workers) as workers:
        yield workers.work


async def work(number: int) -> None:
    """Export every n-th cohort."""
    place = Place.here()

    async with client() as cohorts:
        say_ready()
        await asyncio.to_thread(sys.stdin.readline)
        share = place.cohorts[number :: place.workers]
        async for outcome in cohorts.export_many(share, place.folder):
            if outcome.error is not None:
                raise outcome.error


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(work(int(sys.argv[1])))
    else:
        run(prepare)
