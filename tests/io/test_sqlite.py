"""A SQLite file behind one thread: what it keeps, what it refuses, and forks."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from amplitude_cohorts_async._io import sqlite
from amplitude_cohorts_async._io.sqlite import (
    Database,
    DatabaseError,
    Options,
    SharedDatabase,
    UnusableDatabaseError,
)
from support.holding import Held
from support.processes import in_child

OPTIONS = Options(
    schema=("CREATE TABLE IF NOT EXISTS word (text TEXT)",),
    version=3,
    synchronous="NORMAL",
)


def made(path: Path, **options: Any) -> Database:
    """A database of words."""
    return Database(path, attrs.evolve(OPTIONS, application_id=77, **options))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An empty one."""
    database = made(tmp_path / "words.db", busy_seconds=0.05)
    yield database
    await database.aclose()
    await database.aclose()


def add(connection: sqlite3.Connection, text: str = "word") -> None:
    """Store a word."""
    connection.execute("INSERT INTO word VALUES (?)", [text])


def words(connection: sqlite3.Connection) -> list[str]:
    """All words."""
    return [text for (text,) in connection.execute("SELECT text FROM word")]


async def test_what_was_done_is_there_for_the_next(
    database: Database, tmp_path: Path
) -> None:
    """Of another process as well, and after the file was closed."""
    await database.run(add)
    await database.aclose()
    other = made(tmp_path / "words.db")
    found = await database.run(words), await other.run(words)
    await other.aclose()

    assert (["word"], ["word"]) == found


async def test_work_that_fails_leaves_nothing(database: Database) -> None:
    """Its error comes out as it is."""

    def fail(connection: sqlite3.Connection) -> None:
        add(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.run(fail)

    assert [] == await database.run(words)


async def test_work_is_done_despite_a_cancellation(database: Database) -> None:
    """And the caller hears of it when it is done."""
    held = Held()

    def work(connection: sqlite3.Connection) -> None:
        held.hold()
        add(connection)

    await held.cancel_meanwhile(asyncio.create_task(database.run(work)))

    assert ["word"] == await database.run(words)


async def test_all_work_is_in_one_thread_of_its_own(database: Database) -> None:
    """Not in those that anyio shares out."""
    seen = {await database.run(lambda _: threading.get_ident()) for _ in range(3)}

    assert 1 == len(seen)
    assert threading.get_ident() not in seen


@pytest.mark.posix
async def test_only_the_owner_may_read_the_files(
    database: Database, tmp_path: Path
) -> None:
    """The log and the shared memory as well."""
    await database.run(add)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()
    }

    assert dict.fromkeys(("words.db", "words.db-wal", "words.db-shm"), 0o600) == modes


async def test_the_pragmas_are_set(tmp_path: Path) -> None:
    """Those that were asked for."""
    database = made(tmp_path / "d.db", synchronous="FULL", journal_mode="DELETE")
    names = ("journal_mode", "synchronous", "user_version", "application_id")
    found = await database.run(
        lambda c: [c.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    )
    await database.aclose()

    assert ["delete", 2, 3, 77] == found


async def test_an_older_file_is_brought_up_to_date(
    database: Database, tmp_path: Path
) -> None:
    """Its rows stay."""
    await database.run(add)
    schema = (*OPTIONS.schema, "CREATE TABLE IF NOT EXISTS number (value REAL)")
    newer = made(tmp_path / "words.db", schema=schema, version=4)
    await newer.run(lambda c: c.execute("INSERT INTO number VALUES (1)"))
    found = await newer.run(words)
    await newer.aclose()

    assert ["word"] == found
    with pytest.raises(UnusableDatabaseError, match="newer release: its version is 4"):
        await made(tmp_path / "words.db").run(words)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    """With tables and no version, or with another mark."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmark (url TEXT)")
    before = path.read_bytes()

    with pytest.raises(UnusableDatabaseError, match="of another program"):
        await made(path).run(words)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 3")
    with pytest.raises(UnusableDatabaseError, match="of another program"):
        await made(path).run(words)

    assert len(before) == path.stat().st_size
    assert [path] == list(tmp_path.iterdir())


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """Whatever it is."""
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 100)

    with pytest.raises(
        UnusableDatabaseError, match=r"notes\.txt is no SQLite database"
    ):
        await made(path).run(words)

    assert "dear diary, " * 100 == path.read_text()


@pytest.mark.parametrize(
    "name", ["", "absent/words.db", "file/words.db", "a\0b", "x" * 300]
)
async def test_a_path_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    """A folder, a folder that is absent or a file, and what no file can be called."""
    (tmp_path / "file").touch()

    with pytest.raises(UnusableDatabaseError, match=r"cannot be made|no regular file"):
        await made(tmp_path / name).run(words)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the test is on a file system of the network."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"1 1 {os.major(device)}:{os.minor(device)} / / rw shared:1 - nfs4 host:/ rw\n"
    )
    monkeypatch.setattr(sqlite, "_MOUNTS", mounts)


async def test_a_file_system_of_the_network_is_refused(
    database: Database, remote: None
) -> None:
    """Processes of two machines have no memory in common."""
    with pytest.raises(UnusableDatabaseError, match=r"of the network \(nfs4\)"):
        await database.run(words)


async def test_a_file_system_of_the_network_will_do_without_shared_memory(
    tmp_path: Path, remote: None, caplog: pytest.LogCaptureFixture
) -> None:
    """In the journal mode that needs none, with a warning."""
    database = made(tmp_path / "words.db", journal_mode="DELETE")
    found = await database.run(words)
    await database.aclose()

    assert "one machine at a time" in caplog.text

    assert [] == found


async def test_a_locked_file_is_waited_for_and_then_told(
    database: Database, tmp_path: Path
) -> None:
    """The next transaction is as good as ever."""
    await database.run(add)

    with closing(sqlite3.connect(tmp_path / "words.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match=r"words\.db is locked by another"):
            await database.run(add)

    assert ["word"] == await database.run(words)


async def test_a_full_disk_is_told(database: Database) -> None:
    """And nothing of the transaction is there; what frees space goes on."""

    def fill(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        for _ in range(100):
            add(connection, "x" * 1000)

    with pytest.raises(DatabaseError, match="the disk is full"):
        await database.run(fill)

    assert [] == await database.run(words)


async def test_a_file_that_cannot_be_written_is_told(database: Database) -> None:
    """As one of another user, or of a disk that is read only."""

    def forbid(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = ON")
        add(connection)

    with pytest.raises(DatabaseError, match="cannot be written"):
        await database.run(forbid)

    await database.run(add)


async def test_a_file_that_was_removed_is_made_again(
    database: Database, tmp_path: Path
) -> None:
    """Who goes on with the old one would be alone with it."""
    await database.run(add)
    for path in tmp_path.iterdir():
        path.unlink()
    await database.run(partial(add, text="new"))
    other = made(tmp_path / "words.db")
    found = await other.run(words)
    await other.aclose()

    assert ["new"] == found


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_a_connection_of_its_own(tmp_path: Path) -> None:
    """And the locks of each are the other's, too."""
    database = made(tmp_path / "words.db", busy_seconds=0.05)
    asyncio.run(database.run(add))

    def work() -> None:
        asyncio.run(asyncio.wait_for(database.run(add), 5))
        with closing(sqlite3.connect(tmp_path / "words.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseError):
                asyncio.run(asyncio.wait_for(database.run(add), 5))
        asyncio.run(database.aclose())

    assert 0 == in_child(work)
    asyncio.run(database.run(add))
    found = asyncio.run(database.run(words))
    asyncio.run(database.aclose())

    assert ["word"] * 3 == found


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_waits_for_the_transaction_under_way(tmp_path: Path) -> None:
    """Half of one would come along, with its lock."""
    database = made(tmp_path / "words.db")
    began, may_end = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection) -> None:
        began.set()
        may_end.wait(5)
        add(connection)

    thread = threading.Thread(target=lambda: asyncio.run(database.run(work)))
    thread.start()
    began.wait(5)
    threading.Timer(0.05, may_end.set).start()
    status = in_child(lambda: asyncio.run(database.run(add)))
    thread.join()
    found = asyncio.run(database.run(words))
    asyncio.run(database.aclose())

    assert (0, ["word", "word"]) == (status, found)


@pytest.mark.posix
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_waits_for_a_database_that_is_made_meanwhile(tmp_path: Path) -> None:
    """Its transaction would come along as well."""
    began, may_end = threading.Event(), threading.Event()
    late: list[Database] = []
    threads: list[threading.Thread] = []

    def work(connection: sqlite3.Connection) -> None:
        began.set()
        may_end.wait(30)
        add(connection)

    class Late(Database):
        def before_fork(self) -> None:
            may_end.set()
            super().before_fork()

    def make_late() -> None:
        late.append(Late(tmp_path / "late.db", OPTIONS))
        asyncio.run(late[0].run(work))

    class Early(Database):
        def before_fork(self) -> None:
            super().before_fork()
            if not threads:
                threads.append(threading.Thread(target=make_late))
                threads[0].start()
                assert began.wait(30)

    def use_late() -> None:
        # Nothing else ends a transaction that waits for its lock.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        asyncio.run(late[0].run(add))

    early = Early(tmp_path / "early.db", OPTIONS)
    status = in_child(use_late)
    may_end.set()
    threads[0].join()
    found = asyncio.run(late[0].run(words))
    asyncio.run(late[0].aclose())
    del early

    assert (0, ["word", "word"]) == (status, found)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_threads_fork_at_once(tmp_path: Path) -> None:
    """While both wait for the same transaction."""
    database = made(tmp_path / "words.db")
    began, may_end = threading.Event(), threading.Event()
    statuses: list[int] = []

    def work(_connection: sqlite3.Connection) -> None:
        began.set()
        may_end.wait(30)

    def fork() -> None:
        statuses.append(in_child(lambda: None))

    user = threading.Thread(target=lambda: asyncio.run(database.run(work)))
    user.start()
    assert began.wait(30)
    forks = [threading.Thread(target=fork, daemon=True) for _ in range(2)]
    for thread in forks:
        thread.start()
    threading.Timer(0.1, may_end.set).start()
    for thread in (*forks, user):
        thread.join(30)

    assert [0, 0] == statuses
    asyncio.run(database.aclose())


async def test_two_loops_share_a_database(database: Database) -> None:
    """Each in a thread of its own."""

    async def add_many() -> None:
        await asyncio.gather(*(database.run(add) for _ in range(50)))

    thread = threading.Thread(target=lambda: asyncio.run(add_many()))
    thread.start()
    await add_many()
    await asyncio.to_thread(thread.join)

    assert 100 == len(await database.run(words))


async def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """One of them makes the tables; none takes it for locked, or for another's."""
    for number in range(10):
        databases = [made(tmp_path / f"{number}.db") for _ in range(10)]
        await asyncio.gather(*(database.run(add) for database in databases))
        found = await databases[0].run(words)
        await asyncio.gather(*(database.aclose() for database in databases))

        assert 10 == len(found)


# One file, many users.


def where(connection: sqlite3.Connection) -> tuple[int, int]:
    """Tell the thread and the connection."""
    return threading.get_ident(), id(connection)


async def test_all_users_of_a_file_share_a_thread_and_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they write its path; users with other options have their own."""
    monkeypatch.chdir(tmp_path)
    users = [
        SharedDatabase(path, OPTIONS)
        for path in (tmp_path / "words.db", f"{tmp_path}/words.db", "words.db")
    ]
    durable = SharedDatabase(
        tmp_path / "words.db", attrs.evolve(OPTIONS, synchronous="FULL")
    )
    seen = {await user.run(where) for user in users}
    other = await durable.run(where)
    for user in (*users, durable):
        await user.aclose()

    assert 1 == len(seen)
    assert other not in seen


async def test_the_last_user_closes_a_file(tmp_path: Path) -> None:
    """The others go on, and who closed it may use it again."""
    one, two = (SharedDatabase(tmp_path / "words.db", OPTIONS) for _ in range(2))
    await one.run(add)
    await two.run(add)
    await one.aclose()
    await one.aclose()
    assert 3 == len(list(tmp_path.iterdir()))
    await two.aclose()
    assert 1 == len(list(tmp_path.iterdir()))

    assert 2 == len(await one.run(words))
    await one.aclose()
    assert 1 == len(list(tmp_path.iterdir()))


async def test_a_user_that_is_forgotten_keeps_no_file_open(tmp_path: Path) -> None:
    """Of two, the second one closes it."""
    one, two = (SharedDatabase(tmp_path / "words.db", OPTIONS) for _ in range(2))
    await one.run(add)
    await two.run(add)
    del one
    gc.collect()
    await two.aclose()

    assert 1 == len(list(tmp_path.iterdir()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_shares_nothing_with_its_parent(tmp_path: Path) -> None:
    """Its users share a thread of their own."""
    one, two = (SharedDatabase(tmp_path / "words.db", OPTIONS) for _ in range(2))
    asyncio.run(one.run(add))

    def work() -> None:
        asyncio.run(asyncio.wait_for(two.run(add), 5))
        asyncio.run(asyncio.wait_for(one.run(add), 5))
        asyncio.run(one.aclose())
        asyncio.run(two.aclose())

    status = in_child(work)
    found = asyncio.run(one.run(words))
    asyncio.run(one.aclose())

    assert (0, ["word"] * 3) == (status, found)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_closes_a_file_that_its_parent_uses(tmp_path: Path) -> None:
    """The copies of the parent's users count only once they are used."""
    one, two = (SharedDatabase(tmp_path / "words.db", OPTIONS) for _ in range(2))
    asyncio.run(one.run(add))

    def work() -> None:
        asyncio.run(two.run(add))
        asyncio.run(two.aclose())
        assert [tmp_path / "words.db"] == list(tmp_path.iterdir())
        asyncio.run(two.run(add))
        asyncio.run(one.run(add))
        asyncio.run(two.aclose())
        assert 3 == len(list(tmp_path.iterdir()))
        asyncio.run(one.aclose())
        assert [tmp_path / "words.db"] == list(tmp_path.iterdir())

    status = in_child(work)
    asyncio.run(one.aclose())

    assert 0 == status


async def test_apps_take_turns(database: Database) -> None:
    """One transaction of an app does not wait for 500 of another."""
    order = list[str]()
    began, may_go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(_connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(began.set)
        may_go.wait(30)

    def work(app: str) -> asyncio.Task[None]:
        return asyncio.create_task(database.run(lambda _: order.append(app), app))

    tasks = [asyncio.create_task(database.run(wait))]
    await began.wait()
    tasks += [work("many") for _ in range(500)]
    tasks.append(work("single"))
    await asyncio.sleep(0)
    may_go.set()
    await asyncio.gather(*tasks)

    assert 1 == order.index("single")
