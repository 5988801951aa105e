"""A URL names the same file, or the same server, to the job store and the limiter."""

from __future__ import annotations

import asyncio
import gc
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakSet

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import ConfigurationError, JobStoreUnavailableError
from amplitude_cohorts_async.jobs import SqliteJobStore
from amplitude_cohorts_async.limiters import SqliteLimiter
from support.canary import API_KEY, SECRET_KEY

KEYS = {"AMPLITUDE_API_KEY": API_KEY, "AMPLITUDE_SECRET_KEY": SECRET_KEY}


def configured(monkeypatch: pytest.MonkeyPatch, **variables: str) -> CohortsClient:
    """A client of these variables."""
    for name, value in {**KEYS, **variables}.items():
        monkeypatch.setenv(name, value)

    return CohortsClient.from_env()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///own.db", "own.db"),
        ("sqlite:////var/lib/own.db", "/var/lib/own.db"),
        ("SQLite:///own.db", "own.db"),
        ("sqlite:///my%20own.db", "my own.db"),
        ("sqlite:///my own.db", "my own.db"),
        ("sqlite:///what%3F%23.db", "what?#.db"),
        ("sqlite:///%C3%A9t%C3%A9.db", "été.db"),
        ("sqlite:///folder://own.db", "folder:/own.db"),
    ],
)
async def test_both_read_the_url_of_a_file_alike(
    monkeypatch: pytest.MonkeyPatch, url: str, path: str
) -> None:
    """As SQLAlchemy writes it, percent-encoded or not."""
    client = configured(monkeypatch, AMPLITUDE_JOBS=url, AMPLITUDE_LIMITER_URL=url)
    limiter, store = client._config.limiter, client._operations.jobs.store

    assert isinstance(limiter, SqliteLimiter)
    assert isinstance(store, SqliteJobStore)
    assert [Path(path)] * 2 == [limiter._database.path, store.path]


@pytest.mark.parametrize("variable", ["AMPLITUDE_JOBS", "AMPLITUDE_LIMITER_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite://hunter2.db",
        "sqlite://me:hunter2@host/own.db",
        "sqlite:///own.db?mode=hunter2",
        "sqlite:///own.db?",
        "sqlite:///own.db#hunter2",
        "sqlite:///hunter2\nown.db",
        "sqlite:///hunter2%00own.db",
        "sqlite:///hunter2%FF.db",
    ],
)
async def test_both_refuse_what_names_no_file(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    """At once, by the name of what is to be corrected, and without a part of it."""
    with pytest.raises(ConfigurationError, match=f"{variable}.* sqlite:///") as caught:
        configured(monkeypatch, **{variable: url})

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2/part@host:6379/0",
        "redis://me:hunter2@localhost:port/0",
        "redis://localhost/0?hunter2=1",
        "redis://localhost/hunter2",
        "unix://me:hunter2/part@/run/valkey.sock",
    ],
)
async def test_no_part_of_a_password_comes_out_of_the_url_of_a_server(url: str) -> None:
    """Neither out of the client's job store nor out of one by itself."""
    pytest.importorskip("redis", reason="the extra redis is not installed")
    contrib = import_module("amplitude_cohorts_async.contrib.redis")

    with pytest.raises(ConfigurationError, match="AMPLITUDE_JOBS") as of_client:
        CohortsClient(API_KEY, SECRET_KEY, jobs=url)
    with pytest.raises(ConfigurationError, match="no URL of a store") as of_store:
        contrib.RedisJobStore.from_url(url)

    for error in (of_client.value, of_store.value):
        assert "hunter2" not in str(error)
        assert error.__cause__ is None


async def test_both_read_the_scheme_of_a_server_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In capitals or not."""
    pytest.importorskip("redis", reason="the extra redis is not installed")
    url = "Redis://localhost:6379"
    client = configured(monkeypatch, AMPLITUDE_JOBS=url, AMPLITUDE_LIMITER_URL=url)

    assert "RedisLimiter" == type(client._config.limiter).__name__
    assert "localhost:6379" in repr(client._operations.jobs.store)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql//me:hunter2@host/name",
        "postgresql:me:hunter2@host",
        "redis:/:hunter2@localhost",
        "Redis//localhost",
        "sqlite:hunter2.db",
        "me:hunter2@host/name",
        "db.internal:5432",
        "db.internal:5432/hunter2",
        "mysql://me:hunter2@host",
        "//me:hunter2@host/name",
        "host=db user=me password=hunter2 dbname=x",
        "host:6380,password=hunter2,ssl=True",
        "Server=host;Password=hunter2;",
        "host/name?password=hunter2",
    ],
)
def test_a_url_that_is_not_complete_is_no_file(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Each host would have a store of its own, with a password in its name."""
    with pytest.raises(ConfigurationError, match="AMPLITUDE_JOBS") as caught:
        configured(monkeypatch, AMPLITUDE_JOBS=text)

    assert "hunter2" not in str(caught.value)


@attrs.frozen
class Url:
    """The URL of some library, whose repr shows its password."""

    text: str


@pytest.mark.parametrize(
    "jobs",
    [
        Url("redis://me:hunter2@host"),
        ["redis://me:hunter2@host"],
        Path("redis://me:hunter2@host"),
        b"redis//me:hunter2@host",
    ],
)
def test_what_is_no_text_is_not_shown(jobs: Any) -> None:
    """Neither what it is, nor a file of that name."""
    with pytest.raises(ConfigurationError, match="jobs") as caught:
        CohortsClient(API_KEY, SECRET_KEY, jobs=jobs)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["own.db", "/a:b@c/own.db", "./host:1", "me@work.db", "C:\\me@work.db"]
)
def test_a_path_may_have_any_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What could be a URL has ./ in front."""
    assert Path(text) == configured(monkeypatch, AMPLITUDE_JOBS=text)._config.jobs


def test_a_store_forgets_the_loops_that_are_closed() -> None:
    """Each has a client of its own, which nobody needs afterwards."""
    pytest.importorskip("redis", reason="the extra redis is not installed")
    contrib = import_module("amplitude_cohorts_async.contrib.redis")
    store = contrib.RedisJobStore.from_url("redis://127.0.0.1:1")
    loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    async def use() -> None:
        loops.add(asyncio.get_running_loop())
        with pytest.raises(JobStoreUnavailableError):
            await store.groups("app")

    for _ in range(3):
        asyncio.run(use())
    gc.collect()

    assert 1 == len(loops)
