"""Exports as workflows of DBOS; what all engines promise is in `conformance`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.jobs import JobRecord
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator, faults
from support.engines.dying import HOLD
from support.engines.engine import DONE, Workspace
from support.engines.scene import Scene
from support.engines.service import Service
from support.requirements import require

require("dbos")

from dbos import DBOS  # noqa: E402

from amplitude_cohorts_async.contrib import dbos as contrib  # noqa: E402
from amplitude_cohorts_async.contrib.dbos import (  # noqa: E402
    VERSION,
    WORKFLOW,
    CohortExports,
    dbos_config,
)
from support.engines.dbos import DbosEngine  # noqa: E402

pytestmark = pytest.mark.slow


def test_workers_have_ids_of_their_own_and_one_version() -> None:
    """Two processes of a machine differ; a deploy does not."""
    one, other = dbos_config(), dbos_config()

    assert one["executor_id"] != other["executor_id"]
    assert VERSION == one["application_version"] == other["application_version"]
    assert "pod-7" == dbos_config(executor_id="pod-7")["executor_id"]


@pytest.fixture
def exports(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CohortExports]:
    """DBOS in this process, on a file of its own; it sweeps when a test says so."""
    monkeypatch.setenv("AMPLITUDE_JOBS", str(tmp_path / "exports.db"))
    cohorts_emulator.add_cohort("c1", members=["a", "b"])
    exports = CohortExports(client=quick_client, overdue_after=0.0)
    DBOS(config=dbos_config(f"sqlite:///{tmp_path}/dbos.sqlite"))

    try:
        DBOS.launch()
        exports.listen(sweep_schedule="0 0 29 2 *")
        yield exports
    finally:
        DBOS.destroy(destroy_registry=True)


async def leave(record: JobRecord, emulator: CohortsEmulator) -> None:
    """Spend an export, and go on no further."""
    async with quick_client() as client:
        while not emulator.spent:
            await client.tick(record)


async def sweep(exports: CohortExports) -> None:
    """Sweep once, to the end."""
    handle = await DBOS.start_workflow_async(
        exports._sweep_workflow, datetime.now(UTC), None
    )
    await handle.get_result()


def quick_client() -> CohortsClient:
    """Return one that polls often."""
    often = Polling(initial_delay=0.05, interval=0.05, jitter=0.0)
    return CohortsClient.from_env(polling=often)


async def test_an_export(
    exports: CohortExports, cohorts_emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Asked for twice, it is one workflow, whose result says where the file is."""
    record = JobRecord.new("c1", tmp_path / "a.csv", occurrence="monday")

    handle = await exports.start(record)
    again = await exports.start(JobRecord.from_json(record.to_json()))

    exported = await handle.get_result()
    assert record.key == handle.workflow_id
    assert exported == await again.get_result()
    assert str(tmp_path / "a.csv") == exported["path"]
    assert (tmp_path / "a.csv").stat().st_size == exported["size"]
    assert 1 == cohorts_emulator.spent


async def test_what_a_later_step_mends_is_logged(
    exports: CohortExports,
    cohorts_emulator: CohortsEmulator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And the workflow goes on."""
    record = JobRecord.new("c1", tmp_path / "a.csv", occurrence="monday")
    cohorts_emulator.fail_next("status", faults.broken())

    await (await exports.start(record)).get_result()

    assert any(
        each.startswith(f"{record.key} is tried again: ") for each in caplog.messages
    )


@pytest.mark.parametrize(("name", "suffix"), [("a.csv", None), ("a.txt", "csv")])
async def test_a_sweep(
    exports: CohortExports,
    cohorts_emulator: CohortsEmulator,
    tmp_path: Path,
    name: str,
    suffix: str | None,
) -> None:
    """It starts what others left, under the id that it would have had with them."""
    file = tmp_path / name
    record = JobRecord.new("c1", file, occurrence="monday", format=suffix)
    await leave(record, cohorts_emulator)

    await sweep(exports)

    handle = await DBOS.retrieve_workflow_async(record.key)
    assert str(file) == (await handle.get_result())["path"]
    assert [handle.workflow_id] == [
        each.workflow_id for each in await DBOS.list_workflows_async(name=WORKFLOW)
    ]
    assert 1 == cohorts_emulator.spent


async def test_a_sweep_leaves_alone_what_one_host_has_to_go_on_with(
    exports: CohortExports, cohorts_emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Any worker may take a workflow: on another host it would end in an error."""
    record = JobRecord.new("c1", tmp_path / "a.csv")
    await leave(record, cohorts_emulator)

    await sweep(exports)

    assert [] == await DBOS.list_workflows_async(name=WORKFLOW)


def test_the_example_of_the_page(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It brings a file, with a database and a folder that are here."""
    page = Path(__file__).parents[2] / "docs/howto/engines.md"
    chapter = page.read_text().partition("## DBOS")[2]
    code = chapter.partition("```python\n")[2].partition("```")[0]
    code = code.replace("postgresql://jobs.internal/jobs", f"sqlite:///{tmp_path}/db")
    code = code.replace("/data/", f"{tmp_path}/")
    monkeypatch.setenv("AMPLITUDE_JOBS", str(tmp_path / "exports.db"))
    quick = partial(CohortExports, client=quick_client)
    monkeypatch.setattr(contrib, "CohortExports", quick)
    cohorts_emulator.add_cohort("c1", members=["a", "b"])
    names: dict[str, Any] = {}

    try:
        exec(code, names)
        path = asyncio.run(names["export"]("c1", "monday"))
    finally:
        DBOS.destroy(destroy_registry=True)

    assert str(tmp_path / "c1-monday.csv") == path
    assert 1 == cohorts_emulator.spent


async def test_one_process_on_sqlite(workspace: Workspace, service: Service) -> None:
    """It is killed after the answer was stored, and goes on under the same id."""
    url = f"sqlite:///{workspace.folder}/dbos.sqlite"

    async with DbosEngine(workspace, url) as engine:
        scene = Scene.of(engine, service)
        await engine.start_worker(dies="requested")
        await scene.submit()
        await workspace.killed()
        await engine.restart()

        await scene.ends_well()
        steps = await engine.steps(scene.record)

    # Killed between our store and the checkpoint: the step ran again, and spent nothing.
    assert "request" == steps[0]
    assert "download" == steps[-1]
    assert 1 == steps.count("download")


@pytest.mark.services
async def test_a_deploy_of_changed_code(
    workspace: Workspace, service: Service, dbos_url: str
) -> None:
    """Workflows that were added since do not keep a worker from going on."""
    async with DbosEngine(workspace, dbos_url) as engine:
        scene = Scene.of(engine, service)
        await engine.start_worker(dies="polled")
        await scene.submit()
        await workspace.killed()
        await engine.start_worker(release="2")

        await scene.ends_well()


@pytest.mark.services
async def test_another_attempt(
    workspace: Workspace, service: Service, dbos_url: str
) -> None:
    """What ended with an error ends so for ever; another attempt goes on."""
    async with DbosEngine(workspace, dbos_url) as engine:
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
async def test_a_download_that_takes_longer_than_a_step_may(
    workspace: Workspace, service: Service, dbos_url: str
) -> None:
    """It is resumed beside the first, which brings the file; the second one waits."""
    hold = workspace.folder / "hold"
    hold.touch()
    workspace.environment[HOLD] = str(hold)

    async with DbosEngine(workspace, dbos_url) as engine:
        scene = Scene.of(engine, service)
        await engine.start_worker()
        await engine.start_worker()
        await scene.submit()
        # The first has recorded none while it is in the middle of its download.
        while "download" not in await engine.steps(scene.record):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert 1 == service.requests("store")
        assert not scene.file.exists()

        hold.unlink()
        await scene.ends_well()

    assert 1 == service.requests("store")
