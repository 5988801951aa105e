"""What engines keep their jobs in."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from support.postgres import PACKAGE, Postgres, connected
from support.requirements import require


@pytest.fixture(scope="session")
def jobs_server() -> Iterator[Postgres]:
    """A Postgres, for one test after another."""
    require(PACKAGE)
    require("psycopg")

    with Postgres() as server:
        yield server


@pytest.fixture
def dbos_url(jobs_server: Postgres) -> str:
    """An empty database for DBOS."""
    require("dbos")
    name = f"dbos_{uuid4().hex}"
    with connected(jobs_server.url) as connection:
        connection.execute(f"CREATE DATABASE {name}")

    return f"{jobs_server.url.rpartition('/')[0]}/{name}"
