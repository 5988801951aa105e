"""One variable chooses the limiter that processes share."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import ConfigurationError, ExportTimeoutError
from amplitude_cohorts_async.jobs import MemoryJobStore
from amplitude_cohorts_async.limiters import SqliteLimiter
from amplitude_cohorts_async.limits import LEAVE_ROOM
from amplitude_cohorts_async.testing import CohortsEmulator


@pytest.fixture
def environ(
    emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The environment, which leads to the emulator."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)

    return monkeypatch


async def test_an_absolute_path_has_four_slashes(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As SQLAlchemy writes it; the first request makes the file."""
    environ.setenv("AMPLITUDE_LIMITER_URL", f"sqlite:///{tmp_path}/my limits.db")

    async with CohortsClient.from_env() as client:
        await client.list_cohorts()
        assert isinstance(client._config.limiter, SqliteLimiter)

    # The last one that closes the file removes the files beside it.
    assert ["my limits.db"] == [path.name for path in tmp_path.iterdir()]


async def test_a_file_brings_a_store_of_exports(
    environ: pytest.MonkeyPatch, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """One variable is enough; the last client that closes it leaves no other file."""
    environ.setenv("AMPLITUDE_LIMITER_URL", f"sqlite:///{tmp_path}/limits.db")
    emulator.add_cohort("left", members=["ann"], job_seconds=100)

    async with CohortsClient.from_env() as client:
        with pytest.raises(ExportTimeoutError):
            await client.export("left", tmp_path / "a.csv", timeout=0.1)

    files = sorted(path.name for path in tmp_path.iterdir())
    assert ["limits.db", "limits.db.jobs"] == files
    async with CohortsClient.from_env(jobs=tmp_path / "limits.db.jobs") as other:
        assert ["requested"] == [each.state for each in await other.jobs()]
    async with CohortsClient.from_env(jobs=MemoryJobStore()) as other:
        assert [] == await other.jobs()


async def test_a_relative_path_has_three_slashes(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is in the working directory."""
    environ.chdir(tmp_path)
    environ.setenv("AMPLITUDE_LIMITER_URL", "sqlite:///limits.db")

    async with CohortsClient.from_env() as client:
        await client.list_cohorts()

    assert (tmp_path / "limits.db").is_file()


async def test_the_limits_of_a_client_are_those_of_its_variable(
    environ: pytest.MonkeyPatch,
) -> None:
    """They go to the limiter, which states them for both."""
    environ.setenv("AMPLITUDE_LIMITER_URL", "sqlite:///limits.db")

    client = CohortsClient.from_env(limits=LEAVE_ROOM)

    assert client._config.limiter is not None
    assert LEAVE_ROOM == client._config.limits == client._config.limiter.limits


async def test_an_argument_precedes_the_variable(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For who has it from elsewhere: an engine's connection, a vault."""
    environ.setenv("AMPLITUDE_LIMITER_URL", "sqlite:////dev/null/limits.db")
    url = f"sqlite:///{tmp_path}/limits.db"

    async with CohortsClient.from_env(limiter_url=url) as client:
        await client.list_cohorts()

    assert (tmp_path / "limits.db").is_file()


async def test_what_is_no_text_is_no_url(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A path of a file is none, either."""
    with pytest.raises(ConfigurationError, match="limiter_url"):
        CohortsClient.from_env(limiter_url=tmp_path / "limits.db")


async def test_two_limiters_are_refused(environ: pytest.MonkeyPatch) -> None:
    """The one that is named by an argument, and the one that is made by it."""
    with pytest.raises(ConfigurationError, match="exclude each other"):
        CohortsClient.from_env(
            limiter_url="sqlite:///limits.db", limiter=SqliteLimiter("limits.db")
        )


async def test_a_file_that_cannot_be_made_is_told_before_anything_is_sent(
    environ: pytest.MonkeyPatch, emulator: CohortsEmulator
) -> None:
    """With its path."""
    environ.setenv("AMPLITUDE_LIMITER_URL", "sqlite:////dev/null/limits.db")

    async with CohortsClient.from_env() as client:
        with pytest.raises(ConfigurationError, match=r"/dev/null/limits\.db"):
            await client.list_cohorts()

    assert [] == emulator.log


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost:6379",
        "memcached://me:hunter2@localhost",
        "hunter2",
        "sqlite://",
        "sqlite:///",
        "sqlite://limits.db",
        "sqlite:///limits.db?mode=ro",
        "sqlite:///a\nb",
        "sqlite:limits.db",
    ],
)
async def test_what_is_no_url_of_a_limiter_is_refused_at_once(
    environ: pytest.MonkeyPatch, url: str
) -> None:
    """By an error of ours, which shows no password."""
    environ.setenv("AMPLITUDE_LIMITER_URL", url)

    with pytest.raises(ConfigurationError, match="sqlite:///") as caught:
        CohortsClient.from_env()

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://me:hunter2@localhost:6379",
        "redis://me:hunter2@localhost:port/0",
        "redis://localhost:hunter2/0",
        "redis://localhost:99999",
        "redis://localhost/0?hunter2=1",
        "redis://localhost/0?socket_timeout=hunter2",
        "redis://[::1",
        "",
    ],
)
async def test_what_is_no_url_of_a_store_is_refused_at_once(url: str) -> None:
    """By an error of ours, which shows no password and has none for its cause."""
    pytest.importorskip("redis", reason="the extra redis is not installed")
    contrib = import_module("amplitude_cohorts_async.contrib.redis")

    with pytest.raises(ConfigurationError, match="no URL of a store") as caught:
        contrib.RedisLimiter.from_url(url)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@localhost:5432",
        "postgresql://me:hunter2@localhost:port/name",
        "postgresql://me:hunter2/part@localhost/name",
        "postgresql://me:%zzhunter2@localhost/name",
        "postgresql://localhost:hunter2/name",
        "postgresql://localhost:99999",
        "postgresql://localhost:1,hunter2:2,localhost/name?host=localhost",
        "postgresql://localhost/name?hunter2=1",
        "postgresql://localhost/name?connect_timeout=hunter2",
        "postgresql://localhost/name?keepalives=hunter2",
        "postgresql://localhost/name?sslmode=hunter2",
        "postgresql://localhost/name?target_session_attrs=hunter2",
        "postgresql://local\nhost/hunter2",
        "postgresql://[::1",
        "",
    ],
)
async def test_what_is_no_url_of_a_database_is_refused_at_once(url: str) -> None:
    """As libpq would do later; the error shows no part of a password."""
    pytest.importorskip("psycopg_pool", reason="the extra postgres is not installed")
    contrib = import_module("amplitude_cohorts_async.contrib.postgres")

    for made in (contrib.PostgresLimiter, contrib.PostgresJobStore):
        with pytest.raises(ConfigurationError, match="no URL of a store") as caught:
            made.from_url(url)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("name", ["", "1a", "pg_hunter2", "hunter2%22", "a" * 64, "ü"])
async def test_what_is_no_name_of_a_schema_is_refused_at_once(name: str) -> None:
    """It is part of every statement."""
    pytest.importorskip("psycopg_pool", reason="the extra postgres is not installed")
    contrib = import_module("amplitude_cohorts_async.contrib.postgres")

    with pytest.raises(ConfigurationError, match="schema=") as caught:
        contrib.PostgresLimiter.from_url(f"postgresql://localhost/a?schema={name}")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "limiter"),
    [
        ("redis://localhost", "RedisLimiter"),
        ("rediss://me:pw@host:1/2", "RedisLimiter"),
        ("unix:///tmp/redis.sock?db=1", "RedisLimiter"),
        ("postgres://localhost", "PostgresLimiter"),
        (
            "postgresql://me:p%2Fw@host:1/2?sslmode=require&schema=a-b",
            "PostgresLimiter",
        ),
        ("postgresql://one:1,other:2/name", "PostgresLimiter"),
        ("postgresql:///name", "PostgresLimiter"),
        ("postgresql://[::1]:5432/name?connect_timeout=5", "PostgresLimiter"),
    ],
)
async def test_a_url_of_a_store_is_taken(
    environ: pytest.MonkeyPatch, url: str, limiter: str
) -> None:
    """Nothing is sent yet; the store of exports is the same server's."""
    for module in ("redis", "psycopg_pool"):
        pytest.importorskip(module, reason=f"the package {module} is not installed")
    environ.setenv("AMPLITUDE_LIMITER_URL", url)

    client = CohortsClient.from_env()

    assert client._config.limiter is not None
    assert limiter == type(client._config.limiter).__name__
    store = type(client._config.limiter.job_store).__name__
    assert limiter.replace("Limiter", "JobStore") == store
