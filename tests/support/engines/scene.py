"""One export by an engine, and what must hold when it is over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import attrs

from amplitude_cohorts_async.jobs import JobRecord

from .engine import DONE, Engine
from .service import COHORT, MEMBERS, Service


@attrs.frozen
class Scene:
    """An engine, the service, and the record of one export."""

    engine: Engine
    service: Service
    record: JobRecord

    @classmethod
    def of(cls, engine: Engine, service: Service) -> Scene:
        """Set up a scene in the folder of an engine."""
        record = JobRecord.new(
            COHORT, engine.workspace.folder / "files" / "a.csv", occurrence="monday"
        )
        return cls(engine, service, record)

    @property
    def file(self) -> Path:
        """The target."""
        assert self.record.to is not None
        return self.record.to

    async def submit(self) -> None:
        """Ask for the export."""
        self.file.parent.mkdir(exist_ok=True)
        await self.engine.submit(self.record)

    async def polled(self) -> None:
        """Wait until the job is polled: its id is in the store."""
        while not self.service.polls():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)

    async def killed(self) -> None:
        """Wait until a worker is dead, and let another one go on."""
        await self.engine.workspace.killed()
        await self.engine.start_worker()
        if not self.engine.restarts:
            await self.engine.submit(self.record)

    async def ends_well(self) -> None:
        """Wait for the end: one whole file, and one export."""
        assert DONE == await self.engine.ended(self.record)

        rows = self.file.read_text().splitlines()
        assert 1 + MEMBERS == len(rows) == len(set(rows))
        assert [self.file.name] == [path.name for path in self.file.parent.iterdir()]
        self.check_service(spent=1)

    async def ends_in_doubt(self, *, spent: int) -> None:
        """Wait for the end: nobody knows, no file, and nothing is spent again."""
        assert "AmbiguousExportError" == await self.engine.ended(self.record)

        assert [] == [*self.file.parent.iterdir()]
        self.check_service(spent=spent)

    def check_service(self, *, spent: int) -> None:
        """Compare what the service counted."""
        account = self.service.account()

        assert {} == account.violations
        assert spent == account.spent
