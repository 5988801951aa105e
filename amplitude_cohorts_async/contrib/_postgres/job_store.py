"""
A job store in Postgres, for a fleet.

No transaction is open while work runs: a process that stops meanwhile holds up nobody.
One statement reads the rows of a group and the id of their last change; another one
stores what the work changed, if there was no other change in between. The group keeps
the ids of its last changes, so that one whose answer was lost is looked up.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Self, TypeVar
from uuid import uuid4

import anyio
import attrs

from ..._core.job_rows import Rows
from ..._core.secret import hidden
from ..._io.jobs.base import JobStore, Work
from ..._io.per_loop import PerLoop
from ..._io.stores import StoreFailedError, random_delay
from ...errors import JobStoreUnavailableError
from .address import address_of
from .server import Server

T = TypeVar("T")

_READ = """
    SELECT {schema}.cohorts_clock() + version.ahead AS now,
        (SELECT max(changed_at) FROM {schema}.cohorts_group WHERE app = %(app)s),
        (SELECT changes FROM {schema}.cohorts_group
            WHERE app = %(app)s AND name = %(name)s),
        array_agg(stored.key) FILTER (WHERE stored.key IS NOT NULL),
        array_agg(stored.value) FILTER (WHERE stored.key IS NOT NULL)
    FROM {schema}.cohorts_version AS version
    LEFT JOIN {schema}.cohorts_row AS stored
        ON stored.app = %(app)s AND stored.name = %(name)s
    GROUP BY version.ahead
"""
_GO_ON = """
    WITH {durable}
    UPDATE {schema}.cohorts_version
    SET ahead = greatest(ahead, %(latest)s - {schema}.cohorts_clock())
    FROM durable
"""
_STORE = """
    WITH {durable},
    changed AS (
        INSERT INTO {schema}.cohorts_group AS known
            (app, name, changes, changed_at, has_rows)
        SELECT %(app)s, %(name)s, ARRAY[%(change)s::text], %(now)s, %(has_rows)s
        FROM durable
        WHERE %(before)s::text = '' OR EXISTS (
            SELECT FROM {schema}.cohorts_group
            WHERE app = %(app)s AND name = %(name)s
        )
        ON CONFLICT (app, name) DO UPDATE
        SET changes = (excluded.changes || known.changes)[1:16],
            changed_at = greatest(known.changed_at, excluded.changed_at),
            has_rows = excluded.has_rows
        WHERE known.changes[1] = %(before)s
        RETURNING app, name
    ),
    gone AS (
        DELETE FROM {schema}.cohorts_row AS stored USING changed
        WHERE stored.app = changed.app AND stored.name = changed.name
            AND stored.key = ANY (%(gone)s::text[])
    ),
    kept AS (
        INSERT INTO {schema}.cohorts_row (app, name, key, value)
        SELECT changed.app, changed.name, new.key, new.value
        FROM changed, unnest(%(keys)s::text[], %(values)s::text[]) AS new (key, value)
        ON CONFLICT (app, name, key) DO UPDATE SET value = excluded.value
    )
    SELECT count(*) FROM changed
"""
_GROUPS = """
    SELECT name FROM {schema}.cohorts_group
    WHERE app = %(app)s AND has_rows ORDER BY name
"""


@attrs.frozen
class _Seen:
    """A group at one moment; *changes* are the ids of its last ones, newest first."""

    now: float
    changes: Sequence[str]
    rows: dict[str, str]

    @property
    def last(self) -> str:
        """The id of its last change; empty if there was none."""
        return self.changes[0] if self.changes else ""


class PostgresJobStore(JobStore):
    """Keeps rows in a database that the processes of a fleet share, durably."""

    durable = True
    # Until the URL is checked: a traceback may show it, too.
    _shown = "nothing yet"

    def __init__(self, url: str) -> None:
        """Describe the store; nothing is sent yet."""
        url = hidden(url)
        address = address_of(url)
        self._shown = address.shown
        self._servers = PerLoop(partial(Server, address))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Build the store, as in "postgresql://localhost/name"; nothing is sent yet.

        A `PostgresLimiter` brings one by itself. The option ``schema`` names the schema
        of its tables.

        Raises:
            ConfigurationError: It is no URL of a store.
        """
        url = hidden(url)

        return cls(url)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._shown}>"

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run *work* on the rows of a group, atomically; see `JobStore`."""
        # If another process changes the same rows meanwhile, this starts again. Calls
        # of one process take turns, and so hold one connection together.
        async with self.lock(f"rows of {app}: {group}"):
            while True:
                with self._translated():
                    seen = await self._read(app, group)

                rows = dict(seen.rows)
                result = work(rows, seen.now)
                if rows == seen.rows or await self._is_stored(app, group, seen, rows):
                    return result

                await anyio.sleep(random_delay(0.001, 0.02))

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups of an app that have rows."""
        with self._translated():
            rows = await self._servers.get().execute(_GROUPS, app=app)

        return [name for (name,) in rows]

    async def aclose(self) -> None:
        """Close the connections of the running loop; may be called twice."""
        if server := self._servers.pop():
            await server.aclose()

    async def _read(self, app: str, group: str) -> _Seen:
        while True:
            rows = await self._servers.get().execute(_READ, app=app, name=group)
            now, latest, changes, keys, values = rows[0]

            if latest is None or now >= latest:
                stored: dict[str, str] = dict(
                    zip(keys or [], values or [], strict=True)
                )
                return _Seen(now, changes or (), stored)

            # The server's clock was set back: ours goes on where it was.
            await self._servers.get().execute(_GO_ON, app=app, latest=latest)

    async def _is_stored(self, app: str, group: str, seen: _Seen, rows: Rows) -> bool:
        """Store rows; return whether nobody else changed the group in between."""
        change = uuid4().hex

        try:
            return await self._store(app, group, seen, rows, change)
        except StoreFailedError:
            try:
                return await self._look_up(app, group, change)
            except StoreFailedError as failed:
                raise self._unknown(failed) from failed.__cause__

    async def _store(
        self, app: str, group: str, seen: _Seen, rows: Rows, change: str
    ) -> bool:
        new = {k: v for k, v in rows.items() if seen.rows.get(k) != v}
        ((count,),) = await self._servers.get().execute(
            _STORE,
            app=app,
            urgent=True,
            name=group,
            before=seen.last,
            change=change,
            now=seen.now,
            has_rows=bool(rows),
            gone=[*(seen.rows.keys() - rows.keys())],
            keys=[*new],
            values=[*new.values()],
        )
        if count:
            return True

        # It may have been sent twice, and stored the first time.
        return change in (await self._read(app, group)).changes

    async def _look_up(self, app: str, group: str, change: str) -> bool:
        """
        Return whether a change was stored whose answer was lost.

        If it was not, another change takes its turn: it is never stored later.
        """
        while True:
            seen = await self._read(app, group)

            if change in seen.changes:
                return True
            if await self._store(app, group, seen, seen.rows, uuid4().hex):
                return False

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except StoreFailedError as failed:
            raise JobStoreUnavailableError(
                f"{self._shown}, which keeps the exports, did not answer "
                f"({_name(failed)}); nothing was sent, trying again is safe"
            ) from failed.__cause__

    def _unknown(self, failed: StoreFailedError) -> JobStoreUnavailableError:
        return JobStoreUnavailableError(
            f"{self._shown}, which keeps the exports, did not answer ({_name(failed)}): "
            "it is not known whether the last change was stored; nothing was sent"
        )


def _name(failed: StoreFailedError) -> str:
    return type(failed.__cause__).__name__
