"""
The rows of one app in the SQLite file of a machine, as one transaction sees them.

All moments are on the clock that the transaction was given. A place is taken while
there is a row that has not ended: a request that runs has rows until its lease is
over, and one that has ended keeps them for as long as the limits say. Requests that
wait have tickets, whose numbers are their order; a ticket that was not shown for
some seconds is passed over, and has its old place in line when it is shown again.
Who only tries, and comes back with a ticket from any process, is an owner of its own:
its tickets are shown in advance, until their lease is over.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Literal
from uuid import uuid4

import attrs

from ..._core.pacing import Pace
from ..machine import has_ended

VERSION = 1
APPLICATION_ID = 0x41434C31  # "ACL1"
SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS machine (
        one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL,
        boot TEXT NOT NULL, seen REAL NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS pace (
        app TEXT PRIMARY KEY, paused_until REAL NOT NULL, paused_at REAL NOT NULL,
        pauses INTEGER NOT NULL, refused_kind TEXT, step INTEGER NOT NULL,
        calm INTEGER NOT NULL, counted TEXT NOT NULL, learned_at REAL NOT NULL,
        last_start REAL NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS place (
        app TEXT, pool TEXT, id TEXT, state TEXT NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (app, pool, id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS ticket (
        number INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT NOT NULL,
        line TEXT NOT NULL, owner TEXT NOT NULL, seen REAL NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS ticket_line ON ticket (app, line, number)",
    """
    CREATE TABLE IF NOT EXISTS counter (
        app TEXT, name TEXT, value INTEGER NOT NULL, until TEXT NOT NULL,
        PRIMARY KEY (app, name)
    ) WITHOUT ROWID
    """,
)

State = Literal["running", "ended", "withheld"]

# Seconds after which a ticket that was not shown again is passed over, and forgotten.
PASSED_OVER = 3.0
_FORGOTTEN = 600.0
# A note of the time that is older by so much is renewed.
_NOTED_EVERY = 0.5

_PACE = "paused_until, paused_at, pauses, refused_kind, step, calm, counted, learned_at"


@attrs.frozen
class Row:
    """A place that is taken: at most until then."""

    id: str
    state: State
    until: float


@attrs.define(eq=False)
class Ticket:
    """The number of a request in a line; None until it is drawn."""

    line: str
    number: int | None = None


@attrs.frozen
class Ledger:
    """
    The rows of one app, in one transaction at one moment.

    Attributes:
        owner: Whose tickets are our own: a name, "@" and that of the process; or the
            text of a ticket.
    """

    connection: sqlite3.Connection
    app: str
    owner: str
    now: float

    def open(self, boot: str) -> str:
        """
        Return the name of this file's data; a restart of the machine keeps it.

        Moments are counted from the machine's boot, so after another boot all are
        moved. How long the machine was off is not known: what was taken for ten more
        seconds when the file was last used is taken for ten seconds from now on.

        Where boots have no names, another one shows by a clock that has gone back. If
        it has not, nothing is moved, and still no place is free too early: at least as
        much time has passed as this boot has run.
        """
        row = self.connection.execute(
            "SELECT epoch, boot, seen FROM machine"
        ).fetchone()
        if row is None:
            epoch = uuid4().hex
            values = epoch, boot, self.now
            self.connection.execute("INSERT INTO machine VALUES (1, ?, ?, ?)", values)
            return epoch

        epoch, noted, seen = row
        if noted != boot or self.now < seen:
            self._drop_over(seen)
            self._shift(self.now - seen)
        if noted != boot or not 0 <= self.now - seen < _NOTED_EVERY:
            self.connection.execute(
                "UPDATE machine SET boot = ?, seen = ?", [boot, self.now]
            )

        return str(epoch)

    def pace(self) -> Pace:
        """Return the pace that all processes keep."""
        row = self.connection.execute(
            f"SELECT {_PACE} FROM pace WHERE app = ?",  # noqa: S608 - a constant
            [self.app],
        ).fetchone()
        if row is None:
            return Pace()

        until, at, pauses, refused_kind, step, calm, counted, learned_at = row
        return Pace(
            paused_until=until,
            paused_at=at,
            pauses=pauses,
            refused_kind=refused_kind,
            step=step,
            calm=calm,
            counted=frozenset(counted.split()),
            learned_at=learned_at,
        )

    def last_start(self) -> float:
        """Return when the last request that counts was let go."""
        row = self.connection.execute(
            "SELECT last_start FROM pace WHERE app = ?", [self.app]
        ).fetchone()
        return -math.inf if row is None else float(row[0])

    def keep_pace(self, pace: Pace) -> None:
        """Set the pace of all processes."""
        self.connection.execute(
            f"INSERT OR REPLACE INTO pace (app, {_PACE}, last_start) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                self.app,
                pace.paused_until,
                pace.paused_at,
                pace.pauses,
                pace.refused_kind,
                pace.step,
                pace.calm,
                " ".join(sorted(pace.counted)),
                pace.learned_at,
                self.last_start(),
            ],
        )

    def note_start(self) -> None:
        """Note that a request that counts is let go now."""
        change = "UPDATE pace SET last_start = ? WHERE app = ?"
        if not self.connection.execute(change, [self.now, self.app]).rowcount:
            self.keep_pace(Pace())
            self.connection.execute(change, [self.now, self.app])

    def taken(self, pool: str) -> list[Row]:
        """Return the places of a pool that are taken, the first to be free first."""
        rows = self.connection.execute(
            "SELECT id, state, until FROM place "
            "WHERE app = ? AND pool = ? AND until > ? ORDER BY until",
            [self.app, pool, self.now],
        )
        return [Row(*row) for row in rows]

    def take(self, pool: str, place: str, *, seconds: float) -> None:
        """Take a place for a request that begins, and drop those that are over."""
        # Only this app's: the others may be many.
        self.connection.execute(
            "DELETE FROM place WHERE app = ? AND until <= ?", [self.app, self.now]
        )
        self.keep(pool, place, state="running", seconds=seconds)

    def keep(self, pool: str, place: str, *, state: State, seconds: float) -> None:
        """Leave a place taken for *seconds*; also one that was lost."""
        self.connection.execute(
            "INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?, ?)",
            [self.app, pool, place, state, self.now + seconds],
        )

    def renew(self, pool: str, place: str, *, seconds: float) -> bool:
        """Keep the place of a running request; return whether it had it still."""
        changed = self.connection.execute(
            "UPDATE place SET until = ? "
            "WHERE app = ? AND pool = ? AND id = ? AND until > ?",
            [self.now + seconds, self.app, pool, place, self.now],
        )
        return changed.rowcount == 1

    def free(self, pools: Iterable[str], place: str) -> None:
        """Give back the places of one request."""
        for pool in pools:
            self.connection.execute(
                "DELETE FROM place WHERE app = ? AND pool = ? AND id = ?",
                [self.app, pool, place],
            )

    def ahead(self, ticket: Ticket, *, others_only: bool = False) -> int:
        """Return how many tickets are ahead; *others_only*: of other owners."""
        owners = self.connection.execute(
            "SELECT owner, count(*) FROM ticket WHERE app = ? AND line = ? "
            "AND number < ? AND seen > ? AND owner != ? GROUP BY owner",
            [
                self.app,
                ticket.line,
                2**62 if ticket.number is None else ticket.number,
                self.now - PASSED_OVER,
                self.owner if others_only else "",
            ],
        ).fetchall()
        return sum(count for owner, count in owners if not self._is_gone(owner))

    def _is_gone(self, owner: str) -> bool:
        """Whether an owner has ended; its tickets go with it."""
        if owner == self.owner or not has_ended(owner.partition("@")[2]):
            return False

        # Its places stay: the service may go on with what was sent.
        self.connection.execute("DELETE FROM ticket WHERE owner = ?", [owner])
        return True

    def draw(self, ticket: Ticket) -> None:
        """Give a ticket the next number, unless it has one."""
        if ticket.number is None:
            drawn = self.connection.execute(
                "INSERT INTO ticket (app, line, owner, seen) VALUES (?, ?, ?, ?)",
                [self.app, ticket.line, self.owner, self.now],
            )
            ticket.number = drawn.lastrowid

    def show(self, tickets: Sequence[Ticket]) -> None:
        """Show that our requests with these tickets still wait."""
        self.connection.executemany(
            "INSERT INTO ticket VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (number) DO UPDATE SET seen = excluded.seen "
            "WHERE owner = excluded.owner",
            [
                (ticket.number, self.app, ticket.line, self.owner, self.now)
                for ticket in tickets
                if ticket.number is not None
            ],
        )
        over = self.now - _FORGOTTEN
        self.connection.execute(
            "DELETE FROM ticket WHERE app = ? AND seen < ?", [self.app, over]
        )

    def resume(self, tickets: Iterable[Ticket]) -> None:
        """Give our tickets the numbers they have had, unless their lease is over."""
        for ticket in tickets:
            line = self.app, ticket.line, self.owner
            self.connection.execute(
                "DELETE FROM ticket "
                "WHERE app = ? AND line = ? AND owner = ? AND seen <= ?",
                [*line, self.now - PASSED_OVER],
            )
            row = self.connection.execute(
                "SELECT number FROM ticket WHERE app = ? AND line = ? AND owner = ?",
                line,
            ).fetchone()
            ticket.number = None if row is None else row[0]

    def keep_tickets(self, tickets: Iterable[Ticket], *, seconds: float) -> None:
        """Show our tickets in advance, for *seconds* from now on."""
        self.connection.executemany(
            "UPDATE ticket SET seen = ? WHERE number = ? AND owner = ?",
            [
                (self.now + seconds - PASSED_OVER, ticket.number, self.owner)
                for ticket in tickets
            ],
        )

    def drop(self, ticket: Ticket) -> None:
        """Leave a line."""
        if ticket.number is not None:
            # The number of a transaction that failed may be another owner's by now.
            self.connection.execute(
                "DELETE FROM ticket WHERE number = ? AND owner = ?",
                [ticket.number, self.owner],
            )
            ticket.number = None

    def count(self, name: str, by: int, *, until: str) -> int:
        """Add to a counter, drop those that end earlier, return its value."""
        self.connection.execute(
            "DELETE FROM counter WHERE app = ? AND until < ?", [self.app, until]
        )
        self.connection.execute(
            "INSERT INTO counter VALUES (?, ?, ?, ?) ON CONFLICT (app, name) "
            "DO UPDATE SET value = value + excluded.value",
            [self.app, name, by, until],
        )
        (value,) = self.connection.execute(
            "SELECT value FROM counter WHERE app = ? AND name = ?", [self.app, name]
        ).fetchone()
        return int(value)

    def _drop_over(self, now: float) -> None:
        # Also of apps that nobody uses any more.
        self.connection.execute("DELETE FROM place WHERE until <= ?", [now])
        self.connection.execute("DELETE FROM ticket WHERE seen < ?", [now - _FORGOTTEN])

    def _shift(self, seconds: float) -> None:
        for table, *columns in (
            ("place", "until"),
            ("ticket", "seen"),
            ("pace", "paused_until", "paused_at", "learned_at", "last_start"),
        ):
            changes = ", ".join(f"{name} = {name} + ?" for name in columns)
            self.connection.execute(
                f"UPDATE {table} SET {changes}",  # noqa: S608 - constants
                [seconds] * len(columns),
            )
