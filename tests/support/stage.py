"""Several processes of one app, on one job store, before one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import CohortsError, ExportTimeoutError
from amplitude_cohorts_async.jobs import JobStore
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.models import ExportOutcome
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock

from .canary import API_KEY, SECRET_KEY
from .exporting import until
from .scripted_store import ScriptedStore

TEN = [f"cohort{number}" for number in range(10)]
DURABLE = [
    "sqlite",
    *(pytest.param(name, marks=pytest.mark.services) for name in ("redis", "postgres")),
]
ALL = ["memory", *DURABLE]
WITH_DIRECTORY = [*ALL, "directory"]
"""Where `export_many()` keeps a store itself, because its process has none."""

OpenStore: TypeAlias = Callable[[], JobStore]
"""Opens the store of a test once more, as another process does."""


@attrs.frozen
class Stage:
    """What is the same for all callers of a scene."""

    emulator: CohortsEmulator
    clock: FakeClock
    folder: Path
    open_store: OpenStore

    @property
    def spent(self) -> int:
        """The exports that the service counts."""
        return self.emulator.spent

    def client(self, store: JobStore | None = None, **options: Any) -> CohortsClient:
        """Make a client as in a process of its own."""
        return CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=self.emulator.base_url,
            jobs=self.open_store() if store is None else store,
            **{"clock": self.clock, "limits": UNLIMITED, **options},
        )

    def mortal(self, *, dies_before: str = "", dies_after: str = "") -> ScriptedStore:
        """Open the store for a client that is killed; nobody waits for its leases."""
        store = ScriptedStore(
            self.open_store(), dies_before=dies_before, dies_after=dies_after
        )
        store.lease = 0.0

        return store

    def path(self, name: str = "a.csv") -> Path:
        """Return a target."""
        return self.folder / name

    async def export(self, name: str = "a.csv", **options: Any) -> str:
        """Export the cohort in a process of its own; return the file's text."""
        async with self.client() as client:
            await client.export("c1", self.path(name), **options)

        return self.path(name).read_text()

    async def leave(self, name: str = "a.csv", way: str = "timed out") -> None:
        """Request an export, and leave while its job is polled."""
        async with self.client() as client:
            if way == "timed out":
                with pytest.raises(ExportTimeoutError):
                    await client.export("c1", self.path(name), timeout=11)
            else:
                before = self.emulator.requests("status")
                task = asyncio.ensure_future(client.export("c1", self.path(name)))
                await until(lambda: self.emulator.requests("status") > before)
                await ended(task)

    async def kill(self, *, after: str = "", before: str = "") -> None:
        """Let an export be killed right before or after its state is stored."""
        store = self.mortal(dies_before=before, dies_after=after)
        async with self.client(store) as client:
            await killed(client.export("c1", self.path()), store)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    with suppress(asyncio.CancelledError, CohortsError):
        await task


async def killed(work: Coroutine[Any, Any, object], store: ScriptedStore) -> None:
    """Let some work run until its store dies, and not on."""
    task = asyncio.ensure_future(work)
    death = asyncio.ensure_future(store.died.wait())
    await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
    await ended(death)
    assert store.died.is_set()
    await ended(task)


async def collect(outcomes: AsyncIterator[ExportOutcome]) -> list[ExportOutcome]:
    """Take all outcomes."""
    return [outcome async for outcome in outcomes]
