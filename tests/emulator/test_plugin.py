"""The pytest plugin, and the other ways to run an emulator."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from amplitude_cohorts_async import testing
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from amplitude_cohorts_async.testing.__main__ import main
from amplitude_cohorts_async.testing.demo import add_demo_cohorts, serve
from emulator.calling import basic, calling

SCRIPT = """
import os, urllib.request
origin = os.environ["AMPLITUDE_BASE_URL"]
try:
    urllib.request.urlopen(origin + "/api/3/cohorts")
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_in_a_plain_test(cohorts_emulator: CohortsEmulator) -> None:
    """It listens while a synchronous test runs, where the environment says."""
    cohorts_emulator.add_cohort("c1", members=["ann"])
    request = urllib.request.Request(
        os.environ["AMPLITUDE_BASE_URL"] + "/api/3/cohorts",
        headers={
            "Authorization": basic(
                os.environ["AMPLITUDE_API_KEY"], os.environ["AMPLITUDE_SECRET_KEY"]
            )
        },
    )

    with urllib.request.urlopen(request) as response:
        (listed,) = json.load(response)["cohorts"]

    assert "c1" == listed["id"]
    assert 1 == cohorts_emulator.requests("list")


async def test_in_an_asynchronous_test(cohorts_emulator: CohortsEmulator) -> None:
    """The same fixture; the clock is shared by both loops."""
    assert isinstance(cohorts_emulator.clock, FakeClock)
    cohorts_emulator.add_cohort("c1", members=["ann"], job_seconds=3600)

    async with calling(cohorts_emulator) as caller:
        request_id = await caller.export("c1")
        assert 404 == (await caller.file(request_id)).status

        await cohorts_emulator.clock.sleep(3600)
        assert 200 == (await caller.file(request_id)).status


def test_for_subprocesses(cohorts_emulator: CohortsEmulator) -> None:
    """They inherit the environment."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )

    assert "403\n" == done.stdout
    assert 1 == cohorts_emulator.requests("list")


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region of the outside world does not count meanwhile."""
    monkeypatch.setenv("AMPLITUDE_REGION", "EU")
    emulator = CohortsEmulator(app_id=7, owner="o")

    with emulator:
        environment = emulator.environment()

    assert {
        "AMPLITUDE_API_KEY": "demo-api-key",
        "AMPLITUDE_SECRET_KEY": "demo-secret-key",
        "AMPLITUDE_BASE_URL": emulator.base_url,
        "AMPLITUDE_APP_ID": "7",
        "AMPLITUDE_OWNER": "o",
    } == environment


@pytest.mark.parametrize("name", ["link_expired", "cut_off", "works"])
def test_faults_are_at_hand(name: str) -> None:
    """Every fault can be imported beside the emulator."""
    assert getattr(testing.faults, name) is getattr(testing, name)


def test_others_set_it_up_their_way(pytester: pytest.Pytester) -> None:
    """They opt in, and override one fixture for another emulator."""
    pytester.makeconftest(
        """
        pytest_plugins = ["amplitude_cohorts_async.testing.pytest_plugin"]
        """
    )
    pytester.makepyfile(
        """
        import os
        import pytest
        from amplitude_cohorts_async.testing import CohortsEmulator

        @pytest.fixture
        def cohorts_emulator_setup():
            return CohortsEmulator(api_key="mine")

        def test_mine(cohorts_emulator):
            assert os.environ["AMPLITUDE_API_KEY"] == "mine"
            assert "AMPLITUDE_REGION" not in os.environ
        """
    )
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider")

    done.assert_outcomes(passed=1)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["stdin", "signal"])
def test_as_a_process_of_its_own(ending: str, tmp_path: Path) -> None:
    """One line of JSON when it is ready; it ends with its parent, or by a signal."""
    command = [
        *(sys.executable, "-m", "amplitude_cohorts_async.testing"),
        *("--demo", "--size", "1000", "--cache-dir", str(tmp_path)),
        "--until-stdin-closes",
    ]

    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        facts = json.loads(process.stdout.readline())

        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(facts["base_url"] + "/api/3/cohorts")

        if ending == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)

        assert 0 == process.wait()
        assert b"" == process.stderr.read()

    assert ["demo2m01", "26umsb5", "9apg8e8f", "demogrp1"] == facts["cohorts"]
    assert process.pid == facts["pid"]


@pytest.mark.slow
def test_the_parts_come_when_used() -> None:
    """Importing the package costs next to nothing; unknown names are unknown."""
    script = """
import sys
import amplitude_cohorts_async.testing as testing
assert "aiohttp.web" not in sys.modules
assert "amplitude_cohorts_async.testing.emulator" not in sys.modules
for name in testing.__all__:
    assert getattr(testing, name)
assert not hasattr(testing, "nonsense")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


async def test_serve_announces_what_is_ready(tmp_path: Path) -> None:
    """The files of the demo are there before anybody is told of it."""
    emulator = CohortsEmulator(cache_dir=tmp_path)
    add_demo_cohorts(emulator, size=2_000)
    told: list[int] = []
    task = asyncio.create_task(
        serve(emulator, announce=lambda _: told.append(len(list(tmp_path.iterdir()))))
    )

    while not told:  # noqa: ASYNC110  a callback, not an event
        await asyncio.sleep(0.01)

    async with calling(emulator) as caller:
        cohorts = (await caller.get("/api/3/cohorts")).json["cohorts"]

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert [2] == told
    assert [2_000, 3, 25_000, 3] == [cohort["size"] for cohort in cohorts]
    assert "2,000 users, every tenth anonymous" == cohorts[0]["description"]


def test_a_process_without_input_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever wants it to end with its parent must have one."""
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        options = ["--no-limits", "--plain", "--until-stdin-closes"]

        assert 0 == main(
            [*options, "--demo", "--size", "10", "--cache-dir", str(tmp_path)]
        )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_any_address_of_this_machine(host: str) -> None:
    """The origins name the address that is listened on, whatever it was called."""
    try:
        async with CohortsEmulator(host=host) as emulator, calling(emulator) as caller:
            assert 200 == (await caller.get("/api/3/cohorts")).status
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")

    assert "localhost" not in emulator.base_url
