"""What the emulator's own tests use: a plain client, and the vendor's samples."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator
from emulator.calling import Caller, calling

DATA = Path(__file__).parents[1] / "data" / "vendor"


@pytest.fixture
async def caller(emulator: CohortsEmulator) -> AsyncIterator[Caller]:
    """A plain client of the suite's emulator."""
    async with calling(emulator) as caller:
        yield caller


@pytest.fixture
def sample() -> Callable[[str], Any]:
    """Read a sample of the vendor's page."""
    return lambda name: json.loads((DATA / f"{name}.json").read_text())
