"""Many apps in one process: one request costs the same, and no app slows another."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from amplitude_cohorts_async._io import sqlite
from amplitude_cohorts_async._io.limits.registry import limiter_for
from amplitude_cohorts_async.errors import QuotaWaitError
from amplitude_cohorts_async.limiters import Kind, Limiter, LocalLimiter, SqliteLimiter
from amplitude_cohorts_async.limits import DOCUMENTED
from support.fleet_stores import PostgresStore, ValkeyStore, limiter_of
from support.neighbours import Turnstile, app, request, use

FEW, MANY = range(10), range(10, 10_000)

Make: TypeAlias = Callable[[str], Limiter]
"""Makes the limiter of an app."""


@pytest.fixture(
    params=[
        "local",
        "file",
        *(pytest.param(name, marks=pytest.mark.services) for name in ("redis", "pg")),
    ]
)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Each kind of limiter; those of all apps share a file or a server."""
    if request.param == "local":
        return lambda _app: LocalLimiter()
    if request.param == "file":
        return lambda app: SqliteLimiter(tmp_path / "limits.db", app=app)

    if request.param == "redis":
        pytest.importorskip("redis", reason="the extra redis is not installed")
        store = ValkeyStore(request.getfixturevalue("valkey"))
    else:
        store = PostgresStore(request.getfixturevalue("postgres"))
    store.use("many", "single")
    return lambda app: limiter_of(store, app=app)


# What one request costs.


def test_a_request_of_one_of_many_local_apps_takes_as_many_calls() -> None:
    """Ten or a thousand apps: counted in calls of functions."""
    known = list[Limiter]()

    def calls(apps: int) -> int:
        known.extend(limiter_for(uuid.uuid4().hex, DOCUMENTED) for _ in range(apps))
        name, count = uuid.uuid4().hex, 0

        def counted(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event == "call"

        async def one() -> None:
            sys.setprofile(counted)
            await request(limiter_for(name, DOCUMENTED))
            sys.setprofile(None)

        asyncio.run(one())
        return count

    calls(0)
    assert calls(1_000) <= calls(10) + 10


@contextmanager
def steps_counted() -> Iterator[Counter[str]]:
    """Count the steps of SQLite's virtual machine, by file."""
    steps, connect = Counter[str](), sqlite.Database._connect

    def counting(database: sqlite.Database) -> sqlite3.Connection:
        connection = connect(database)
        connection.set_progress_handler(partial(steps.update, [database.path.name]), 1)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite.Database, "_connect", counting)
        yield steps


def fill(path: Path, apps: range) -> None:
    """Store what others left: requests that ended or run, tickets, and exports."""
    with closing(sqlite3.connect(path)) as limits, limits:
        (now,) = limits.execute("SELECT seen FROM machine").fetchone()
        limits.executemany(
            "INSERT INTO place VALUES (?, 'slot', ?, 'running', ?)",
            [(app(n), f"{at}", at) for n in apps for at in (now - 1, now + 500)],
        )
        limits.executemany(
            "INSERT INTO ticket (app, line, owner, seen) VALUES (?, 'slot', 'x', ?)",
            [(app(n), at) for n in apps for at in (now, now - 1e4)],
        )
    with closing(sqlite3.connect(f"{path}.jobs")) as jobs, jobs:
        jobs.executemany(
            "INSERT INTO rows VALUES (?, 'cohort:1', 'key', 'value')",
            [(app(n),) for n in apps],
        )


@pytest.mark.slow
async def test_a_request_of_one_of_many_apps_on_a_file_takes_as_many_steps(
    tmp_path: Path,
) -> None:
    """Ten or ten thousand apps: counted in steps of SQLite."""
    path, taken = tmp_path / "limits.db", list[Counter[str]]()
    limiter = SqliteLimiter(path, app="mine")

    with steps_counted() as steps:
        async with aclosing(limiter):
            await use(limiter, limiter.job_store, "mine")
            for apps in (FEW, MANY):
                await asyncio.to_thread(fill, path, apps)
                before = steps.copy()
                await use(limiter, limiter.job_store, "mine")
                taken.append(steps - before)

    few, many = taken
    assert {"limits.db", "limits.db.jobs"} == set(few)
    assert all(many[name] <= 1.5 * few[name] for name in few)


# What one app makes another wait.


@pytest.mark.parametrize("kind", ["export", "file"])
async def test_one_request_waits_for_none_of_anothers_five_hundred(
    make: Make, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it asks of a file or a server, only those come first that have begun."""
    turnstile = Turnstile(monkeypatch.setattr)

    async def hold(limiter: Limiter) -> None:
        async with limiter.slot(kind):
            await asyncio.Event().wait()

    async with aclosing(make("many")) as many, aclosing(make("single")) as single:
        tasks = [asyncio.create_task(hold(many)) for _ in range(500)]
        await asyncio.sleep(0)
        await request(single)
        waiting = many.statistics()["waiting"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert waiting >= 495
    # Four connections; and the app that is next when it comes, before and after it.
    assert max(turnstile.waits["single"], default=0) <= 6


async def test_a_429_of_one_app_does_not_pause_another(make: Make) -> None:
    """Nor does its spacing."""
    async with aclosing(make("many")) as many, aclosing(make("single")) as single:
        async with many.slot("export") as permit:
            permit.throttled(600.0)
        with pytest.raises(QuotaWaitError) as caught:
            async with many.try_slot("file"):
                pass
        for _ in range(4):
            async with single.try_slot("export"):
                pass

    assert caught.value.seconds > 500
    assert single.statistics()["throttled"] == 0
