"""A fleet with ten thousand apps, on a real Valkey and on a real Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from amplitude_cohorts_async.errors import LimiterUnavailableError, QuotaWaitError
from support.fleet_stores import PostgresStore, ValkeyStore, limiter_of
from support.neighbours import NEXT_MONTH, app, use
from support.postgres import connected

if TYPE_CHECKING:
    from amplitude_cohorts_async.limiters import Limiter
    from support.fleet_stores import FleetStore
    from support.postgres import Postgres
    from support.valkey import Valkey

pytestmark = pytest.mark.services

FEW, MANY = range(10), range(10, 10_000)


@contextmanager
def questions_noted() -> Iterator[list[tuple[bytes, Any]]]:
    """Note what Postgres is asked."""
    connection = import_module("psycopg").AsyncConnection
    noted, execute = list[tuple[bytes, Any]](), connection.execute

    async def noting(self: Any, statement: bytes, parameters: Any = None) -> Any:
        noted.append((statement, parameters))
        return await execute(self, statement, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "execute", noting)
        yield noted


def blocks(postgres: Postgres, questions: list[tuple[bytes, Any]]) -> list[int]:
    """Tell how many blocks each question reads; what it changes is taken back."""
    read = list[int]()

    with connected(postgres.url) as connection:
        for statement, parameters in questions:
            connection.execute("BEGIN")
            ((told,),) = connection.execute(
                b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters
            ).fetchall()
            connection.execute("ROLLBACK")
            plan = told[0]["Plan"]
            read.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    return read


def fill(store: PostgresStore, apps: range) -> None:
    """Store what others left: places, exports, and what was said."""
    names = [app(number) for number in apps]
    store.use(*names)
    store.make_places(*names)

    with connected(store.server.url) as connection:
        for row in (
            "group SELECT app, 'cohort:' || n, ARRAY['x'], 0, true",
            "row SELECT app, 'cohort:' || n, 'key', 'value'",
        ):
            connection.execute(
                f"INSERT INTO amplitude_cohorts.cohorts_{row} "
                "FROM unnest(%s::text[]) AS app, generate_series(1, 3) AS n",
                [names],
            )


@pytest.mark.slow
async def test_a_request_of_one_of_many_apps_reads_as_many_blocks(
    postgres: Postgres,
) -> None:
    """Ten or ten thousand apps on a Postgres."""
    store, read = PostgresStore(postgres), list[list[int]]()
    store.use("mine")

    async with aclosing(limiter_of(store, app="mine")) as limiter:
        assert limiter.job_store
        await use(limiter, limiter.job_store, "mine")
        for apps in (FEW, MANY):
            await asyncio.to_thread(fill, store, apps)
            with questions_noted() as questions:
                await use(limiter, limiter.job_store, "mine")
            read.append(await asyncio.to_thread(blocks, postgres, questions))

    few, many = read
    assert len(few) == len(many) > 10
    # The tree of an index has a level more; the tables have hundreds of blocks more.
    assert all(after <= before + 20 for before, after in zip(few, many, strict=True))


async def test_a_request_of_one_of_many_apps_sends_as_many_commands(
    valkey: Valkey,
) -> None:
    """Ten or ten thousand apps on a Valkey; no command looks at all keys."""
    redis = pytest.importorskip("redis", reason="the extra redis is not installed")
    store, sent = ValkeyStore(valkey), list[Counter[str]]()
    store.use("mine")

    def commands() -> Counter[str]:
        with redis.Redis.from_url(valkey.url) as server:
            told = server.info("commandstats")
        return Counter({name: each["calls"] for name, each in told.items()})

    async with aclosing(limiter_of(store, app="mine")) as limiter:
        assert limiter.job_store
        await use(limiter, limiter.job_store, "mine")
        for apps in (FEW, MANY):
            await asyncio.to_thread(store.use, *map(app, apps))
            before = await asyncio.to_thread(commands)
            await use(limiter, limiter.job_store, "mine")
            sent.append(await asyncio.to_thread(commands) - before)

    few, many = sent
    assert few == many
    assert not {"cmdstat_keys", "cmdstat_scan"} & set(many)


async def starts(limiter: Limiter) -> int:
    """Tell how many exports may start now."""
    for count in range(10):
        try:
            async with limiter.try_slot("export"):
                pass
        except QuotaWaitError:
            return count

    return 10


@pytest.mark.slow
async def test_each_of_ten_thousand_apps_has_a_minute_of_its_own(
    postgres: Postgres,
) -> None:
    """Four exports at midnight, none before a minute is over, and then four."""
    store = PostgresStore(postgres)
    store.use()
    fill(store, MANY)

    def set_clock(seconds: float) -> None:
        with connected(postgres.url) as connection:
            connection.execute(
                "CREATE OR REPLACE FUNCTION amplitude_cohorts.cohorts_clock() "
                "RETURNS double precision LANGUAGE sql VOLATILE "
                f"AS $$ SELECT {seconds}::double precision $$"
            )

    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(aclosing(limiter_of(store, app=app(n))))
            for n in MANY[::1_000]
        ]
        for seconds, expected in ((1e9, 4), (1e9 + 59, 0), (1e9 + 61, 4)):
            await asyncio.to_thread(set_clock, seconds)
            found = [await starts(limiter) for limiter in limiters]
            assert [expected] * len(limiters) == found


# A server that answers slowly, or not at all.


@pytest.mark.slow
async def test_many_apps_that_wait_for_their_turn_are_no_outage(
    postgres: Postgres,
) -> None:
    """Together for longer than one question may take: the server answers all."""
    store = PostgresStore(postgres)
    store.use()
    with connected(postgres.url) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION amplitude_cohorts.cohorts_clock() "
            "RETURNS double precision LANGUAGE plpgsql VOLATILE "
            "AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN 1e9; END $$"
        )

    async with aclosing(limiter_of(store)) as limiter:
        jobs = limiter.job_store
        assert jobs
        seen = await asyncio.gather(
            *(jobs.transact(app(n), "group", lambda _, now: now) for n in range(200))
        )

    assert {1e9} == set(seen)


@pytest.mark.slow
async def test_all_apps_are_told_when_a_server_hangs(fleet_store: FleetStore) -> None:
    """Not four by four, each after two seconds."""
    fleet_store.use()
    loop = asyncio.get_running_loop()

    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(
                aclosing(limiter_of(fleet_store, app=app(n)))
            )
            for n in range(100)
        ]
        await limiters[0].counter.add("month", 1, until=NEXT_MONTH)
        fleet_store.server.freeze()
        began = loop.time()
        try:
            told = await asyncio.gather(
                *(each.counter.add("month", 1, until=NEXT_MONTH) for each in limiters),
                return_exceptions=True,
            )
        finally:
            fleet_store.server.thaw()

    assert {LimiterUnavailableError} == {type(each) for each in told}
    assert loop.time() - began < 20
