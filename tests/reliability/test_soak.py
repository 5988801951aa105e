"""Sixty exports with faults: all end, none is spent twice, and nothing piles up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.jobs import SqliteJobStore
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support import soaking
from support.canary import API_KEY, SECRET_KEY
from support.scaled_emulator import account

EXPORTS = 60
CALLERS = 12

pytestmark = pytest.mark.forced


@pytest.fixture
async def troubled(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """A service whose every 25th answer is spoiled."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock
    ) as emulator:
        soaking.add_cohorts(emulator, EXPORTS)
        soaking.misbehave(emulator, share=0.04, seed=2)
        yield emulator


async def test_all_exports_end_and_nothing_piles_up(
    troubled: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """Every file comes, each spent export has a reason, and the process stays small."""
    folder = tmp_path / "files"
    folder.mkdir()
    store = SqliteJobStore(tmp_path / "exports.db")
    soak = soaking.Soak(EXPORTS)
    before = soaking.read()

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=troubled.base_url,
        clock=clock,
        jobs=store,
        stall_timeout=0.5,
    ) as client:
        names = soaking.cohort_ids(EXPORTS)
        await soaking.export_each(soak, client, names, folder, CALLERS)
    await store.aclose()

    seen = account(troubled)
    whole = [
        len(path.read_text().splitlines()) - 1 for path in sorted(folder.iterdir())
    ]
    assert EXPORTS == len(whole)
    assert {soaking.MEMBERS, 20 * soaking.MEMBERS} == {*whole}
    assert {} == seen.violations
    assert seen.spoiled
    # Fewer, where an attempt whose answer was lost had spent none.
    assert EXPORTS <= seen.spent <= EXPORTS + soak.given_up
    # The emulator is in this process, too, so that each connection counts twice.
    assert all(each.sockets <= before.sockets + 4 * CALLERS for each in soak.readings)
    assert all(each.tasks <= before.tasks + 6 * CALLERS for each in soak.readings)
    assert before.tasks == soaking.read().tasks
