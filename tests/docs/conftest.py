"""
The world in which the documents' examples run: a fake vendor, and time that jumps.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
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
    if find_spec("fastapi"):
        kit = import_module("amplitude_cohorts_async.contrib.fastapi")
        exports = partial(kit.CohortExports, clock=cohorts_emulator.clock)
        monkeypatch.setattr(kit, "CohortExports", exports)
    really_sleep = asyncio.sleep

    def sleep(seconds: float, *result: object) -> Awaitable[object]:
        """Sleep for a document by the clock of its client, for others really."""
        if sys._getframe(1).f_code.co_filename.endswith(".md"):
            return cohorts_emulator.clock.sleep(seconds)
        return really_sleep(seconds, *result)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("\n".join(IDS))
    cohorts_emulator.add_cohort("26umsb5", members=IDS)
    cohorts_emulator.add_cohort("9apg8e8f", size=50)

    return cohorts_emulator
