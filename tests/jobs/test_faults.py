"""A store on disk that is locked, full, closed or gone, before and after a purchase."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import JobStoreUnavailableError
from amplitude_cohorts_async.jobs import SqliteJobStore, Work
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY

T = TypeVar("T")


class Disk(SqliteJobStore):
    """A store to whose file something happens right after the purchase."""

    def __init__(self, path: Path, emulator: CohortsEmulator) -> None:
        super().__init__(path)
        # It does not wait long for others.
        self._database.options = attrs.evolve(self._database.options, busy_seconds=0.05)
        self.after_the_purchase: Callable[[], None] | None = None
        self._emulator = emulator
        self._holder: sqlite3.Connection | None = None

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Act first, if something is spent."""
        if self._emulator.spent and self.after_the_purchase:
            act, self.after_the_purchase = self.after_the_purchase, None
            await asyncio.to_thread(act)

        return await super().transact(app, group, work)

    def seize(self) -> None:
        """Hold the file, as another process may."""
        self._holder = sqlite3.connect(self.path, check_same_thread=False)
        self._holder.execute("BEGIN EXCLUSIVE")

    def free(self) -> None:
        """Let others write again."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def lose(self) -> None:
        """Remove the file."""
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()

    async def fill(self) -> None:
        """Leave no room for one more row."""

        def forbid(connection: sqlite3.Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

        await self._database.run(forbid)
        for size in (4_000, 1_000, 200, 50, 10):
            number = 0
            while await self._takes(f"{size}-{number}", size):
                number += 1

    async def _takes(self, key: str, size: int) -> bool:
        try:
            await super().transact(
                "other", "group", lambda rows, _: rows.update({key: "x" * size})
            )
        except JobStoreUnavailableError:
            return False

        return True


@pytest.fixture
async def disk(emulator: CohortsEmulator, tmp_path: Path) -> AsyncIterator[Disk]:
    """The store of the client."""
    disk = Disk(tmp_path / "exports.db", emulator)
    yield disk
    await asyncio.to_thread(disk.free)
    await disk.aclose()


@pytest.fixture
async def client(
    emulator: CohortsEmulator, clock: FakeClock, disk: Disk
) -> AsyncIterator[CohortsClient]:
    """A client of that store, which was in use before."""
    emulator.add_cohort("c1", members=["ann"])
    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock, jobs=disk
    ) as client:
        await disk.groups("app")
        yield client


async def test_locked_before_the_purchase(
    client: CohortsClient, emulator: CohortsEmulator, disk: Disk, tmp_path: Path
) -> None:
    """Nothing is spent, and the error says what is locked; then it goes on."""
    await asyncio.to_thread(disk.seize)

    with pytest.raises(JobStoreUnavailableError, match=r"exports\.db.*locked"):
        await client.export("c1", tmp_path / "a.csv")

    assert 0 == emulator.spent == emulator.requests("export")
    await asyncio.to_thread(disk.free)
    await client.export("c1", tmp_path / "a.csv")
    assert 1 == emulator.spent


async def test_locked_after_the_purchase(
    client: CohortsClient,
    disk: Disk,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The file comes, the token is in the log, and the record when it is free again."""
    disk.after_the_purchase = disk.seize

    saved = await client.export("c1", tmp_path / "a.csv")
    told = [each for each in caplog.records if each.levelno == logging.WARNING]
    await asyncio.to_thread(disk.free)
    (record,) = await client.jobs()

    assert any(saved.token in each.getMessage() for each in told)
    assert (saved.token, "ready") == (record.token, record.state)


async def test_locked_until_the_client_is_closed(
    client: CohortsClient,
    emulator: CohortsEmulator,
    clock: FakeClock,
    disk: Disk,
    tmp_path: Path,
) -> None:
    """What could not be recorded is recorded at the end."""
    disk.after_the_purchase = disk.seize
    saved = await client.export("c1", tmp_path / "a.csv")
    await asyncio.to_thread(disk.free)
    await client.aclose()

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock, jobs=disk.path
    ) as other:
        (record,) = await other.jobs()

    assert (saved.token, "ready") == (record.token, record.state)


async def test_full_before_the_purchase(
    client: CohortsClient, emulator: CohortsEmulator, disk: Disk, tmp_path: Path
) -> None:
    """Nothing is spent."""
    await disk.fill()

    with pytest.raises(JobStoreUnavailableError, match="full"):
        await client.export("c1", tmp_path / "a.csv")

    assert 0 == emulator.spent == emulator.requests("export")


async def test_closed_in_between(
    client: CohortsClient, emulator: CohortsEmulator, disk: Disk, tmp_path: Path
) -> None:
    """Whoever closes a store that others use does not stop them."""
    await client.export("c1", tmp_path / "a.csv")
    await disk.aclose()
    await client.export("c1", tmp_path / "b.csv")

    assert 2 == emulator.spent == len(await client.jobs())


async def test_removed_after_the_purchase(
    client: CohortsClient, emulator: CohortsEmulator, disk: Disk, tmp_path: Path
) -> None:
    """What was spent is recorded in the file that is made anew."""
    disk.after_the_purchase = disk.lose

    saved = await client.export("c1", tmp_path / "a.csv")
    (record,) = await client.jobs()

    assert (saved.token, "ready") == (record.token, record.state)
    assert 1 == emulator.spent
