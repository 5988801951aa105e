"""
One pool of connections for each process, event loop and server.

However many apps there are, their limiters and job stores share it: it has four
connections at most, none while nothing was asked for half a minute, and is closed
when the last of its users is. The apps take turns.

Each question is one statement, which is a transaction by itself: nothing is held in
between, and PgBouncer may give each one another connection. The server has two
seconds to answer; if it has answered no question in that time, all that wait fail at
once. A statement whose answer was lost is sent again: each can tell that it was carried
out before.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, LiteralString, Self, TypeAlias

import attrs
from psycopg import AsyncConnection, Error, OperationalError, errors, sql
from psycopg_pool import AsyncConnectionPool

from ..._core.secret import Secret
from ..._io.cancellation import finish_despite_cancel
from ..._io.fairness import FairSemaphore
from ..._io.per_loop import SharedPerLoop
from ..._io.stores import StoreFailedError, random_delay
from ..._io.timeouts import LagTolerantTimeout
from ...errors import ConfigurationError
from .address import Address
from .refusals import refusal_in
from .schema import MAJOR, schema_sql

Row: TypeAlias = tuple[Any, ...]

_TIMEOUT = 2.0
"""Seconds after which a server that has not answered counts as unavailable."""
_TRIES_FOR = 0.5
_SETUP_TIMEOUT = 30.0
_MOST_CONNECTIONS = 4
_IDLE_FOR = 30.0

_NO_SCHEMA = (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName)
_STANDBY = (errors.ReadOnlySqlTransaction, errors.ObjectNotInPrerequisiteState)
"""A server that is, or was, no primary one: it refuses to write, or to lock rows."""
_SETUP_LOCK = "SELECT pg_advisory_xact_lock(109386301371507)"
"""A number of our own: eight who begin at once make the schema one by one."""

_DURABLE = """
    durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))
"""
"""Does what `SET LOCAL` does, within a statement: it holds until its commit."""
_FORGETTABLE = """
    forgettable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
"""

_VERSION = """
    SELECT major, getdatabaseencoding(), tidied_at < {schema}.cohorts_clock() - 3600
    FROM {schema}.cohorts_version
"""
_BEGIN_TO_TIDY = """
    UPDATE {schema}.cohorts_version SET tidied_at = {schema}.cohorts_clock()
    WHERE tidied_at < {schema}.cohorts_clock() - 3600
    RETURNING tidied_at
"""
"""One process an hour does it: to look at all rows of a large fleet takes a while."""
_TIDY = """
    WITH time AS MATERIALIZED (SELECT {schema}.cohorts_clock() AS now),
    places AS (
        DELETE FROM {schema}.cohorts_place WHERE ctid = ANY (ARRAY(
            SELECT place.ctid FROM {schema}.cohorts_place AS place, time
            WHERE free_at < now - 604800 LIMIT 10000
        ))
    ),
    counters AS (
        DELETE FROM {schema}.cohorts_counter USING time WHERE until < now - 86400
    ),
    old AS (
        DELETE FROM {schema}.cohorts_group WHERE ctid = ANY (ARRAY(
            SELECT known.ctid FROM {schema}.cohorts_group AS known, time
            WHERE changed_at < now - CASE WHEN has_rows THEN 8640000 ELSE 86400 END
            LIMIT 10000
        ))
        RETURNING app, name
    )
    DELETE FROM {schema}.cohorts_row USING old
    WHERE cohorts_row.app = old.app AND cohorts_row.name = old.name
"""
"""
Removes what nobody needs any more: places after a week, so that an app that starts
each night finds its own, and rows of exports after a hundred days.
"""


@attrs.define(eq=False)
class _Connections:
    """The connections to a server that all its users in one event loop share."""

    server: Secret
    pool: AsyncConnectionPool[AsyncConnection[Row]] = attrs.field(init=False)
    opening: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    is_open: bool = False
    ready: set[str] = attrs.field(factory=set[str])
    unreachable: asyncio.Event = attrs.field(factory=asyncio.Event)
    semaphore: FairSemaphore = attrs.field(
        factory=lambda: FairSemaphore(_MOST_CONNECTIONS)
    )
    answered_at: float = -math.inf
    refusal: str | None = None
    """Why the server refuses this URL, as it said when we last connected."""
    reason: str = "cannot be reached"
    """The same, of one that let us in before: it may do so again."""

    def __attrs_post_init__(self) -> None:
        self.pool = _pool(
            self.server, self.tell_unreachable, _connection_class(self.note_failure)
        )

    def note_failure(self, error: OperationalError | None) -> None:
        """Note why connecting failed, if it did."""
        found = None if error is None else refusal_in(str(error))
        # One that let us in before is being put back, or another takes over.
        self.refusal = None if self.answered_at > -math.inf else found
        self.reason = found or "cannot be reached"

    def tell_unreachable(self, _pool: object) -> None:
        """Tell those who wait for a connection that there is none to be had."""
        self.unreachable.set()
        self.unreachable = asyncio.Event()

    async def connection(self, timeout: LagTolerantTimeout) -> AsyncConnection[Row]:
        """Return a connection, or raise `OperationalError` if there is none in time."""
        getting = asyncio.ensure_future(self.pool.getconn())
        failing = asyncio.ensure_future(self.unreachable.wait())
        timeout.on_expiry = failing.cancel

        try:
            await asyncio.wait([getting, failing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timeout.on_expiry = None
            failing.cancel()
            if not getting.done():
                getting.cancel()
                await asyncio.wait([getting])

        if getting.cancelled():
            raise OperationalError(f"the server {self.reason}")

        return getting.result()


def _check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raise `ConfigurationError` on the loop that psycopg refuses: that of Windows."""
    proactor = getattr(asyncio, "ProactorEventLoop", None)

    if proactor is not None and isinstance(loop, proactor):
        raise ConfigurationError(
            "Postgres needs another event loop on Windows, because psycopg cannot use "
            "the ProactorEventLoop: run your program by asyncio.Runner(loop_factory="
            "asyncio.SelectorEventLoop)"
        )


_by_server: SharedPerLoop[Secret, _Connections] = SharedPerLoop(_Connections)


class Server:
    """One user's access to a server, in one event loop; nothing is sent yet."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        _check_loop(self._loop)
        self._share = _by_server.enter(address.server)
        self._connections = self._share.value

    async def execute(
        self,
        statement: LiteralString,
        *,
        app: str,
        urgent: bool = False,
        **parameters: object,
    ) -> Sequence[Row]:
        """
        Return the rows that a statement yields, when it is the app's turn.

        Args:
            urgent: Whether it comes before what is not.
            statement: In it *{schema}* is ours, and *{durable}* a query that makes
                what it changes durable, *{forgettable}* one that lets it be answered
                before it is.

        Raises:
            StoreFailedError: The server did not answer, or not in time.
            ConfigurationError: The role may not do that, or the schema is not ours.
        """
        async with self._connections.semaphore.acquire(app, urgent=urgent):
            # A cancellation waits for the answer: to break off would cost a connection.
            return await finish_despite_cancel(
                self._execute(statement, {"app": app, **parameters})
            )

    async def aclose(self) -> None:
        """Close the pool, if this is its last user; may be called twice."""
        if self._share.leave():
            await finish_despite_cancel(self._connections.pool.close())

    async def _execute(
        self, statement: LiteralString, parameters: Mapping[str, object]
    ) -> Sequence[Row]:
        with LagTolerantTimeout(_TIMEOUT) as timeout:
            return await self._execute_with_retries(statement, parameters, timeout)

    async def _execute_with_retries(
        self,
        statement: LiteralString,
        parameters: Mapping[str, object],
        timeout: LagTolerantTimeout,
    ) -> Sequence[Row]:
        began = self._loop.time()
        # A server that is started again answers soon, or it will take longer than that.
        tries_until = math.inf

        while True:
            try:
                await self._prepare()
                rows = await self._execute_once(
                    _composed(statement, self._address.schema), parameters, timeout
                )
            except _NO_SCHEMA as error:
                # It was there: the server has lost it since.
                self._connections.ready.discard(self._address.schema)
                failed: Error = error
            except errors.InsufficientPrivilege as error:
                raise self._privilege_error(error) from None
            except (OperationalError, *_STANDBY) as error:
                self._check_refusal()
                failed = error
            except Error as error:
                raise StoreFailedError from error
            else:
                self._connections.answered_at = self._loop.time()
                return rows

            tries_until = min(tries_until, self._loop.time() + _TRIES_FOR)
            if timeout.expired or self._loop.time() + 0.05 >= tries_until:
                if self._connections.answered_at < began:
                    self._connections.semaphore.fail_waiters(
                        partial(_failed_with, failed)
                    )
                raise StoreFailedError from failed
            await asyncio.sleep(random_delay(0.01, 0.05))

    async def _execute_once(
        self,
        statement: bytes,
        parameters: Mapping[str, object] | None,
        timeout: LagTolerantTimeout,
    ) -> Sequence[Row]:
        if timeout.expired:
            raise OperationalError("the server did not answer in time")

        pool = self._connections.pool
        connection = await self._connections.connection(timeout)
        # Cancelling would ask the server, which may be what does not answer.
        timeout.on_expiry = partial(_hang_up, connection)

        try:
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else ()
        except _STANDBY:
            # Another server is the primary one, or will be by then.
            await connection.close()
            raise
        finally:
            timeout.on_expiry = None
            await pool.putconn(connection)

    async def _prepare(self) -> None:
        """Open the pool, and see that the schema is there."""
        connections, schema = self._connections, self._address.schema

        if schema in connections.ready:
            return

        async with connections.opening:
            if not connections.is_open:
                await connections.pool.open()
                connections.is_open = True
            if schema not in connections.ready:
                await self._check_schema()
                connections.ready.add(schema)

    async def _check_schema(self) -> None:
        found = await self._version_rows()

        if not found:
            await self._make_schema()
            found = await self._version_rows()

        major, encoding, is_untidy = found[0]

        if major > MAJOR:
            raise ConfigurationError(
                f"the schema {self._address.schema} in {self._address.shown} was made "
                "by a newer release of this package; install that one, or name another "
                "schema with ?schema= in the URL"
            )

        if encoding != "UTF8":
            raise ConfigurationError(
                f"the database in {self._address.shown} has the encoding {encoding}; "
                "use one with UTF8"
            )

        if is_untidy and await self._execute_setup(_BEGIN_TO_TIDY):
            await self._execute_setup(_TIDY)

    async def _version_rows(self) -> Sequence[Row]:
        try:
            return await self._execute_setup(_VERSION)
        except _NO_SCHEMA:
            return ()

    async def _execute_setup(self, statement: LiteralString) -> Sequence[Row]:
        with LagTolerantTimeout(_TIMEOUT) as timeout:
            return await self._execute_once(
                _composed(statement, self._address.schema), None, timeout
            )

    async def _make_schema(self) -> None:
        # Sent together, they are one transaction.
        statements = f"{_SETUP_LOCK};\n{schema_sql(self._address.schema)}"
        with LagTolerantTimeout(_SETUP_TIMEOUT) as timeout:
            await self._execute_once(statements.encode(), None, timeout)

    def _check_refusal(self) -> None:
        """Raise `ConfigurationError` if the server refuses this URL."""
        if (refusal := self._connections.refusal) is not None:
            told = (
                f"{self._address.shown} {refusal}: check user, password, database and "
                "options of the URL"
            )
            self._connections.semaphore.fail_waiters(partial(ConfigurationError, told))
            raise ConfigurationError(told) from None

    def _privilege_error(
        self, error: errors.InsufficientPrivilege
    ) -> ConfigurationError:
        told = error.diag.message_primary or "permission denied"
        return ConfigurationError(
            f"{self._address.shown} says {told!r}; let a role that may run what "
            "`python -m amplitude_cohorts_async.contrib.postgres "
            f"{self._address.schema} ROLE` prints, with the ROLE of the URL"
        )


@cache
def _composed(statement: LiteralString, schema: str) -> bytes:
    composed = sql.SQL(statement).format(
        schema=sql.Identifier(schema),
        durable=sql.SQL(_DURABLE),
        forgettable=sql.SQL(_FORGETTABLE),
    )

    return composed.as_string().encode()


def _connection_class(
    note: Callable[[OperationalError | None], None],
) -> type[AsyncConnection[Row]]:
    """Return a class of connections that notes how connecting ends: a pool only logs."""

    class Connection(AsyncConnection[Row]):
        @classmethod
        async def connect(cls, conninfo: str = "", **options: Any) -> Self:
            try:
                connection = await super().connect(conninfo, **options)
            except OperationalError as error:
                note(error)
                raise
            else:
                note(None)
                return connection

    return Connection


def _pool(
    server: Secret,
    unreachable: Callable[[object], None],
    connection_class: type[AsyncConnection[Row]],
) -> AsyncConnectionPool[AsyncConnection[Row]]:
    return AsyncConnectionPool(
        server,
        connection_class=connection_class,
        kwargs={
            "autocommit": True,
            # PgBouncer may give the next statement to another connection.
            "prepare_threshold": None,
            **_default_timeout(server),
        },
        name="amplitude-cohorts",
        min_size=0,
        max_size=_MOST_CONNECTIONS,
        max_idle=_IDLE_FOR,
        # Whoever waits has a time limit of its own.
        timeout=_SETUP_TIMEOUT,
        # It tries twice, and whoever asks next tries again.
        reconnect_timeout=0.05,
        reconnect_failed=unreachable,
        open=False,
    )


def _failed_with(cause: Error) -> StoreFailedError:
    failed = StoreFailedError()
    failed.__cause__ = cause

    return failed


def _default_timeout(server: Secret) -> dict[str, int]:
    return {} if "connect_timeout=" in server else {"connect_timeout": int(_TIMEOUT)}


def _hang_up(connection: AsyncConnection[Row]) -> None:
    """Let whoever waits for an answer hear that the connection is closed."""
    # Of a copy: libpq closes its own, when asyncio has let go of it.
    with (
        suppress(OSError, Error),
        socket.socket(fileno=os.dup(connection.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)
