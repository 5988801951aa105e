"""All of it in one call."""

from __future__ import annotations

from pathlib import Path

import pytest

from amplitude_cohorts_async import export_cohort
from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.testing import CohortsEmulator


async def test_a_cohort_is_exported_with_the_environments_keys(
    cohorts_emulator: CohortsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lines of a program are a whole export."""
    monkeypatch.setattr(
        "amplitude_cohorts_async._operations.SystemClock",
        lambda: cohorts_emulator.clock,
    )
    cohorts_emulator.add_cohort("c1", members=["ann", "bob"])

    saved = await export_cohort("c1", tmp_path / "members.csv")

    assert 2 == saved.rows
    assert 1 == cohorts_emulator.spent


async def test_without_keys_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable to set."""
    monkeypatch.delenv("AMPLITUDE_API_KEY", raising=False)

    with pytest.raises(ConfigurationError, match="AMPLITUDE_API_KEY"):
        await export_cohort("c1", tmp_path / "members.csv")
