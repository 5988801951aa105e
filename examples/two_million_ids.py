"""
Upload two million ids from a database cursor, and survive anything on the way.

Start it again after a crash: it goes on from its journal. To try it without an
account, run `amplitude-cohorts emulate` and export what it prints. An argument is another
number of ids.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from amplitude_cohorts_async import CohortsClient, IdType, errors
from amplitude_cohorts_async.events import BatchWritten, Event

JOURNAL = Path("buyers.journal")
COUNT = int(sys.argv[1]) if sys.argv[1:] else 2_000_000


async def buyers() -> AsyncIterator[str]:
    """
    Stand in for a cursor of your database: any async iterable will do.

    The order must be the same each time, or the journal cannot be resumed.
    """
    for number in range(COUNT):
        yield f"buyer-{number:07}"


def tell(event: Event) -> None:
    """Show each batch as it is accepted."""
    if isinstance(event, BatchWritten):
        print(f"batch {event.batch}: {event.ids:,} ids to cohort {event.cohort_id}")


async def main() -> None:
    """Make the cohort, or finish making it."""
    async with CohortsClient.from_env(hook=tell) as client:
        try:
            report = await client.upload_cohort(
                "Buyers", buyers(), id_type=IdType.USER_ID, journal=JOURNAL
            )
        except errors.PartialWriteError as error:
            print(f"{error.next_batch} batches are safe; start me again: {error}")
            return

    print(
        f"cohort {report.cohort_id}: {report.total:,} ids in {report.batches} requests"
    )


if __name__ == "__main__":
    asyncio.run(main())
