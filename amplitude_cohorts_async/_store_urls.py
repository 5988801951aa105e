"""
The URLs of limiters and job stores: what they look like, and what they name.

No message shows a URL, which may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from .errors import ConfigurationError

if TYPE_CHECKING:
    from ._io.jobs.base import JobStore
    from ._io.limits.base import Limiter
    from .limits import Limits

T = TypeVar("T")

_POSTGRES = ("postgresql", "postgres")
_SERVERS = ("redis", "rediss", "unix", *_POSTGRES)
_SCHEMES = ("sqlite", *_SERVERS)

_BEGINS_LIKE_A_PATH = re.compile(r"\.{0,2}[/\\](?![/\\])|[A-Za-z]:[/\\](?![/\\])")
_LIKE_A_URL = re.compile(rf"({'|'.join(_SCHEMES)})//|.*[:=]", re.IGNORECASE | re.DOTALL)
"""
A URL that is not complete, or the options of a connection: no password comes without a
colon or "=" before it.
"""

_LIMITER = "limiter_url, or AMPLITUDE_LIMITER_URL,"
_JOBS = "jobs, or AMPLITUDE_JOBS,"


def limiter_of_url(url: str, limits: Limits) -> Limiter:
    """
    Return a `SqliteLimiter`, a `RedisLimiter` or a `PostgresLimiter`.

    Raises:
        ConfigurationError: It is no URL of one of them.
        MissingExtraError: The extra of the one it names is not installed.
    """
    scheme = _scheme(url)

    if scheme == "sqlite":
        from ._io.limits.sqlite import SqliteLimiter  # noqa: PLC0415 - at first use

        return SqliteLimiter(_sqlite_path(url, _LIMITER), limits=limits)

    if scheme not in _SERVERS:
        raise ConfigurationError(
            f"{_LIMITER} is no URL of a limiter: such a one begins with sqlite:///, "
            f"redis://, rediss://, unix:// or postgresql://, as in "
            f"redis://localhost:6379"
        )

    if scheme in _POSTGRES:
        from .contrib.postgres import PostgresLimiter  # noqa: PLC0415 - optional

        return _named(_LIMITER, partial(PostgresLimiter, url, limits=limits))

    from .contrib.redis import RedisLimiter  # noqa: PLC0415 - optional

    return _named(_LIMITER, partial(RedisLimiter, url, limits=limits))


def job_store_of_url(url: str) -> JobStore:
    """
    Return a `RedisJobStore` or a `PostgresJobStore`, of a URL that was checked.

    Raises:
        ConfigurationError: The library of its server refuses the URL.
        MissingExtraError: The extra of that library is not installed.
    """
    if _scheme(url) in _POSTGRES:
        from .contrib.postgres import PostgresJobStore  # noqa: PLC0415 - optional

        return _named(_JOBS, partial(PostgresJobStore, url))

    from .contrib.redis import RedisJobStore  # noqa: PLC0415 - optional

    return _named(_JOBS, partial(RedisJobStore, url))


def checked_path_or_url(text: str) -> Path | str:
    """
    Return the file, or the URL of the server, that keeps the exports.

    Raises:
        ConfigurationError: It looks like a URL, and is none of a job store.
    """
    scheme = _scheme(text)

    if scheme == "sqlite":
        return Path(_sqlite_path(text, _JOBS))

    if scheme in _SERVERS:
        return text

    if _BEGINS_LIKE_A_PATH.match(text) or not _LIKE_A_URL.match(text):
        return Path(text)

    raise ConfigurationError(
        f"{_JOBS} is no URL of a job store: such a one begins with "
        f"{', '.join(f'{name}://' for name in _SCHEMES)}; if it is the name of a file, "
        f"write ./ in front of it, or its whole path"
    )


def _scheme(url: str) -> str | None:
    scheme, separator, _ = url.partition("://")

    return scheme.lower() if separator else None


def _sqlite_path(url: str, given_by: str) -> str:
    """Return the path in the URL of a file of SQLite, as SQLAlchemy writes it."""
    host, _, quoted = url.partition("://")[2].partition("/")
    # What is no UTF-8 becomes unprintable.
    path = unquote(quoted, errors="surrogateescape")

    if host or set(quoted) & {"?", "#"} or not path or not path.isprintable():
        raise ConfigurationError(
            f"{given_by} names no file of SQLite: write sqlite:////var/lib/own.db for "
            "an absolute path, sqlite:///own.db for a relative one, percent-encoded, "
            "and neither host nor options"
        )

    return path


def _named(given_by: str, make: Callable[[], T]) -> T:
    """Make what a URL describes; an error names what gave the URL."""
    try:
        return make()
    except ConfigurationError as error:
        told = str(error)

    # Out here, because the frames of the checks hold parts of the URL.
    raise ConfigurationError(f"{given_by} cannot be used: {told}")
