"""What only a fleet on Postgres has; see test_fleet_limiters.py for the rest."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from datetime import UTC, datetime
from traceback import TracebackException
from typing import TYPE_CHECKING, Any

import attrs
import pytest

pytest.importorskip("psycopg_pool", reason="the extra postgres is not installed")

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from amplitude_cohorts_async.contrib._postgres import server as servers
from amplitude_cohorts_async.contrib._postgres.print_schema import print_schema
from amplitude_cohorts_async.contrib._postgres.schema import schema_sql
from amplitude_cohorts_async.contrib.postgres import (
    PostgresJobStore,
    PostgresLimiter,
)
from amplitude_cohorts_async.errors import (
    ConfigurationError,
    JobStoreUnavailableError,
    LimiterUnavailableError,
)
from amplitude_cohorts_async.limits import Kind, Limits, Rate
from support.exporting import until
from support.fleet_stores import PostgresStore
from support.ports import LOOPBACK
from support.postgres import Postgres, connected
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import MutableMapping

pytestmark = pytest.mark.services

QUICK = Limits(
    exports=Rate(4, per=0.3), polls=None, clock_margin=0.01, release_delay=0.05
)
FEW = Limits(in_flight=2, exports=(), polls=None, release_delay=0.0)
NEXT_MONTH = datetime(2030, 1, 8, tzinfo=UTC)
TABLES = "amplitude_cohorts"


@pytest.fixture
def store(postgres: Postgres) -> PostgresStore:
    """A database that has been in use."""
    store = PostgresStore(postgres)
    store.use()

    return store


@pytest.fixture
async def limiter(store: PostgresStore) -> AsyncIterator[PostgresLimiter]:
    """A limiter on it."""
    async with aclosing(made(store.server.url)) as limiter:
        yield limiter


@pytest.fixture
async def proxy(store: PostgresStore) -> AsyncIterator[Proxy]:
    """A proxy before it."""
    async with Proxy(store.server.port).running() as proxy:
        yield proxy


def made(url: str, **options: Any) -> PostgresLimiter:
    """Make a limiter with quick limits."""
    options = {"app": "app", "limits": QUICK, "lease": 0.5} | options

    return PostgresLimiter.from_url(url, **options)


async def request(limiter: PostgresLimiter, kind: Kind = "poll") -> float:
    """Hold a slot for a moment; tell when."""
    async with limiter.slot(kind):
        return time.monotonic()


def asked(postgres: Postgres, question: str, *parameters: object) -> list[Any]:
    """Return the rows of an answer."""
    with connected(postgres.url) as connection:
        cursor = connection.execute(question, parameters)
        return list(cursor.fetchall()) if cursor.description else []


def connections(postgres: Postgres) -> list[Any]:
    """Return what the server does for us, without the one who asks."""
    return asked(
        postgres,
        "SELECT state, xact_start FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )


def add(rows: MutableMapping[str, str], _now: float) -> int:
    """Count."""
    rows["count"] = str(int(rows.get("count", "0")) + 1)
    return int(rows["count"])


# The schema.


async def test_eight_first_users_make_one_schema(postgres: Postgres) -> None:
    """At once, each in a pool of its own."""
    stores = [
        PostgresJobStore.from_url(f"{postgres.url}?application_name=user{number}")
        for number in range(8)
    ]
    async with AsyncExitStack() as stack:
        for store in stores:
            stack.push_async_exit(aclosing(store))
        counts = await asyncio.gather(*(s.transact("app", "g", add) for s in stores))

    assert [*range(1, 9)] == sorted(counts)
    assert [(1, 0)] == asked(
        postgres, f"SELECT major, minor FROM {TABLES}.cohorts_version"
    )


async def test_the_url_names_the_schema(postgres: Postgres) -> None:
    """Two of them know nothing of each other."""
    one, other = (
        PostgresJobStore.from_url(f"{postgres.url}?schema={name}")
        for name in ("Other-1", "amplitude_cohorts")
    )
    async with aclosing(one), aclosing(other):
        await one.transact("app", "g", add)
        groups = [await store.groups("app") for store in (one, other)]
    asked(postgres, 'DROP SCHEMA "Other-1" CASCADE')

    assert [["g"], []] == groups


@pytest.mark.parametrize(("column", "is_read"), [("minor", True), ("major", False)])
async def test_a_newer_minor_is_read_and_a_newer_major_is_not(
    store: PostgresStore, column: str, is_read: bool
) -> None:
    """A minor release of the schema only adds."""
    asked(store.server, f"UPDATE {TABLES}.cohorts_version SET {column} = {column} + 1")

    async with aclosing(made(store.server.url)) as limiter:
        if is_read:
            await request(limiter)
        else:
            with pytest.raises(ConfigurationError, match="a newer release"):
                await request(limiter)


async def test_a_database_that_cannot_hold_any_text_is_refused(
    postgres: Postgres,
) -> None:
    """Names and paths may be of any script."""
    asked(postgres, "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    store = PostgresJobStore.from_url(postgres.url.replace("/postgres", "/latin"))

    async with aclosing(store):
        with pytest.raises(ConfigurationError, match="encoding LATIN1"):
            await store.groups("app")
    asked(postgres, "DROP DATABASE latin")


@contextmanager
def a_role(postgres: Postgres) -> Iterator[str]:
    """Have a role that may connect, and nothing else; give its URL."""
    asked(postgres, "CREATE ROLE worker LOGIN PASSWORD 'hunter3'")
    try:
        yield postgres.url.replace("owner:hunter2", "worker:hunter3")
    finally:
        postgres.empty()
        asked(postgres, "DROP OWNED BY worker; DROP ROLE worker")


def printed(*arguments: str) -> str:
    """Return what the command prints."""
    command = [sys.executable, "-m", "amplitude_cohorts_async.contrib.postgres"]
    return subprocess.run(
        [*command, *arguments], check=True, capture_output=True, text=True
    ).stdout


async def test_a_role_that_may_not_make_tables_is_told_who_may(
    postgres: Postgres,
) -> None:
    """The command prints the SQL, with which somebody else lets it."""
    with a_role(postgres) as url:
        async with aclosing(made(url)) as limiter:
            with pytest.raises(
                ConfigurationError,
                match=r"-m amplitude_cohorts_async\.contrib\.postgres amplitude_cohorts",
            ):
                await request(limiter)
            asked(postgres, printed(TABLES))
            with pytest.raises(ConfigurationError, match="permission denied"):
                await request(limiter)

            asked(postgres, printed(TABLES, "worker"))
            await request(limiter)
            await limiter.job_store.transact("app", "g", add)


async def test_the_epoch_does_without_what_its_owner_may_not_ask(
    postgres: Postgres,
) -> None:
    """The start of the server is left; and it is the same for all roles."""
    functions = "pg_control_system(), pg_walfile_name(pg_lsn)"
    asked(postgres, f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC")
    asked(postgres, "GRANT CREATE ON DATABASE postgres TO PUBLIC")

    with a_role(postgres) as url:
        async with aclosing(made(url)) as limiter:
            await request(limiter)
        ((epoch,),) = asked(postgres, f"SELECT {TABLES}.cohorts_epoch()")
    asked(postgres, "REVOKE CREATE ON DATABASE postgres FROM PUBLIC")
    asked(postgres, f"GRANT EXECUTE ON FUNCTION {functions} TO PUBLIC")

    assert epoch.startswith("?/?/")


async def test_a_schema_that_was_dropped_is_made_again(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """As after a copy was put back that is older than it."""
    await request(limiter)
    asked(store.server, f"DROP SCHEMA {TABLES} CASCADE")
    began = time.monotonic()

    assert await request(limiter) - began >= 0.5


# Connections.


async def test_a_hundred_apps_share_four_connections(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which are closed while nobody asks; the pool is closed with its last user."""
    monkeypatch.setattr(servers, "_IDLE_FOR", 0.2)
    tasks = asyncio.all_tasks()

    limiters = [
        made(store.server.url, app=f"app{number}", limits=FEW, lease=1.0)
        for number in range(100)
    ]
    await asyncio.gather(*(request(limiter) for limiter in limiters))
    assert 1 <= len(connections(store.server)) <= 4
    await until(lambda: not connections(store.server))

    for limiter in limiters[1:]:
        await limiter.aclose()
    await request(limiters[0])
    await limiters[0].aclose()

    assert [] == connections(store.server)
    assert tasks == asyncio.all_tasks()


async def test_nothing_is_held_while_a_place_is(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """No transaction and no lock, neither for who has it nor for those who wait."""
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(limiter.slot("file"))
        waiting = [asyncio.ensure_future(request(limiter)) for _ in range(9)]
        await asyncio.sleep(0.1)
        seen = [state for _ in range(20) for state, _ in connections(store.server)]
        locks = asked(
            store.server,
            "SELECT locktype, mode FROM pg_locks WHERE pid <> pg_backend_pid() "
            "AND locktype = 'advisory'",
        )
    await asyncio.gather(*waiting)

    assert not {state for state in seen if "transaction" in (state or "")}
    assert [] == locks


async def test_no_statement_is_kept_in_a_session(
    limiter: PostgresLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PgBouncer gives the next one to another connection: nothing is prepared or set."""
    seen = set[AsyncConnection[Any]]()
    execute = AsyncConnection.execute

    async def noted(
        connection: AsyncConnection[Any], *args: Any, **options: Any
    ) -> Any:
        seen.add(connection)
        return await execute(connection, *args, **options)

    monkeypatch.setattr(AsyncConnection, "execute", noted)
    for _ in range(20):
        await request(limiter, "poll")
        await limiter.counter.add("month", 1, until=NEXT_MONTH)
    monkeypatch.undo()
    (connection,) = seen
    prepared = await connection.execute("SELECT name FROM pg_prepared_statements")
    changed = await connection.execute(
        "SELECT name, setting FROM pg_settings WHERE source = 'session' "
        "AND name <> 'client_encoding'"
    )

    assert [] == await prepared.fetchall()
    assert [] == await changed.fetchall()


async def test_every_statement_may_be_another_connections(
    store: PostgresStore, limiter: PostgresLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind PgBouncer in transaction mode: each has a new one here."""
    used = list[AsyncConnection[Any]]()
    put_back = AsyncConnectionPool.putconn

    async def used_once(pool: Any, connection: AsyncConnection[Any]) -> None:
        used.append(connection)
        await connection.close()
        await put_back(pool, connection)

    monkeypatch.setattr(AsyncConnectionPool, "putconn", used_once)
    # From the making of the schema on.
    store.empty()
    async with limiter.slot("export") as permit, limiter.cohort_lock("c1"):
        permit.throttled(0.01)
    await asyncio.gather(*(request(limiter) for _ in range(5)))
    counts = [
        await limiter.counter.add("month", 1, until=NEXT_MONTH),
        *[await limiter.job_store.transact("app", "g", add) for _ in range(2)],
    ]

    assert [1, 1, 2] == counts
    assert not any(name.startswith("c:") for name in store.taken())
    assert len(used) == len(set(used)) > 20


async def test_every_change_is_durable_before_it_is_answered(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """Also where the server would answer earlier by default."""
    postgres = store.server
    asked(
        postgres,
        """
        ALTER DATABASE postgres SET synchronous_commit = off;
        CREATE TABLE amplitude_cohorts.seen (of text, setting text);
        CREATE FUNCTION amplitude_cohorts.note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO amplitude_cohorts.seen
                SELECT TG_TABLE_NAME, current_setting('synchronous_commit');
            RETURN NULL;
        END $$;
        """,
    )
    for table in ("place", "pace", "counter", "group", "row"):
        asked(
            postgres,
            f"CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE OR DELETE "
            f"ON {TABLES}.cohorts_{table} DEFERRABLE INITIALLY DEFERRED "
            f"FOR EACH ROW EXECUTE FUNCTION {TABLES}.note()",
        )

    await limiter.counter.add("month", 1, until=NEXT_MONTH)
    await limiter.job_store.transact("app", "g", add)
    asked(postgres, f"TRUNCATE {TABLES}.cohorts_pace")
    async with limiter.slot("export") as permit:
        permit.throttled(0.01)
    await request(limiter, "export")
    seen = asked(postgres, f"SELECT DISTINCT of, setting FROM {TABLES}.seen")
    asked(postgres, "ALTER DATABASE postgres RESET synchronous_commit")

    # Rows that are made empty, and taken by nobody yet, are no loss.
    assert {"cohorts_pace", "cohorts_counter", "cohorts_group", "cohorts_row"} <= {
        of for of, setting in seen if setting == "on"
    }
    assert {"cohorts_place"} >= {of for of, setting in seen if setting != "on"}


async def test_a_place_is_kept_durably_and_given_back_at_once(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """A place given back that a server forgets is free when its lease is over."""
    postgres = store.server
    asked(
        postgres,
        f"""
        CREATE TABLE {TABLES}.seen (pool text, longer boolean, setting text);
        CREATE FUNCTION {TABLES}.note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO {TABLES}.seen SELECT NEW.pool, NEW.free_at > OLD.free_at,
                current_setting('synchronous_commit');
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON {TABLES}.cohorts_place
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION {TABLES}.note()
        """,
    )

    # One ends well, one gives up; one is renewed, one makes all withhold a place.
    await request(limiter, "export")
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1), limiter.slot("export"):
            await asyncio.sleep(30)
    async with limiter.slot("file"):
        await asyncio.sleep(0.4)
    async with limiter.slot("poll") as permit:
        permit.throttled(0.01, details="Exceeded concurrent limit")
    seen = asked(postgres, f"SELECT DISTINCT longer, setting FROM {TABLES}.seen")

    assert {(True, "on"), (False, "off")} == set(seen)


# Time.


def shift_clock(postgres: Postgres, seconds: float) -> None:
    """Let the database's clock be so much ahead."""
    asked(
        postgres,
        f"CREATE OR REPLACE FUNCTION {TABLES}.cohorts_clock() RETURNS double precision "
        "LANGUAGE sql VOLATILE AS $$ SELECT extract(epoch FROM clock_timestamp())"
        f"::double precision + {seconds} $$",
    )


async def test_the_time_of_exports_is_never_set_back_and_goes_on(
    store: PostgresStore,
) -> None:
    """Not even where the server's is; also for a process that comes later."""
    times: list[float] = []

    def note(rows: MutableMapping[str, str], now: float) -> None:
        times.append(now)
        add(rows, now)

    for ahead in (0, 3_600, 0, 0, -3_600, -3_600):
        shift_clock(store.server, ahead)
        async with aclosing(PostgresJobStore.from_url(store.server.url)) as jobs:
            await jobs.transact("app", "group", note)
            await jobs.transact("app", f"group {ahead}", note)

    assert times == sorted(times)
    assert len(times) == len(set(times))
    assert times[-1] < times[0] + 3_700


async def test_places_live_by_the_clock_of_the_database(
    store: PostgresStore,
) -> None:
    """An hour later all are free, wherever the clocks of the processes are."""
    # A window that stays full for longer than the test takes on any machine.
    limits = attrs.evolve(QUICK, exports=Rate(4, per=60))

    async with aclosing(made(store.server.url, limits=limits)) as limiter:
        for _ in range(4):
            await request(limiter, "export")
        taken = store.taken()
        shift_clock(store.server, 3_600)

        assert 4 == len(taken)
        assert {} == store.taken()
        await request(limiter, "export")


async def test_a_server_that_was_started_anew_is_waited_out(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """It may be another one, or know an old copy."""
    await request(limiter, "export")
    store.server.stop()
    store.server.start()
    began = time.monotonic()

    poll, export = await asyncio.gather(request(limiter), request(limiter, "export"))
    assert poll - began >= 0.5
    assert export - began >= 0.5 + 0.3


async def test_a_copy_that_was_put_back_is_waited_out(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """It holds the epoch of its own time."""
    await request(limiter)
    store.server.stop()
    store.server.copy()
    store.server.start()
    await request(limiter)
    for _ in range(4):
        await request(limiter, "export")
    before = time.monotonic()
    store.server.put_back()

    assert await request(limiter, "export") - before >= 0.5 + 0.3


# Answers that are lost.


async def test_a_place_whose_answer_was_lost_is_found_again(
    store: PostgresStore, proxy: Proxy
) -> None:
    """The statement was carried out: it is sent again, and takes no second one."""
    async with aclosing(made(store.server.url_at(proxy.port))) as limiter:
        await request(limiter)
        proxy.word, proxy.swallows = b"SKIP LOCKED", 1
        async with limiter.slot("file"):
            taken = store.taken()

    assert 1 == proxy.lost
    assert 1 == len(taken)


async def test_an_addition_whose_answer_was_lost_is_made_once(
    store: PostgresStore, proxy: Proxy
) -> None:
    """As a count of the month that would be too high otherwise."""
    async with aclosing(made(store.server.url_at(proxy.port))) as limiter:
        await limiter.counter.add("month", 1, until=NEXT_MONTH)
        proxy.word, proxy.swallows = b"cohorts_counter", 1
        await limiter.counter.add("month", 1, until=NEXT_MONTH)
        count = await limiter.counter.add("month", 1, until=NEXT_MONTH)

    assert (1, 3) == (proxy.lost, count)


async def test_a_change_whose_answer_was_lost_is_made_once(
    store: PostgresStore, proxy: Proxy
) -> None:
    """And its result is the one that was stored."""
    url = store.server.url_at(proxy.port)
    async with aclosing(PostgresJobStore.from_url(url)) as jobs:
        await jobs.transact("app", "group", add)
        proxy.word, proxy.swallows = b"excluded.changes", 1
        second = await jobs.transact("app", "group", add)
        third = await jobs.transact("app", "group", add)

    assert (1, 2, 3) == (proxy.lost, second, third)


async def test_a_change_that_cannot_be_looked_up_is_not_known(
    store: PostgresStore, proxy: Proxy
) -> None:
    """The error says so, and afterwards the store works."""
    url = store.server.url_at(proxy.port)
    async with aclosing(PostgresJobStore.from_url(url)) as jobs:
        await jobs.transact("app", "group", add)

        def stall(rows: MutableMapping[str, str], now: float) -> int:
            proxy.forwards.clear()
            return add(rows, now)

        with pytest.raises(JobStoreUnavailableError, match="not known whether"):
            await jobs.transact("app", "group", stall)
        proxy.forwards.set()
        count = await jobs.transact("app", "group", add)

    assert count in {2, 3}


async def test_a_change_that_comes_late_is_made_once_or_never(
    store: PostgresStore, proxy: Proxy
) -> None:
    """Bytes that were under way arrive after it was tried again."""
    url = store.server.url_at(proxy.port)
    calls = list[int]()

    async with aclosing(PostgresJobStore.from_url(url)) as jobs:
        await jobs.transact("app", "group", add)

        def stall_once(rows: MutableMapping[str, str], now: float) -> int:
            if not calls:
                proxy.forwards.clear()
                # While it is looked up.
                asyncio.get_running_loop().call_later(2.5, proxy.forwards.set)
            calls.append(1)
            return add(rows, now)

        second = await jobs.transact("app", "group", stall_once)
        third = await jobs.transact("app", "group", add)

    assert (2, 3) == (second, third)


async def test_a_server_that_hangs_is_given_up(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """After two seconds; when it goes on, so does the limiter."""
    await request(limiter)
    store.server.freeze()
    try:
        with pytest.raises(LimiterUnavailableError):
            await request(limiter)
    finally:
        store.server.thaw()

    async with asyncio.timeout(30):
        while True:
            with suppress(LimiterUnavailableError):
                await request(limiter)
                break


async def test_who_is_cancelled_while_the_server_hangs_leaves_in_time(
    store: PostgresStore, limiter: PostgresLimiter
) -> None:
    """And takes no place with it."""
    await request(limiter)
    store.server.freeze()
    task = asyncio.ensure_future(request(limiter))
    await asyncio.sleep(0.1)
    task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([task])
    store.server.thaw()
    await until(lambda: not store.taken())

    assert task.cancelled()
    await request(limiter)


async def test_a_password_is_in_no_log_and_in_no_frame(
    store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither one that is right nor one that is wrong."""
    url = store.server.url.replace("hunter2", "hunter9")

    with caplog.at_level(logging.DEBUG):
        async with aclosing(made(url)) as limiter:
            with pytest.raises(ConfigurationError) as caught:
                await request(limiter)

    assert "hunter" not in caplog.text
    # Without the frame of this test.
    assert caught.value.__traceback__ is not None
    trace = caught.value.__traceback__.tb_next
    shown = TracebackException(
        ConfigurationError, caught.value, trace, capture_locals=True
    )
    assert "hunter" not in "".join(shown.format())
    assert "password authentication failed" in caplog.text
    assert LOOPBACK in str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        (":hunter2", ":hunter9", "refused the user or the password"),
        (":hunter2", "", "wants a password"),
        ("/postgres", "/gone", "has no such database"),
        ("/postgres", "/postgres?sslmode=require", "does not speak TLS"),
    ],
)
async def test_what_no_second_try_mends_is_an_error_of_configuration(
    postgres: Postgres, right: str, wrong: str, told: str
) -> None:
    """It says what is wrong, of whom; for the jobs as for the places."""
    url = wrong.join(postgres.url.rsplit(right, 1))

    async with aclosing(made(url)) as limiter:
        with pytest.raises(ConfigurationError, match=told) as caught:
            await request(limiter)
        with pytest.raises(ConfigurationError, match=told):
            await limiter.job_store.transact("app", "g", add)

    assert str(postgres.port) in str(caught.value)
    assert "owner" not in str(caught.value)


async def test_who_was_let_in_before_may_try_again(postgres: Postgres) -> None:
    """A server that is put back has no database for a while: this is no mistake."""
    with a_role(postgres) as url:
        asked(postgres, printed(TABLES, "worker"))
        async with aclosing(made(url)) as limiter:
            await request(limiter)
            asked(postgres, "ALTER ROLE worker PASSWORD 'another'")
            asked(
                postgres,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = 'worker'",
            )
            with pytest.raises(LimiterUnavailableError, match="trying again is safe"):
                await request(limiter)


async def test_a_connection_to_a_server_that_is_no_primary_is_not_kept(
    store: PostgresStore,
) -> None:
    """The address may lead to another one by the next request."""
    processes = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    async with aclosing(made(store.server.url)) as limiter:
        await request(limiter)
        before = set(asked(store.server, processes))
        assert before
        asked(
            store.server,
            f"CREATE OR REPLACE FUNCTION {TABLES}.cohorts_clock() RETURNS "
            "double precision LANGUAGE plpgsql VOLATILE AS $$ BEGIN RAISE "
            "object_not_in_prerequisite_state; END $$",
        )
        with pytest.raises(LimiterUnavailableError):
            await request(limiter)
        shift_clock(store.server, 0)
        await request(limiter)

        assert not before & set(asked(store.server, processes))


def test_the_sql_makes_the_same_schema_twice(postgres: Postgres) -> None:
    """Whoever runs it again changes nothing."""
    for _ in range(2):
        asked(postgres, schema_sql())

    assert [(1,)] == asked(postgres, f"SELECT count(*) FROM {TABLES}.cohorts_version")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [(["--help"], 0, "[SCHEMA] [ROLE]"), (["1 x"], 2, "gives no name for a schema")],
)
def test_the_command_that_prints_the_schema(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    """It tells how it is used, and what is wrong, in a line."""
    with pytest.raises(SystemExit) as ended:
        print_schema(arguments)

    told = capsys.readouterr()
    assert code == ended.value.code
    assert says in told.out + told.err
