"""The fake vendor, a client that talks to it, and the time they share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock

from .canary import API_KEY, SECRET_KEY


@pytest.fixture
def clock() -> FakeClock:
    """A clock that jumps to the next deadline instead of waiting."""
    return FakeClock()


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """The emulator of the public plugin, with the canary keys as well."""
    return CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=FakeClock(flows=True)
    )


@pytest.fixture
async def emulator(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """A fake vendor on the test's own loop and clock, with the canary keys."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock
    ) as emulator:
        yield emulator


@pytest.fixture
async def client(
    emulator: CohortsEmulator, clock: FakeClock
) -> AsyncIterator[CohortsClient]:
    """A client of the emulator, with the limits that are documented."""
    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock
    ) as client:
        yield client
