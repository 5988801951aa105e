"""
A process that exports one cohort, to be killed.

Run as a module, it prints how many exports it spent.
"""

from __future__ import annotations

import asyncio
import sys

import attrs

from amplitude_cohorts_async import CohortsClient
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
        """Start the process, and tell at its end what it spent."""
        process = await self.start()
        told, complaints = await process.communicate()
        assert 0 == process.returncode, complaints.decode()

        return int(told)

    async def work(self) -> int:
        """Export, and tell how many exports were spent."""
        async with CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=self.service,
            limits=UNLIMITED,
            polling=Polling(initial_delay=0.05, interval=0.05),
            jobs=self.store or None,
        ) as client:
            if self.way == "export":
                return (await client.export(self.names, self.target)).spent

            batch = client.export_many(self.names.split(","), self.target)
            return sum([outcome.spent async for outcome in batch])


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(Exporter(*sys.argv[1:]).work())))
