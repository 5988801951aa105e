"""The store of a directory, beside the memory of a process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import Mock

import attrs
import pytest

from amplitude_cohorts_async._core.job_rows import (
    CohortRows,
    ExportRow,
    Lease,
    Rows,
    read_cohort,
    write_cohort,
)
from amplitude_cohorts_async._io.jobs import memory as memory_module
from amplitude_cohorts_async._io.jobs import sqlite as sqlite_module
from amplitude_cohorts_async._io.jobs.paired import PairedJobStore
from amplitude_cohorts_async.errors import JobStoreUnavailableError
from amplitude_cohorts_async.jobs import JobStore, MemoryJobStore, SqliteJobStore
from support.rows import NOW
from support.scripted_store import ScriptedStore

EXPORT = ExportRow(id="e1", cohort_id="c1", created_at=NOW)


def paired(path: Path, memory: MemoryJobStore | None = None) -> PairedJobStore:
    """A process of its own, unless its memory is given."""
    return PairedJobStore(memory or MemoryJobStore(), SqliteJobStore(path))


def lease(rows: Rows, now: float) -> None:
    """Store an export with a lease of fifteen seconds."""
    held = Lease(owner="me", number=1, until=now + 15)
    write_cohort(rows, CohortRows(exports={"e1": attrs.evolve(EXPORT, lease=held)}))


def left(rows: Rows, now: float) -> float:
    """Return the seconds that the lease is still held."""
    held = read_cohort(rows).exports["e1"].lease
    assert held is not None

    return held.until - now


async def of_group(store: JobStore) -> dict[str, str]:
    """Return the rows of the group."""
    return await store.transact("app", "group", lambda rows, _: dict(rows))


async def test_what_one_process_stored_another_sees(tmp_path: Path) -> None:
    """Through the file, though each has a memory of its own."""
    one, other = paired(tmp_path / "a.db"), paired(tmp_path / "a.db")
    await one.transact("app", "group", lease)

    assert await of_group(one) == await of_group(other) != {}
    assert ["group"] == await other.groups("app")
    await one.aclose()
    await other.aclose()


async def test_a_boot_ends_the_leases_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that ran for days was switched off in the middle of a run."""

    def boot(name: str, seconds: float) -> None:
        monkeypatch.setattr(sqlite_module, "this_boot", lambda: name)
        monkeypatch.setattr(sqlite_module, "seconds_since_boot", lambda: seconds)
        monkeypatch.setattr(memory_module, "time", Mock(monotonic=lambda: seconds))

    boot("one", 1_000_000.0)
    store = paired(tmp_path / "a.db")
    await store.transact("app", "group", lease)
    await store.aclose()

    boot("two", 50.0)
    store = paired(tmp_path / "a.db")
    assert await store.transact("app", "group", left) < 0
    await store.aclose()


async def test_a_lease_is_as_long_in_the_memory_alone(tmp_path: Path) -> None:
    """The two have clocks of their own."""
    memory = MemoryJobStore()
    store = paired(tmp_path / "a.db", memory)

    await store.transact("app", "group", lease)
    assert pytest.approx(15, abs=5) == await memory.transact("app", "group", left)

    await memory.transact("app", "group", lease)
    assert pytest.approx(15, abs=5) == await store.transact("app", "group", left)
    await store.aclose()


async def test_what_the_file_does_not_take_is_not_in_memory_either() -> None:
    """It has not happened."""
    memory, beside = MemoryJobStore(), ScriptedStore()
    store = PairedJobStore(memory, beside)
    await store.transact("app", "group", lease)
    before = await of_group(memory)
    beside.refuses = {"*"}

    with pytest.raises(JobStoreUnavailableError):
        await store.transact("app", "group", lambda rows, _: rows.clear())

    assert before == await of_group(memory)


async def test_callers_of_the_memory_alone_take_turns_with_it(tmp_path: Path) -> None:
    """A name is held in both or in none."""
    memory = MemoryJobStore()
    order: list[str] = []

    async def hold(store: JobStore, name: str) -> None:
        async with store.lock("name"):
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    await asyncio.gather(hold(paired(tmp_path, memory), "a"), hold(memory, "b"))

    assert ["a in", "a out", "b in", "b out"] == order
