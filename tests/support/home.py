"""The command in this process: a home of its own, and time that jumps."""

from __future__ import annotations

from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator


@pytest.fixture
def home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty home: what the command records and reads is never ours."""
    home = tmp_path_factory.mktemp("home")
    for name in ("AMPLITUDE_JOBS", "AMPLITUDE_LIMITER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))

    return home


@pytest.fixture
def no_waiting(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The command shares the emulator's clock, which jumps.

    So its limiter is not the one of the machine, which waits for the real time.
    """
    original = CohortsClient.from_env
    clock = cohorts_emulator.clock
    monkeypatch.setattr(
        CohortsClient,
        "from_env",
        lambda **given: original(**{**given, "clock": clock, "limiter": None}),
    )
