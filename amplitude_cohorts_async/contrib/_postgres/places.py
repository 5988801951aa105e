"""
The places and the shared state of one app in Postgres.

A place is a row that is free from a moment on. One short statement takes the place
that has been free the longest, and skips those that others are about to take. Its
permit is made here, so that a place is found again whose answer was lost. The
database's clock alone decides. What takes or keeps a place is durable before it is
answered; what gives one back need not be.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import LiteralString
from uuid import uuid4

import attrs

from ..._io.limits.leases import (
    Held,
    LeaseLostError,
    Pool,
    Snapshot,
)
from ..._io.stores import StoreFailedError
from .server import Row, Server

# Seconds for which a 429 has an effect.
_STRICT_FOR = 1_800
_COUNTED_FOR = 30 * 86_400

_TAKE = """
    WITH {durable},
    mine AS MATERIALIZED (
        SELECT number FROM {schema}.cohorts_place
        WHERE app = %(app)s AND pool = %(pool)s AND permit = %(permit)s
    ),
    free AS MATERIALIZED (
        SELECT number FROM {schema}.cohorts_place
        WHERE app = %(app)s AND pool = %(pool)s AND number < %(count)s
            AND free_at <= {schema}.cohorts_clock()
            AND NOT EXISTS (SELECT FROM mine)
        ORDER BY free_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ),
    taken AS (
        UPDATE {schema}.cohorts_place AS place
        SET free_at = {schema}.cohorts_clock() + %(ttl)s, permit = %(permit)s
        FROM free, durable
        WHERE place.app = %(app)s AND place.pool = %(pool)s
            AND place.number = free.number
        RETURNING place.number
    )
    SELECT EXISTS (SELECT FROM taken) OR EXISTS (SELECT FROM mine),
        CASE WHEN count(*) < %(count)s THEN -1
            ELSE greatest(0, min(free_at) - {schema}.cohorts_clock()) END
    FROM {schema}.cohorts_place
    WHERE app = %(app)s AND pool = %(pool)s AND number < %(count)s
"""
_MAKE = """
    INSERT INTO {schema}.cohorts_place (app, pool, number, free_at)
    SELECT %(app)s, %(pool)s, number, 0
    FROM generate_series(0, %(count)s::integer - 1) AS number
    ON CONFLICT DO NOTHING
"""
_EXTEND = """
    WITH {durable}
    UPDATE {schema}.cohorts_place
    SET free_at = {schema}.cohorts_clock() + %(seconds)s
    FROM durable
    WHERE app = %(app)s AND pool = %(pool)s AND permit = %(permit)s
        AND free_at > {schema}.cohorts_clock()
    RETURNING number
"""
_RELEASE = """
    WITH {forgettable}
    UPDATE {schema}.cohorts_place
    SET free_at = {schema}.cohorts_clock() + %(seconds)s
    FROM forgettable
    WHERE app = %(app)s AND pool = %(pool)s AND permit = %(permit)s
        AND free_at > {schema}.cohorts_clock()
    RETURNING number
"""
"""If it is forgotten, the place is taken until its lease is over."""
_LEFT = """
    SELECT free_at - {schema}.cohorts_clock() FROM {schema}.cohorts_place
    WHERE app = %(app)s AND pool = %(pool)s AND number < %(count)s
"""
_READ = """
    SELECT epoch, {schema}.cohorts_epoch(), paused_until - time.now,
        recovers_at - time.now, CASE WHEN step_until > time.now THEN step ELSE 0 END,
        counted_until > time.now
    FROM (SELECT {schema}.cohorts_clock() AS now OFFSET 0) AS time,
        {schema}.cohorts_pace
    WHERE app = %(app)s
"""
_BEGIN_EPOCH = """
    WITH {durable}
    INSERT INTO {schema}.cohorts_pace AS pace (app, epoch, recovers_at)
    SELECT %(app)s, {schema}.cohorts_epoch(), {schema}.cohorts_clock() + %(wait)s
    FROM durable
    ON CONFLICT (app) DO UPDATE
    SET epoch = excluded.epoch, recovers_at = excluded.recovers_at
    WHERE pace.epoch <> excluded.epoch
    RETURNING app
"""
_PAUSE = """
    WITH {durable},
    before AS MATERIALIZED (
        SELECT paused_until > {schema}.cohorts_clock() AS paused
        FROM {schema}.cohorts_pace WHERE app = %(app)s FOR UPDATE
    )
    UPDATE {schema}.cohorts_pace
    SET paused_until =
        greatest(paused_until, {schema}.cohorts_clock() + %(seconds)s)
    FROM before, durable WHERE app = %(app)s
    RETURNING before.paused
"""
_SPREAD_OUT = """
    WITH {durable}
    UPDATE {schema}.cohorts_pace
    SET step = 1
        + CASE WHEN step_until > {schema}.cohorts_clock() THEN step ELSE 0 END,
        step_until = {schema}.cohorts_clock() + %(seconds)s
    FROM durable WHERE app = %(app)s
"""
_COUNT_ALL = """
    WITH {durable}
    UPDATE {schema}.cohorts_pace
    SET counted_until = {schema}.cohorts_clock() + %(seconds)s
    FROM durable WHERE app = %(app)s
"""
_SPACE = """
    WITH {durable},
    begun AS (
        UPDATE {schema}.cohorts_pace
        SET space_until = {schema}.cohorts_clock() + %(seconds)s
        FROM durable
        WHERE app = %(app)s AND space_until <= {schema}.cohorts_clock()
        RETURNING app
    )
    SELECT CASE WHEN EXISTS (SELECT FROM begun) THEN 0
        ELSE greatest(0.001, space_until - {schema}.cohorts_clock()) END
    FROM {schema}.cohorts_pace WHERE app = %(app)s
"""
_ADD = """
    WITH {durable}
    INSERT INTO {schema}.cohorts_counter AS counter (app, name, value, until, entries)
    SELECT %(app)s, %(name)s, %(by)s, %(until)s, ARRAY[%(entry)s::text] FROM durable
    ON CONFLICT (app, name) DO UPDATE
    SET value = counter.value
            + CASE WHEN %(entry)s = ANY (counter.entries) THEN 0 ELSE %(by)s END,
        until = excluded.until,
        entries = (excluded.entries || counter.entries)[1:16]
    RETURNING value
"""


class PostgresPlaces:
    """The places of one app, as one event loop reaches them; see `SharedStore`."""

    def __init__(self, server: Server, app: str) -> None:
        self._server = server
        self._app = app
        self._in_doubt: list[_HeldPlace] = []

    async def warning(self) -> str | None:
        """Return None: no setting of the server matters that is not made here."""
        return None

    async def try_take(self, pool: Pool, *, urgent: bool = False) -> Held | float:
        """Take the place that is free the longest, or return when the first one is."""
        held = _HeldPlace(self._server, self._app, pool.name, permit=uuid4().hex)
        await self._give_back()

        try:
            left = await self._take(pool, held.permit, urgent=urgent)
            if left is not None and left < 0:
                # A place is missing.
                await self._ask(_MAKE, urgent=urgent, pool=pool.name, count=pool.count)
                left = await self._take(pool, held.permit, urgent=urgent)
        except StoreFailedError:
            # It may have been taken all the same, now or later.
            self._in_doubt.append(held)
            raise

        return held if left is None else max(0.0, left)

    async def seconds_left(self, pool: Pool) -> list[float]:
        """Return for each place that is taken how long it stays so."""
        rows = await self._ask(_LEFT, pool=pool.name, count=pool.count)

        return [seconds for (seconds,) in rows if seconds > 0]

    async def read(self, *, urgent: bool = False) -> Snapshot:
        """Return the whole state, in one round trip."""
        rows = await self._ask(_READ, urgent=urgent)

        if not rows:
            return Snapshot(pause=0.0, epoch=None, recovery=0.0, step=0, counted=False)

        known, epoch, pause, recovery, step, counted = rows[0]
        return Snapshot(
            pause=max(0.0, pause),
            epoch=epoch if epoch == known else None,
            recovery=max(0.0, recovery),
            step=step,
            counted=counted,
        )

    async def begin_epoch(self, wait: float) -> bool:
        """Set the epoch, and make all wait until lost leases would have ended."""
        return bool(await self._ask(_BEGIN_EPOCH, wait=wait))

    async def pause(self, seconds: float) -> bool:
        """Pause all processes; return whether there was no pause yet."""
        if seconds <= 0:
            return True

        rows = await self._ask(_PAUSE, urgent=True, seconds=seconds)
        return not any(paused for (paused,) in rows)

    async def spread_out(self) -> None:
        """Spread exports out further, for half an hour at least."""
        await self._ask(_SPREAD_OUT, urgent=True, seconds=_STRICT_FOR)

    async def count_all(self) -> None:
        """Make polls and files count in the windows from now on."""
        await self._ask(_COUNT_ALL, urgent=True, seconds=_COUNTED_FOR)

    async def try_space(self, seconds: float) -> float:
        """Begin the next gap, or return how long the current one lasts."""
        rows = await self._ask(_SPACE, seconds=seconds)

        return max((float(left) for (left,) in rows), default=0.0)

    async def add(self, name: str, by: int, *, until: datetime) -> int:
        """Add to a counter and return its value."""
        ((value,),) = await self._ask(
            _ADD, name=name, by=by, until=until.timestamp(), entry=uuid4().hex
        )

        return int(value)

    async def _take(self, pool: Pool, permit: str, *, urgent: bool) -> float | None:
        """Return None if a place was taken, or when the first one is free."""
        ((taken, left),) = await self._ask(
            _TAKE,
            urgent=urgent,
            pool=pool.name,
            count=pool.count,
            permit=permit,
            ttl=pool.ttl,
        )

        return None if taken else float(left)

    async def _give_back(self) -> None:
        """Free the places whose taking was not answered."""
        while self._in_doubt:
            with suppress(LeaseLostError):
                await self._in_doubt[-1].release()
            self._in_doubt.pop()

    async def _ask(
        self,
        statement: LiteralString,
        *,
        urgent: bool = False,
        **parameters: object,
    ) -> list[Row]:
        return [
            *await self._server.execute(
                statement, app=self._app, urgent=urgent, **parameters
            )
        ]


@attrs.frozen(eq=False)
class _HeldPlace:
    """A place that this process holds."""

    server: Server
    app: str
    pool: str
    permit: str

    async def extend(self, seconds: float) -> None:
        """Keep the place for *seconds* from now."""
        await self._set(_EXTEND, seconds)

    async def release(self, *, after: float = 0.0) -> None:
        """Free the place in *after* seconds; nobody waits for the disk."""
        await self._set(_RELEASE, after)

    async def _set(self, statement: LiteralString, seconds: float) -> None:
        rows = await self.server.execute(
            statement,
            app=self.app,
            urgent=True,
            pool=self.pool,
            permit=self.permit,
            seconds=seconds,
        )

        if not rows:
            raise LeaseLostError
