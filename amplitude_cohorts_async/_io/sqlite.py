"""
A SQLite file that tasks of any event loop use, one transaction after another.

Everything that blocks happens in one thread of the database's own, never in those
that anyio shares out. The file is opened by the first transaction, and again after
`aclose()`, after a fork, and when it was replaced. Whoever names the same file in this
process shares thread and connection, and the apps take turns.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar
from urllib.parse import quote

import attrs

from .cancellation import finish_despite_cancel, in_thread
from .fairness import FairQueue

T = TypeVar("T")

_logger = logging.getLogger(__name__)

JournalMode = Literal["WAL", "DELETE"]
Synchronous = Literal["NORMAL", "FULL"]

_MODE = 0o600
_RETRY_SECONDS = 0.005
# SQLite's log needs memory that all processes share, and locks that hold.
_REMOTE = frozenset(
    {"afs", "ceph", "cifs", "fuse.sshfs", "gfs2", "glusterfs", "fuse.glusterfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"}
)
_MOUNTS = Path("/proc/self/mountinfo")

_REASONS = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_PERM: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_NOTADB: "is no SQLite database",
    sqlite3.SQLITE_CORRUPT: "is damaged",
}
_UNUSABLE = frozenset({sqlite3.SQLITE_NOTADB})
_PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM}
)
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_STILL_GOOD = _BUSY | {sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT}


class DatabaseError(Exception):
    """
    A database cannot be used now; the text says which and why.

    What was to be done has not been done.
    """


class UnusableDatabaseError(DatabaseError):
    """A database cannot be used at all: its path or its content is wrong."""


@attrs.frozen(kw_only=True)
class Options:
    """
    What a database is, and how it is used.

    Attributes:
        schema: Statements that bring an empty or an older file up to *version*, each
            harmless where its work is done already.
        version: The file's `user_version`, 1 or more. A file of a later version is
            refused.
        synchronous: "FULL" survives a loss of power after each transaction; "NORMAL"
            may then lose the last ones, and never its consistency.
        journal_mode: "WAL" needs memory that all processes share, so it is refused on a
            file system of the network; "DELETE" is slower and needs none.
        application_id: Marks the file; one with another mark is refused.
        busy_seconds: How long a transaction waits for those of other processes.
    """

    schema: tuple[str, ...]
    version: int
    synchronous: Synchronous
    journal_mode: JournalMode = "WAL"
    application_id: int = 0
    busy_seconds: float = 5.0


class Database:
    """
    A SQLite file, and the thread that uses it.

    It may be used in any event loop and any thread. No connection is inherited by a
    forked process: it is closed before the fork, and each side opens its own.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options) -> None:
        """Describe the database; nothing is opened yet."""
        self.path = Path(path)
        self._options = options
        # Held during each transaction, and during a fork.
        self._using = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._pid = 0
        self._mutex = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: FairQueue[Callable[[], None]] = FairQueue()
        self.users: weakref.WeakSet[SharedDatabase] = weakref.WeakSet()
        with _sharing:
            _databases.add(self)

    async def run(
        self,
        work: Callable[[sqlite3.Connection], T],
        app: str = "",
        *,
        urgent: bool = False,
    ) -> T:
        """
        Return what *work* returns, called inside of one transaction that may write.

        The transaction ends with COMMIT, or with ROLLBACK if *work* raises. It runs to
        its end even if the caller is cancelled, who then hears only of that.

        Args:
            app: Whose work it is; the apps take turns.
            urgent: Whether it comes before what is not.

        Raises:
            DatabaseError: Nothing was done.
        """
        future: Future[T] = Future()

        with self._mutex:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, f"sqlite {self.path.name}")
            settle = partial(self._settle, future, work)
            self._waiting.put(app, settle, urgent=urgent)
            self._thread.submit(self._next)

        return await finish_despite_cancel(asyncio.wrap_future(future))

    async def aclose(self) -> None:
        """Close the file after the transactions under way; may be called twice."""
        with self._mutex:
            thread, self._thread = self._thread, None

        if thread is not None:
            future = thread.submit(self._close_quietly)
            thread.shutdown(wait=False)
            await finish_despite_cancel(asyncio.wrap_future(future))

    def __del__(self) -> None:
        """Close the file if it is still open."""
        if self.__dict__.get("_connection") is not None and self._pid == os.getpid():
            self._disconnect()

    def _next(self) -> None:
        with self._mutex:
            # Those of the parent are not waited for after a fork.
            work = self._waiting.get() if self._waiting else None

        if work is not None:
            work()

    def _settle(
        self, future: Future[T], work: Callable[[sqlite3.Connection], T]
    ) -> None:
        if not future.set_running_or_notify_cancel():
            return

        try:
            future.set_result(self._transact(work))
        except BaseException as error:  # noqa: BLE001 - its caller gets it
            future.set_exception(error)
        finally:
            # The traceback of an error would keep it.
            del future

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._using, self._translated():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")

            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back by itself.
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

            return result

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code not in _STILL_GOOD:
                self._disconnect()
            reason = _REASONS.get(code, f"failed ({error})")
            kind = UnusableDatabaseError if code in _UNUSABLE else DatabaseError
            raise kind(f"{self.path} {reason}") from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid != os.getpid():
            # A fork that ran none of Python's hooks: SQLite's own notes of who holds
            # which lock came along, and are wrong here.
            raise DatabaseError(
                f"{self.path} was in use when this process was forked; open it "
                "afterwards"
            )

        # If the file was removed or replaced, other processes use the new one.
        if self._connection is not None and self._file != _identity(self.path):
            self._disconnect()

        if self._connection is None:
            self._connection = self._opened()

        return self._connection

    def _opened(self) -> sqlite3.Connection:
        deadline = time.monotonic() + self._options.busy_seconds

        while True:
            connection = self._connect()
            try:
                self._prepare(connection)
            except BaseException as error:
                connection.close()
                # Two that switch a new file to WAL refuse each other without waiting.
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code not in _BUSY or time.monotonic() > deadline:
                    raise
            else:
                return connection

            time.sleep(_RETRY_SECONDS)

    def _connect(self) -> sqlite3.Connection:
        self._create()
        self._file, self._pid = _identity(self.path), os.getpid()

        # The fork's hooks close it in their own thread; nothing else leaves ours.
        return sqlite3.connect(
            f"file:{quote(os.fspath(self.path))}?mode=rw",
            uri=True,
            timeout=self._options.busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )

    def _create(self) -> None:
        """Make an empty file for this user only; SQLite's other files get its mode."""
        try:
            # Not in the constructor, where it would block the loop; and once only, so
            # that a process that changes its folder keeps its file.
            self.path = self.path.absolute()
            # One at a time: to close a file drops all locks that this process has on
            # it, so none may be opened that SQLite may have open already.
            with _creating, suppress(FileExistsError):
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
                os.close(os.open(self.path.resolve(), flags, _MODE))

            remote = _remote_file_system(self.path)
            is_file = self.path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            passes = getattr(error, "errno", None) in _PASSING
            kind = DatabaseError if passes else UnusableDatabaseError
            raise kind(f"{self.path} cannot be made: {reason}") from error

        if not is_file:
            raise UnusableDatabaseError(f"{self.path} is no regular file")
        if remote is not None and self._options.journal_mode == "WAL":
            raise UnusableDatabaseError(
                f"{self.path} is on a file system of the network ({remote}), where "
                "machines share no memory; choose a path on a local disk"
            )
        if remote is not None:
            _logger.warning(
                "%s is on a file system of the network (%s); use it from one machine "
                "at a time",
                self.path,
                remote,
            )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        options = self._options
        # In one transaction: another process may be making the tables.
        connection.execute("BEGIN")
        is_current = self._is_current(connection)
        connection.execute("COMMIT")

        # Changes the file, so only once it is known to be ours.
        (mode,) = connection.execute(
            f"PRAGMA journal_mode = {options.journal_mode}"
        ).fetchone()
        if mode.upper() != options.journal_mode:
            raise DatabaseError(
                f"{self.path} cannot have the journal mode {options.journal_mode}; its "
                f"file system gives it {mode}"
            )
        connection.execute(f"PRAGMA synchronous = {options.synchronous}")

        if not is_current:
            self._create_tables(connection)

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        options = self._options
        connection.execute("BEGIN IMMEDIATE")

        # Another process may have been faster.
        if not self._is_current(connection):
            for statement in options.schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {options.application_id}")
            connection.execute(f"PRAGMA user_version = {options.version}")

        connection.execute("COMMIT")

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are of this version; raise if they are not ours."""
        options = self._options
        version, mark, tables = (
            connection.execute(query).fetchone()[0]
            for query in (
                "PRAGMA user_version",
                "PRAGMA application_id",
                "SELECT count(*) FROM sqlite_master",
            )
        )

        if (tables or version) and (not version or mark != options.application_id):
            raise UnusableDatabaseError(
                f"{self.path} is the database of another program; choose another path"
            )
        if version > options.version:
            raise UnusableDatabaseError(
                f"{self.path} was written by a newer release: its version is "
                f"{version}, this one knows {options.version}; upgrade, or choose "
                "another path"
            )

        return bool(version == options.version)

    def _close_quietly(self) -> None:
        with self._using:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None

        if connection is not None and self._pid == os.getpid():
            with suppress(sqlite3.Error):
                connection.close()

    def before_fork(self) -> None:
        """Wait for the transaction under way, close the file, and let none begin."""
        self._using.acquire()
        self._mutex.acquire()
        self._disconnect()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; the thread stays with the parent."""
        if in_child:
            self._thread, self._waiting = None, FairQueue()
            # Those of the parent; who is used here adds itself again.
            self.users.clear()
        self._mutex.release()
        self._using.release()


class SharedDatabase:
    """
    One user's access to a file, whose `Database` all users in this process share.

    It is made when it is used first, and closed when the last of them is.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options) -> None:
        """Name the file; nothing is opened yet."""
        self.path = Path(path)
        self.options = options
        self._database: Database | None = None

    async def run(
        self,
        work: Callable[[sqlite3.Connection], T],
        app: str = "",
        *,
        urgent: bool = False,
    ) -> T:
        """Return what *work* returns; see `Database.run()`."""
        if not self.path.is_absolute():
            # Once only, so that a process that changes its folder keeps its file; and
            # in a thread, because it asks the system.
            path = await in_thread(self.path.absolute)
            self.path = self.path if self.path.is_absolute() else path

        return await self._shared().run(work, app, urgent=urgent)

    async def aclose(self) -> None:
        """Close the file if no other user has it; may be called twice."""
        with _sharing:
            database, self._database = self._database, None
            if database is None:
                return
            database.users.discard(self)
            if database.users:
                return

        await database.aclose()

    def _shared(self) -> Database:
        with _sharing:
            database = self._database

            if database is None:
                key = self.path, self.options
                database = _shared.get(key)
                if database is None:
                    database = _shared[key] = Database(self.path, self.options)
                self._database = database

            # Each time: a fork forgets the users.
            database.users.add(self)

        return database


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None

    return status.st_dev, status.st_ino


def _remote_file_system(path: Path) -> str | None:
    """Return the type of a file's file system, if it is known as a remote one."""
    try:
        mounts = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return None

    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"

    for line in mounts:
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number and kind.split()[0] in _REMOTE:
            return kind.split()[0]

    return None


_creating = threading.Lock()
# Reentrant, because who shares a database may make it.
_sharing = threading.RLock()
_one_fork = threading.Lock()
_Key: TypeAlias = tuple[Path, Options]
_shared: weakref.WeakValueDictionary[_Key, Database] = weakref.WeakValueDictionary()
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking: list[Database] = []


def _before_fork() -> None:
    # Two threads that fork at once would wait for the same databases twice.
    _one_fork.acquire()
    _sharing.acquire()

    # Others go on while a transaction is waited for, and may make a database.
    while made := [each for each in _databases if each not in _forking]:
        _sharing.release()
        for database in made:
            database.before_fork()
        _forking.extend(made)
        _sharing.acquire()

    # Last, because a transaction that opens its file takes it.
    _creating.acquire()


def _after_fork(*, in_child: bool) -> None:
    _creating.release()
    _sharing.release()
    while _forking:
        _forking.pop().after_fork(in_child=in_child)
    _one_fork.release()


if hasattr(os, "register_at_fork"):
    # A process that inherits a connection believes to hold its locks: SQLite keeps
    # them in its memory by file, and no other connection would be better off.
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, in_child=False),
        after_in_child=partial(_after_fork, in_child=True),
    )
