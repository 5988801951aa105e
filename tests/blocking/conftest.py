"""A blocking client of the emulator; what its thread leaves is gone after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from amplitude_cohorts_async.blocking import CohortsClient, _portal
from amplitude_cohorts_async.testing import CohortsEmulator

COHORT = "26umsb5"


@pytest.fixture(autouse=True)
def portal_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a portal of its own: other tests fork, without its thread."""
    monkeypatch.setattr(_portal, "_portal", None)
    yield
    if _portal._portal is not None:
        _portal._portal.stop()

        assert not _portal._portal._thread.is_alive()


@pytest.fixture
def client(
    portal_ends: None, cohorts_emulator: CohortsEmulator
) -> Iterator[CohortsClient]:
    """A client, with a cohort of 25,000 members at the service, and one of ten."""
    cohorts_emulator.add_cohort(COHORT, size=25_000)
    cohorts_emulator.add_cohort("9apg8e8f", size=10)

    with CohortsClient.from_env(clock=cohorts_emulator.clock) as client:
        yield client
