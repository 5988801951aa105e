"""
The world in which the documents' examples run: a fake vendor, and time that jumps.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator

IDS = [f"user-{number}" for number in range(100)]


@pytest.fixture
def world(
    cohorts_emulator: CohortsEmulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> CohortsEmulator:
    """An empty folder with `ids.txt`, two cohorts, and no need to wait for anything."""
    from_env = partial(CohortsClient.from_env, clock=cohorts_emulator.clock)
    monkeypatch.setattr(CohortsClient, "from_env", from_env)

    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("\n".join(IDS))
    cohorts_emulator.add_cohort("26umsb5", members=IDS)
    cohorts_emulator.add_cohort("9apg8e8f", size=50)

    return cohorts_emulator
