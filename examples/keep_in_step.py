"""
Make a cohort equal to a file of ids, every night, without surprises.

One export a night tells who is there; only the difference is sent.
"""

from __future__ import annotations

import asyncio
import sys

from amplitude_cohorts_async import CohortsClient, errors, read_ids

COHORT = "26umsb5"


async def main() -> None:
    """Sync, unless suspiciously many members would go."""
    async with CohortsClient.from_env() as client:
        try:
            report = await client.sync_membership(
                COHORT, read_ids("ids.txt"), max_removed=0.2
            )
        except errors.RemovalGuardError as error:
            sys.exit(f"{error.removed:,} of {error.current:,} would go: {error}")

    print(f"added {len(report.add):,}, removed {len(report.remove):,}")

    if report.unnameable:
        print(f"{report.unnameable:,} members have no user id and were left alone")


if __name__ == "__main__":
    asyncio.run(main())
