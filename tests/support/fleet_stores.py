"""What a fleet shares, as its tests see it: a real Valkey, or a real Postgres."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from .postgres import Postgres, connected

if TYPE_CHECKING:
    from amplitude_cohorts_async.limiters import Limiter

    from .valkey import Valkey


class Server(Protocol):
    """A server that is killed and started again."""

    @property
    def url(self) -> str: ...
    @property
    def port(self) -> int: ...
    def url_at(self, port: int) -> str: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


class FleetStore(Protocol):
    """A store of places, and what a test may look at and change in it."""

    server: Server
    scheme: str
    contrib: str

    def use(self, *apps: str) -> None:
        """Mark it as in use for a while by some apps, or "app": a new one is waited out."""
        ...

    def taken(self, app: str = "app") -> dict[str, float]:
        """Return for each place that is taken for how many seconds it stays so."""
        ...

    def lose_places(self, app: str = "app") -> None:
        """Give away all places in flight."""
        ...

    def dump(self) -> list[bytes]:
        """Return all names and values in it."""
        ...

    def empty(self) -> None:
        """Forget everything."""
        ...


def limiter_of(store: FleetStore, *, url: str = "", **options: Any) -> Limiter:
    """Make a limiter of one process, on the store or on another one of its kind."""
    contrib = import_module(store.contrib)
    made = getattr(contrib, f"{store.scheme.title()}Limiter")

    return made.from_url(url or store.server.url, **options)  # type: ignore[no-any-return]


@attrs.frozen
class ValkeyStore:
    """A Valkey."""

    server: Valkey
    scheme: str = "redis"
    contrib: str = "amplitude_cohorts_async.contrib.redis"

    def _redis(self) -> Any:
        return import_module("redis").Redis.from_url(self.server.url)

    def use(self, *apps: str) -> None:
        """Set their epochs."""
        with self._redis() as redis:
            redis.mset({f"cohorts:{{{app}}}:epoch": "old" for app in apps or ("app",)})

    def taken(self, app: str = "app") -> dict[str, float]:
        """Read how long the keys last."""
        prefix = f"cohorts:{{{app}}}:"
        with self._redis() as redis:
            return {
                key.decode().removeprefix(prefix): redis.pttl(key) / 1000
                for key in redis.keys(f"{prefix}[cw]*:*")
            }

    def lose_places(self, app: str = "app") -> None:
        """Delete the keys."""
        with self._redis() as redis:
            redis.delete(*redis.keys(f"cohorts:{{{app}}}:c:*"))

    def dump(self) -> list[bytes]:
        """Read all keys."""
        with self._redis() as redis:
            names = list(redis.scan_iter())
            return [*names, *(redis.dump(name) or b"" for name in names)]

    def empty(self) -> None:
        """Flush it."""
        with self._redis() as redis:
            redis.flushall()


@attrs.frozen
class PostgresStore:
    """A Postgres."""

    server: Postgres
    scheme: str = "postgres"
    contrib: str = "amplitude_cohorts_async.contrib.postgres"

    def use(self, *apps: str) -> None:
        """Make the schema, and begin the epoch of the server."""
        schema = import_module("amplitude_cohorts_async.contrib._postgres.schema")
        with connected(self.server.url) as connection:
            connection.execute(schema.schema_sql())
            connection.execute(
                "INSERT INTO amplitude_cohorts.cohorts_pace (app, epoch, recovers_at) "
                "SELECT app, amplitude_cohorts.cohorts_epoch(), 0 FROM unnest(%s::text[]) AS app "
                "ON CONFLICT (app) DO UPDATE SET epoch = excluded.epoch, recovers_at = 0",
                [[*apps] or ["app"]],
            )

    def make_places(self, *apps: str) -> None:
        """Make the places of the documented limits, all free."""
        with connected(self.server.url) as connection:
            connection.execute(
                "INSERT INTO amplitude_cohorts.cohorts_place (app, pool, number, free_at) "
                "SELECT app, pool, number, 0 FROM unnest(%s::text[]) AS app, "
                "(VALUES ('w60', 4), ('c', 5)) AS made (pool, count), "
                "generate_series(0, count - 1) AS number",
                [[*apps]],
            )

    def taken(self, app: str = "app") -> dict[str, float]:
        """Read the rows that are not free."""
        with connected(self.server.url) as connection:
            rows = connection.execute(
                "SELECT pool || ':' || number, "
                "free_at - amplitude_cohorts.cohorts_clock() "
                "FROM amplitude_cohorts.cohorts_place WHERE app = %s",
                [app],
            )
            return {name: left for name, left in rows if left > 0}

    def lose_places(self, app: str = "app") -> None:
        """Give each to another permit."""
        with connected(self.server.url) as connection:
            connection.execute(
                "UPDATE amplitude_cohorts.cohorts_place SET permit = 'other' "
                "WHERE app = %s AND pool = 'c'",
                [app],
            )

    def dump(self) -> list[bytes]:
        """Read all tables."""
        with connected(self.server.url) as connection:
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'amplitude_cohorts'"
            ).fetchall()
            return [
                repr(row).encode()
                for (table,) in tables
                for row in connection.execute(
                    f"SELECT * FROM amplitude_cohorts.{table}"
                )
            ]

    def empty(self) -> None:
        """Drop the schema."""
        self.server.empty()
