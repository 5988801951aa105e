"""
Export the project's larger cohorts every night, and only those that changed.

Needs AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY. Killed at any moment and
started again, it goes on where it was and spends no export twice.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from amplitude_cohorts_async import CohortsClient

DIRECTORY = Path("cohorts")
AT_LEAST = 10


async def main() -> None:
    """Run once."""
    DIRECTORY.mkdir(exist_ok=True)

    async with CohortsClient.from_env() as client:
        cohorts = await client.list_cohorts()
        ids = [cohort.id for cohort in cohorts if (cohort.size or 0) >= AT_LEAST]
        plan = await client.plan(ids)
        print(f"{plan.needed} exports at most, {plan.usage.remaining} left this month")

        async with client.export_many(ids, DIRECTORY, skip_unchanged=True) as outcomes:
            async for outcome in outcomes:
                print(outcome.cohort_id, outcome.saved or outcome.error)


if __name__ == "__main__":
    asyncio.run(main())
