"""What engines keep their jobs in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.postgres import PACKAGE, Postgres
from support.requirements import require


@pytest.fixture(scope="session")
def jobs_server() -> Iterator[Postgres]:
    """A Postgres, for one test after another."""
    require(PACKAGE)
    require("psycopg")

    with Postgres() as server:
        yield server


@pytest.fixture
def jobs_url(jobs_server: Postgres) -> Iterator[str]:
    """A database with the tables of procrastinate, and nothing in them."""
    require("procrastinate")
    from support.engines.procrastinate_jobs import database  # noqa: PLC0415  optional

    with database(jobs_server) as url:
        yield url
