"""A job store in a file of SQLite, for any number of processes of one machine."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from ..._core.job_rows import Rows
from ...errors import JobStoreUnavailableError
from ..machine import seconds_since_boot, this_boot
from ..sqlite import DatabaseError, Options, SharedDatabase
from .base import JobStore, Work

T = TypeVar("T")

Transaction: TypeAlias = Callable[[sqlite3.Connection], T]

_VERSION = 1
_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS rows (
        app TEXT, kind TEXT, key TEXT, value TEXT NOT NULL,
        PRIMARY KEY (app, kind, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS clock (
        boot TEXT NOT NULL, ahead REAL NOT NULL, latest REAL NOT NULL
    )
    """,
)
_BETWEEN_BOOTS = 60.0
"""Seconds, longer than any lease: those of the last boot have ended."""


class SqliteJobStore(JobStore):
    """
    Keeps rows in a file that all processes of a machine may use at the same time.

    What it keeps survives kill -9 and a loss of power.
    """

    durable = True
    local = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        journal_mode: Literal["WAL", "DELETE"] = "WAL",
    ) -> None:
        """
        Name the file; it is made at first use.

        Args:
            path: The file; ``-wal`` and ``-shm`` stand beside it.
            journal_mode: "WAL", or "DELETE", which is slower and also works on a
                network file system.
        """
        options = Options(
            schema=_SCHEMA,
            version=_VERSION,
            synchronous="FULL",
            journal_mode=journal_mode,
        )
        self._database = SharedDatabase(path, options)

    @property
    def path(self) -> Path:
        """The file, relative to the working folder until it is used first."""
        return self._database.path

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run *work* on the rows of a group, atomically; see `JobStore`."""

        def transaction(connection: sqlite3.Connection) -> T:
            """Read the rows, and write those that differ afterwards."""
            before = dict(
                connection.execute(
                    "SELECT key, value FROM rows WHERE app = ? AND kind = ?",
                    (app, group),
                )
            )
            rows, now = dict(before), _now(connection)
            result = work(rows, now)
            if rows != before:
                _write(connection, app, group, before, rows)
                connection.execute("UPDATE clock SET latest = ?", (now,))
            return result

        return await self._run(app, transaction)

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups of an app that have rows."""

        def read(connection: sqlite3.Connection) -> list[str]:
            """Read their names."""
            found = connection.execute(
                "SELECT DISTINCT kind FROM rows WHERE app = ?", (app,)
            )
            return [name for (name,) in found]

        return await self._run(app, read)

    async def aclose(self) -> None:
        """Close the file; it is opened again when it is used."""
        await self._database.aclose()

    async def _run(self, app: str, work: Transaction[T]) -> T:
        try:
            return await self._database.run(work, app)
        except DatabaseError as error:
            raise JobStoreUnavailableError(
                f"the job store cannot be used: {error}; mend that, or name "
                f"another one: no export was spent, and nothing was sent"
            ) from error


def _write(
    connection: sqlite3.Connection, app: str, group: str, before: Rows, after: Rows
) -> None:
    connection.executemany(
        "DELETE FROM rows WHERE app = ? AND kind = ? AND key = ?",
        [(app, group, key) for key in before.keys() - after.keys()],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
        [
            (app, group, key, value)
            for key, value in after.items()
            if before.get(key) != value
        ],
    )


def _now(connection: sqlite3.Connection) -> float:
    """
    Return the seconds of a clock that goes on from one boot to the next.

    The date may be set back, the time since the boot may not. After a boot every
    lease of the last one has ended.
    """
    boot, since = this_boot(), seconds_since_boot()
    row = connection.execute("SELECT boot, ahead, latest FROM clock").fetchone()

    if row is not None:
        known, ahead, latest = str(row[0]), float(row[1]), float(row[2])
        # Where a boot has no name, a clock that went back shows it.
        if known == boot and since + ahead >= latest:
            return since + ahead

    latest = float(row[2]) if row is not None else 0.0
    ahead = max(0.0, latest - since) + _BETWEEN_BOOTS
    connection.execute("DELETE FROM clock")
    connection.execute(
        "INSERT INTO clock VALUES (?, ?, ?)", (boot, ahead, since + ahead)
    )

    return since + ahead
