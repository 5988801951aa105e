"""Connections to Redis 7 or Valkey, and the URLs that name one."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from ..._io.stores import shown_store
from ...errors import ConfigurationError

# redis-py would read its own version from disk for each connection.
_UNNAMED: dict[str, Any] = (
    {"driver_info": None}
    if find_spec("redis.driver_info")
    else {"lib_name": None, "lib_version": None}
)


def connect(url: str) -> Redis:
    """Return a client; nothing is sent yet."""
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        socket_timeout=None,  # see `Server.connection()`
        **_UNNAMED,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 3),
    )


def shown(url: str) -> str:
    """Return how messages name a store: without its user and password."""
    parts = urlsplit(url)
    path = parts.path.rpartition("@")[2]

    return shown_store(parts.hostname or path, parts.port)


def checked_url(url: str) -> str:
    """Return a URL of a store; raise `ConfigurationError` if redis-py refuses it."""
    if _is_right(url):
        return url

    # Without the cause, whose text may quote a part of the password.
    raise ConfigurationError(
        "this is no URL of a store: write redis://, rediss:// or unix://, a host and a "
        "port, as in redis://localhost:6379/0, and only options that redis-py knows; a "
        "user or a password is percent-encoded"
    )


def _is_right(url: str) -> bool:
    with suppress(ValueError, TypeError, AttributeError, RedisError):
        # All that redis-py would find wrong with it later on; this connects to nothing.
        pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            url, **_UNNAMED
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
        _check_database(url)
        return bool(shown(url))

    return False


def _check_database(url: str) -> None:
    """Raise `ValueError` unless a URL ends in the number of a database, or in none."""
    # For what is no number redis-py takes 0.
    parts = urlsplit(url)

    if parts.scheme != "unix" and (number := parts.path.strip("/")):
        int(number)
