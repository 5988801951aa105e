"""Every job store of ours, as often as a test opens it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from amplitude_cohorts_async.jobs import JobStore, MemoryJobStore, SqliteJobStore
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas
from support.canary import API_KEY, SECRET_KEY
from support.stage import TEN, OpenStore, Stage


@pytest.fixture
async def open_store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[OpenStore]:
    """Open the store that a test is parametrised with."""
    kind = getattr(request, "param", "memory")
    memory = MemoryJobStore()
    folder = tmp_path / "store"
    folder.mkdir()

    async with AsyncExitStack() as stack:

        def open_one() -> JobStore:
            """Open it."""
            store: JobStore = memory
            if kind == "directory":
                store = MemoryJobStore()
            elif kind == "sqlite":
                store = SqliteJobStore(folder / "exports.db")
            elif kind == "redis":
                from amplitude_cohorts_async.contrib.redis import (  # noqa: PLC0415
                    RedisJobStore,
                )

                url = request.getfixturevalue("valkey").url
                store = RedisJobStore.from_url(url)
            elif kind == "postgres":
                from amplitude_cohorts_async.contrib.postgres import (  # noqa: PLC0415
                    PostgresJobStore,
                )

                store = PostgresJobStore.from_url(
                    request.getfixturevalue("postgres").url
                )
            stack.push_async_exit(aclosing(store))
            return store

        yield open_one


@pytest.fixture
async def stage(
    clock: FakeClock, tmp_path: Path, open_store: OpenStore
) -> AsyncIterator[Stage]:
    """A service without windows, whose cohorts are older than the test."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=Quotas(windows=())
    ) as emulator:
        emulator.add_cohort("c1", members=["ann", "bob"], job_seconds=100)
        for cohort_id in TEN:
            emulator.add_cohort(cohort_id, members=["ann"])
        yield Stage(emulator, clock, tmp_path, open_store)
