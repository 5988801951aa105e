"""Tasks in Airflow's own processes: a scheduler with workers, and a triggerer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engines.airflow_fleet import (
    KILLED,
    QUICK,
    SLOW,
    TRIED,
    Fleet,
    airflow,
)
from support.engines.service import MEMBERS, Service, running_service
from support.requirements import require

require("airflow")

pytestmark = [pytest.mark.slow, pytest.mark.services]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The emulator in a process of its own."""
    with running_service() as service:
        yield service


@pytest.fixture(scope="module")
def home(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Airflow with its tables, and without a process that goes on."""
    with airflow(tmp_path_factory.mktemp("airflow"), service) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def fleet(home: Fleet) -> Fleet:
    """Airflow with all its processes; after the tests that need none."""
    home.start()

    return home


def assert_whole(path: Path) -> None:
    """Assert that a file has all members."""
    assert 1 + MEMBERS == len(path.read_text().splitlines())


def test_the_wheel_is_a_provider(home: Fleet) -> None:
    """Airflow lists it, by what is installed and not by this checkout."""
    environment = {**home.environment, "PYTHONPATH": ""}
    command = Path(sys.executable).with_name("airflow")

    listed = subprocess.run(
        [command, "providers", "list", "--output", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    names = {each["package_name"] for each in json.loads(listed.stdout)}
    assert "amplitude-cohorts-async" in names


def test_dags_test(home: Fleet, service: Service) -> None:
    """As people try out a dag: one process, in which triggers run, too."""
    spent = service.account().spent

    home.run("dags", "test", TRIED)

    (file,) = home.home.glob("*.csv")
    assert_whole(file)
    assert spent + 1 == service.account().spent


async def test_an_export_that_is_cleared(fleet: Fleet, service: Service) -> None:
    """It is brought once more, and was spent once."""
    spent = service.account().spent
    run_id = fleet.trigger(QUICK)
    file = fleet.home / f"{run_id}.csv"
    assert "success" == await fleet.ended(run_id), fleet.said
    assert_whole(file)

    file.unlink()
    tries = fleet.tries(run_id)
    fleet.clear(QUICK)

    assert "success" == await fleet.ended(run_id), fleet.said
    assert tries < fleet.tries(run_id)
    assert_whole(file)
    assert spent + 1 == service.account().spent


async def test_a_worker_that_is_killed(fleet: Fleet, service: Service) -> None:
    """The retry goes on with what was spent."""
    spent = service.account().spent

    run_id = fleet.trigger(KILLED)

    assert "success" == await fleet.ended(run_id), fleet.said
    assert 2 <= fleet.tries(run_id)
    assert_whole(fleet.home / f"{run_id}.csv")
    assert spent + 1 == service.account().spent


async def test_a_triggerer_that_is_killed(fleet: Fleet, service: Service) -> None:
    """The next one polls on, and nothing more is spent."""
    spent, polls = service.account().spent, service.polls()
    run_id = fleet.trigger(SLOW)
    await fleet.deferred(run_id)
    while service.polls() == polls:  # noqa: ASYNC110 - another process does
        await asyncio.sleep(0.05)

    fleet.kill_triggerer()
    polls = service.polls()
    fleet.start_triggerer()

    assert "success" == await fleet.ended(run_id), fleet.said
    assert_whole(fleet.home / f"{run_id}.csv")
    # One by the triggerer, and one by the worker that brought the file.
    assert polls + 2 <= service.polls()
    assert spent + 1 == service.account().spent
    assert {} == service.account().violations
