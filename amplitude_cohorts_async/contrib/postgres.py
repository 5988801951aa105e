"""
A limiter and a job store that the processes of a fleet share through Postgres.

Each place of each limit is a row that one request holds; see `_postgres.places`. Rows
contain a hash of the app, never an API key. The tables are made at first use, in a
schema of their own; for a role that may not do that,
``python -m amplitude_cohorts_async.contrib.postgres [SCHEMA [ROLE]]`` prints the SQL.

While the database is unavailable nothing is sent: `LimiterUnavailableError`.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Literal, Self

from .._core.secret import hidden
from .._io.jobs.base import JobStore
from .._io.limits.fleet import FleetLimiter
from .._io.per_loop import PerLoop
from ..errors import MissingExtraError
from ..limits import DOCUMENTED, Limits

try:
    from ._postgres.address import address_of
    from ._postgres.job_store import PostgresJobStore
    from ._postgres.places import PostgresPlaces
    from ._postgres.print_schema import print_schema
    from ._postgres.server import Server
except ImportError as _error:
    # Not only of a module: psycopg without a libpq raises one as well.
    raise MissingExtraError("a fleet on Postgres", extra="postgres") from _error

__all__ = ("PostgresJobStore", "PostgresLimiter")


class PostgresLimiter(FleetLimiter):
    """
    Keeps the limits of one app together with other processes.

    Within a process requests are admitted in the order they came; a place that
    several processes wait for goes to the first that asks. After a database is used
    for the first time, was started anew or taken over by another server, nothing
    starts until all it may have forgotten is over: about a minute and a half with the
    documented limits.
    """

    def __init__(
        self,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        lease: float = 30.0,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> None:
        """Take the parameters of `from_url()`."""
        # The locals of this frame are seen by who shows a traceback with them.
        url = hidden(url)
        address = address_of(url)
        self._servers = PerLoop(partial(Server, address))
        self._jobs = PostgresJobStore(url)
        super().__init__(
            lambda app: PostgresPlaces(self._servers.get(), app),
            shown=address.shown,
            app=app,
            limits=limits,
            lease=lease,
            on_outage=on_outage,
            processes=processes,
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        app: str | None = None,
        limits: Limits = DOCUMENTED,
        lease: float = 30.0,
        on_outage: Literal["share"] | None = None,
        processes: int | None = None,
    ) -> Self:
        """
        Build the limiter; nothing is sent yet.

        Args:
            url: The database, as in "postgresql://localhost:5432/name"; the option
                ``schema`` names the schema of the tables.
            app: A name for the app in the rows; None uses the client's, a hash of
                origin and API key.
            limits: The limits; the same for all processes.
            lease: Seconds after which the place of a process that died is free
                again. While a request runs, its lease is renewed.
            on_outage: None sends nothing while the database is unavailable. "share"
                continues with a fixed share of the limits once everything the
                database held is over; safe while it is unavailable to all processes.
            processes: How many processes share the limits then.

        Raises:
            ConfigurationError: It is no URL of a database, or there are more processes
                than places.
        """
        url = hidden(url)

        return cls(
            url,
            app=app,
            limits=limits,
            lease=lease,
            on_outage=on_outage,
            processes=processes,
        )

    @property
    def job_store(self) -> JobStore:
        """The exports of the fleet."""
        return self._jobs

    async def aclose(self) -> None:
        """Close the connections of the running loop; may be called twice."""
        await super().aclose()
        await self._jobs.aclose()

        if server := self._servers.pop():
            await server.aclose()


if __name__ == "__main__":
    print_schema(sys.argv[1:])
