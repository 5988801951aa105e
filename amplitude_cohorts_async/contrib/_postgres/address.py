"""URLs of a database, checked at once."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import unquote, urlsplit

import attrs
from psycopg import Error, conninfo, pq

from ..._core.secret import Secret
from ..._io.stores import shown_store
from ...errors import ConfigurationError
from .schema import DEFAULT_SCHEMA, checked_schema

SCHEMES = ("postgresql", "postgres")

# What libpq reads only once it connects over TCP.
_NUMBERS = (
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval"),
    *("keepalives_count", "tcp_user_timeout"),
)
# A socket that cannot exist: all that comes before connecting is checked.
_NOWHERE = "/dev/null"
_ASKS_NOBODY = "connection to server on socket"


@attrs.frozen
class Address:
    """
    Where the tables are.

    Attributes:
        server: What libpq connects to; may hold a password.
        schema: The schema of the tables.
        shown: How messages name it, without user and password.
    """

    server: Secret = attrs.field(repr=False)
    schema: str
    shown: str


def address_of(url: str) -> Address:
    """Return the address in a URL; raise `ConfigurationError` if libpq refuses it."""
    server, schema = _without_schema(url)
    shown = _shown(server)

    if shown is None:
        # Without the cause, whose text may quote a part of the password.
        raise ConfigurationError(
            "this is no URL of a store: write postgresql://, a host and a port, as in "
            "postgresql://localhost:5432/name, and only options that libpq knows, or "
            "schema=; a user or a password is percent-encoded"
        )

    return Address(server, checked_schema(schema), shown)


def _without_schema(url: str) -> tuple[Secret, str]:
    """Return the URL without its option `schema`, and that option."""
    start, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    schemas = [each for each in options if each.startswith("schema=")]
    others = "&".join(each for each in options if each not in schemas)
    named = unquote(schemas[-1].removeprefix("schema=")) if schemas else DEFAULT_SCHEMA

    return Secret(f"{start}?{others}" if others else start), named


def _shown(server: str) -> str | None:
    """Return how messages name a server; None if libpq would refuse the URL."""
    with suppress(ValueError, Error):
        parts = urlsplit(server)
        # What follows a "/" in a password that is not percent-encoded holds the "@".
        if parts.scheme not in SCHEMES or not server.isprintable() or "@" in parts.path:
            return None

        options = {
            name: str(value)
            for name, value in conninfo.conninfo_to_dict(server).items()
        }
        for name in _NUMBERS:
            int(options.get(name, 0))
        host = options.get("host") or options.get("hostaddr") or "of this machine"
        # A password that holds an "@" ends at the first one for libpq.
        if "@" not in host and _is_complete(options):
            return shown_store(host, options.get("port"))

    return None


def _is_complete(options: dict[str, str]) -> bool:
    hosts = (options.get("host") or options.get("hostaddr") or "").count(",") + 1
    tried = {
        **{k: v for k, v in options.items() if k not in {"hostaddr", "service"}},
        "host": ",".join([_NOWHERE] * hosts),
    }
    connection = pq.PGconn.connect_start(conninfo.make_conninfo(**tried).encode())
    told = connection.error_message.decode(errors="replace")
    connection.finish()

    return _ASKS_NOBODY in told
