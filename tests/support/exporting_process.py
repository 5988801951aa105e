"""
A process that exports one cohort, to be killed.

Run as a module, it prints how many exports it spent, and how many are in doubt.
"""

from __future__ import annotations

import asyncio
import sys

import attrs

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import AmbiguousExportError
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.policies import Polling

from .canary import API_KEY, SECRET_KEY
from .processes import start_module


@attrs.frozen
class Exporter:
    """
    What one process does.

    Attributes:
        service: The address of the emulator.

        store: What `jobs=` says.

        way: "export", or "many" for all cohorts named by *names*.
    """

    service: str
    store: str
    target: str
    way: str = "export"
    names: str = "c1"

    async def start(self) -> asyncio.subprocess.Process:
        """Start the process."""
        return await start_module("support.exporting_process", *attrs.astuple(self))

    async def spent(self) -> int:
        """Start the process, and tell at its end what it spent; nothing is in doubt."""
        spent, in_doubt = await self.told()
        assert 0 == in_doubt

        return spent

    async def told(self) -> tuple[int, int]:
        """Start the process, and return at its end what it spent, and the doubts."""
        process = await self.start()
        told, complaints = await process.communicate()
        assert 0 == process.returncode, complaints.decode()
        spent, in_doubt = map(int, told.split())

        return spent, in_doubt

    async def work(self) -> tuple[int, int]:
        """Export, and tell how many exports were spent, and are in doubt."""
        async with CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=self.service,
            limits=UNLIMITED,
            polling=Polling(initial_delay=0.05, interval=0.05),
            jobs=self.store or None,
        ) as client:
            if self.way == "export":
                return (await client.export(self.names, self.target)).spent, 0

            batch = client.export_many(self.names.split(","), self.target)
            outcomes = [outcome async for outcome in batch]
            errors = [outcome.error for outcome in outcomes]
            return (
                sum(outcome.spent for outcome in outcomes),
                sum(isinstance(error, AmbiguousExportError) for error in errors),
            )


if __name__ == "__main__":
    sys.stdout.write("{} {}".format(*asyncio.run(Exporter(*sys.argv[1:]).work())))
