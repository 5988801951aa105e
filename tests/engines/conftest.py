"""The service that counts, where engines work, and what they keep their jobs in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from support.engines.engine import Workspace
from support.engines.service import Service, running_service
from support.postgres import PACKAGE, Postgres, connected
from support.requirements import require


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator in a process of its own."""
    with running_service() as service:
        yield service


@pytest.fixture
def workspace(tmp_path: Path, service: Service) -> Workspace:
    """A folder, with a job store and limits in files that its workers share."""
    environment = {
        **service.environment,
        "AMPLITUDE_JOBS": str(tmp_path / "exports.db"),
        "AMPLITUDE_LIMITER_URL": f"sqlite:///{tmp_path}/limits.db",
        "HOME": str(tmp_path),
    }
    return Workspace(folder=tmp_path, environment=environment)


@pytest.fixture(scope="session")
def jobs_server() -> Iterator[Postgres]:
    """A Postgres, for one test after another."""
    require(PACKAGE)
    require("psycopg")

    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def dbos_template(jobs_server: Postgres) -> str:
    """The name of a database with the tables of DBOS, which take seconds to make."""
    require("dbos")
    from dbos import run_dbos_database_migrations  # noqa: PLC0415  optional

    run_dbos_database_migrations(_made(jobs_server, "dbos_template"))

    return "dbos_template"


@pytest.fixture
def dbos_url(jobs_server: Postgres, dbos_template: str) -> str:
    """A database with the tables of DBOS, and nothing in them."""
    return _made(jobs_server, f"dbos_{uuid4().hex} TEMPLATE {dbos_template}")


def _made(server: Postgres, what: str) -> str:
    with connected(server.url) as connection:
        connection.execute(f"CREATE DATABASE {what}")

    return f"{server.url.rpartition('/')[0]}/{what.partition(' ')[0]}"


@pytest.fixture
def jobs_url(jobs_server: Postgres) -> Iterator[str]:
    """A database with the tables of procrastinate, and nothing in them."""
    require("procrastinate")
    from support.engines.procrastinate_jobs import database  # noqa: PLC0415  optional

    with database(jobs_server) as url:
        yield url
