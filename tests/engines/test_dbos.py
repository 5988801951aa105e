"""Exports as workflows of DBOS; what all engines promise is in `conformance`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engines.engine import DONE, Place
from support.engines.scene import Scene
from support.engines.service import Service, running_service
from support.requirements import require

require("dbos")

from amplitude_cohorts_async.contrib.dbos import VERSION, dbos_config  # noqa: E402
from support.engines.dbos import DbosEngine  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator in a process of its own."""
    with running_service() as service:
        yield service


@pytest.fixture
def place(tmp_path: Path, service: Service) -> Place:
    """Where DBOS works."""
    environment = {
        **service.environment,
        "AMPLITUDE_JOBS": str(tmp_path / "exports.db"),
        "AMPLITUDE_LIMITER_URL": f"sqlite:///{tmp_path}/limits.db",
    }
    return Place(folder=tmp_path, environment=environment)


def test_workers_have_ids_of_their_own_and_one_version() -> None:
    """Two processes of a machine differ; a deploy does not."""
    one, other = dbos_config(), dbos_config()

    assert one["executor_id"] != other["executor_id"]
    assert VERSION == one["application_version"] == other["application_version"]
    assert "pod-7" == dbos_config(executor_id="pod-7")["executor_id"]


async def test_one_process_on_sqlite(place: Place, service: Service) -> None:
    """It is killed after the answer was stored, and goes on under the same id."""
    url = f"sqlite:///{place.folder}/dbos.sqlite"

    async with DbosEngine(place, url) as engine:
        scene = Scene.of(engine, service)
        await engine.start_worker(dies="requested")
        await scene.submit()
        await place.killed()
        await engine.restart()

        await scene.ends_well()
        steps = await engine.steps(scene.record)

    # Killed between our store and the checkpoint: the step ran again, and spent nothing.
    assert "request" == steps[0]
    assert "download" == steps[-1]
    assert 1 == steps.count("download")


@pytest.mark.services
async def test_a_deploy_of_changed_code(
    place: Place, service: Service, dbos_url: str
) -> None:
    """Workflows that were added since do not keep a worker from going on."""
    async with DbosEngine(place, dbos_url) as engine:
        scene = Scene.of(engine, service)
        await engine.start_worker(dies="polled")
        await scene.submit()
        await place.killed()
        await engine.start_worker(release="2")

        await scene.ends_well()


@pytest.mark.services
async def test_another_attempt(place: Place, service: Service, dbos_url: str) -> None:
    """What ended with an error ends so for ever; another attempt goes on."""
    async with DbosEngine(place, dbos_url) as engine:
        scene = Scene.of(engine, service)
        scene.file.parent.write_text("no folder")
        await engine.start_worker()
        await engine.submit(scene.record)
        assert DONE != await engine.ended(scene.record)

        scene.file.parent.unlink()
        await scene.submit()
        assert DONE != await engine.ended(scene.record)
        await engine.submit(scene.record, attempt=2)
        assert DONE == await engine.ended(scene.record, attempt=2)

    assert 1 == service.account().spent


@pytest.mark.services
async def test_the_sweep_finds_what_others_left(
    place: Place, service: Service, dbos_url: str
) -> None:
    """An export of a call that was killed comes to its file."""
    async with DbosEngine(place, dbos_url) as engine:
        scene = Scene.of(engine, service)
        scene.file.parent.mkdir()
        await leave(scene)
        await engine.start_worker()
        while not await engine.is_known(scene.record):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)

        await scene.ends_well()


async def leave(scene: Scene) -> None:
    """Make the step that requests the export, and no other."""
    from support.engines.plain import in_process, tick  # noqa: PLC0415

    environment = scene.engine.place.of_worker(None)
    for _ in range(9):
        answer = await in_process(tick, scene.record.to_json(), environment)
        assert isinstance(answer, tuple)
        if scene.service.account().spent:
            return
    raise AssertionError(json.dumps(answer))
