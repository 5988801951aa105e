"""A process with many projects, none of which has anything to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.many_apps import Costs, Scene, names, service
from support.processes import start_module

if TYPE_CHECKING:
    from support.fleet_stores import FleetStore

pytestmark = pytest.mark.slow

KIB = 1024
APPS = 60


async def costs(scene: Scene) -> Costs:
    """Have a process with many apps."""
    process = await start_module("support.many_apps", scene.json())
    told, complaints = await process.communicate()
    assert 0 == process.returncode, complaints.decode()

    return Costs(**json.loads(told))


def check(costs: Costs) -> None:
    """See that an idle app costs a little memory, and nothing else."""
    assert costs.memory <= 64 * KIB
    assert (0, 0, 0) == (costs.threads, costs.sockets, costs.files)


@pytest.mark.parametrize("shares", [False, True])
async def test_an_idle_app_costs_no_thread_no_socket_and_no_file(
    shares: bool, tmp_path: Path
) -> None:
    """At most 64 KiB: alone, and with files that all apps share."""
    file = f"sqlite:///{tmp_path}/cohorts.db" if shares else ""

    async with service() as base_url:
        scene = Scene(
            apps=APPS,
            base_url=base_url,
            limiter=file,
            jobs=file and f"{file}.jobs",
            idle=0.2,
        )
        check(await costs(scene))


@pytest.mark.services
async def test_an_idle_app_of_a_fleet_costs_no_socket(fleet_store: FleetStore) -> None:
    """And no more memory than one alone."""
    url = fleet_store.server.url

    async with service() as base_url:
        fleet_store.use(*names(APPS, base_url))
        scene = Scene(apps=APPS, base_url=base_url, limiter=url, jobs=url, idle=0.2)
        check(await costs(scene))
