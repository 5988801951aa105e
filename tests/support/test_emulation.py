"""The fixtures of the whole suite fit together."""

from __future__ import annotations

from pathlib import Path

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock


async def test_an_export_takes_no_time(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """Client and emulator share a clock, so an hour of work needs no waiting."""
    emulator.add_cohort("c1", members=["ann", "bob"])
    saved = await client.export("c1", tmp_path / "members.csv")

    assert tmp_path / "members.csv" == saved.path
    assert 0 < clock.now()
