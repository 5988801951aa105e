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
def server_url(request: pytest.FixtureRequest) -> str:
    """Start the server that a test's store is on; synchronous, because that blocks."""
    callspec = getattr(request.node, "callspec", None)
    name = {"redis": "valkey", "postgres": "postgres"}.get(
        callspec.params.get("open_store", "") if callspec else ""
    )

    return str(request.getfixturevalue(name).url) if name else ""


@pytest.fixture
async def open_store(
    request: pytest.FixtureRequest, tmp_path: Path, server_url: str
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

                store = RedisJobStore.from_url(server_url)
            elif kind == "postgres":
                from amplitude_cohorts_async.contrib.postgres import (  # noqa: PLC0415
                    PostgresJobStore,
                )

                store = PostgresJobStore.from_url(server_url)
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
