"""
A pytest plugin: the fixture `cohorts_emulator`.

Opt in with ``pytest_plugins = ["amplitude_cohorts_async.testing.pytest_plugin"]``
in the `conftest.py` at the root of your tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .clock import FakeClock
from .emulator import CohortsEmulator

__all__ = ("cohorts_emulator", "cohorts_emulator_setup")


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """Return the emulator to run: override this fixture with one of yours."""
    # Time flows as well, for clients that keep to the real clock.
    return CohortsEmulator(clock=FakeClock(flows=True))


@pytest.fixture
def cohorts_emulator(
    cohorts_emulator_setup: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CohortsEmulator]:
    """
    Run an emulator for one test, and point the environment at it.

    It runs in a thread and an event loop of its own, so tests may be plain,
    or of any asynchronous plugin, or start subprocesses. Hand its clock to
    the client under test to skip all waiting:
    ``CohortsClient.from_env(clock=cohorts_emulator.clock)``.
    """
    with cohorts_emulator_setup as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)

        monkeypatch.delenv("AMPLITUDE_REGION", raising=False)

        yield emulator
