"""When the command asks for an export's status."""

from __future__ import annotations

import pytest

from amplitude_cohorts_async.cli.common import Connection
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock


def polling(connection: Connection) -> object:
    """Return what the client is told, if anything."""
    return connection._overrides().get("polling")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080", "http://localhost:8080/x", "http://[::1]:80"],
)
def test_a_service_on_this_machine_is_asked_each_second(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    """An option and a variable alike."""
    monkeypatch.delenv("AMPLITUDE_BASE_URL", raising=False)
    soon = Polling(initial_delay=1.0, interval=1.0)
    assert soon == polling(Connection(base_url=url))

    monkeypatch.setenv("AMPLITUDE_BASE_URL", url)
    assert soon == polling(Connection())


@pytest.mark.parametrize(
    "url", ["", "https://amplitude.com", "https://10.0.0.1", "http://[", "nonsense"]
)
def test_another_service_is_asked_as_the_library_does(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    """Its polls take slots."""
    monkeypatch.setenv("AMPLITUDE_BASE_URL", url)

    assert polling(Connection()) is None


def test_a_region_overrides_the_variable(monkeypatch: pytest.MonkeyPatch):
    """It is the live service that is asked then."""
    monkeypatch.setenv("AMPLITUDE_BASE_URL", "http://127.0.0.1:80")

    assert polling(Connection(region="us")) is None


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """A service whose jobs take three seconds."""
    return CohortsEmulator(job_seconds=3.0, clock=FakeClock())


def test_an_emulated_job_is_saved_soon(
    command, cohorts_emulator: CohortsEmulator, tmp_path
):
    """A job of three seconds does not wait for ten."""
    cohorts_emulator.add_cohort("c1", members=["ann"])
    before = cohorts_emulator.clock.now()
    code, _, _ = command("export", "c1", "-o", tmp_path / "c1.csv")

    assert 0 == code
    assert 6 > cohorts_emulator.clock.now() - before
