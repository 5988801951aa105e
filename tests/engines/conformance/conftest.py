"""The engines, their stores, and the service that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.engines.engine import Engine, Place
from support.engines.scene import Scene
from support.engines.service import Service, running_service
from support.engines.stores import FileStore, ServerStore, Store


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


@pytest.fixture(params=["ticks", "command"])
async def engine(
    request: pytest.FixtureRequest, place: Place
) -> AsyncIterator[Engine]:
    """Each engine; one that is not installed skips."""
    async with made_engine(request.param, place, request) as engine:
        yield engine


def made_engine(name: str, place: Place, request: pytest.FixtureRequest) -> Engine:
    """Make an engine."""
    from support.engines.plain import CommandEngine, TickEngine

    return {"ticks": TickEngine, "command": CommandEngine}[name](place)


@pytest.fixture
def scene(engine: Engine, service: Service) -> Scene:
    """One export by the engine."""
    return Scene.of(engine, service)
