"""
The store's connections, over aiofastnet's TLS where that is installed.

aiohttp resolves the name, connects, keeps connections and speaks HTTP. One step is
overridden: the one in which it opens a connection to known addresses. An aiohttp that
has no such step, or calls it another way, opens its connections by itself, and so does
one that uses aiofastnet already.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import aiohttp
import aiohttp.connector

if TYPE_CHECKING:
    # Undocumented; at run time nothing depends on where it is.
    from aiohttp.client_proto import ResponseHandler

_NEEDED = {"req", "server_hostname", "ssl", "timeout"}
_KNOWN = _NEEDED | {"addr_infos", "client_error"}
"""The keywords that aiohttp calls the step with."""

_Connect: TypeAlias = Callable[
    ..., Awaitable["tuple[asyncio.Transport, ResponseHandler]"]
]


class FastConnector(aiohttp.TCPConnector):
    """A connector whose TLS is aiofastnet's, where that is possible."""

    async def _wrap_create_connection(
        self, *args: Any, **keywords: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        # aiohttp types its addresses only in part.
        connect = cast(
            "_Connect",
            super()._wrap_create_connection,  # pyright: ignore[reportUnknownMemberType]
        )
        loop, fastnet = asyncio.get_running_loop(), aiofastnet()

        if fastnet is None or not (
            _has_engine(fastnet, loop) and _is_known(args, keywords)
        ):
            return await connect(*args, **keywords)

        context, hostname = keywords.pop("ssl"), keywords.pop("server_hostname")
        key = keywords["req"].connection_key

        async with asyncio.timeout(keywords["timeout"].sock_connect):
            waiting, handler = _Waiting(), args[0]()
            plain, _ = await connect(lambda: waiting, **keywords)

            try:
                _check_silent(plain, waiting)
                transport = await fastnet.start_tls(
                    *(loop, plain, handler, context),
                    server_hostname=hostname,
                )
            except ssl.SSLCertVerificationError as error:
                failed = aiohttp.ClientConnectorCertificateError
                raise failed(key, _with_text(error)) from error
            except ssl.SSLError as error:
                raise aiohttp.ClientConnectorSSLError(key, _with_text(error)) from error
            except OSError as error:
                failed = keywords.get("client_error", aiohttp.ClientConnectorError)
                raise failed(key, error) from error

        handler.connection_made(transport)

        return transport, handler


class _Waiting(asyncio.Protocol):
    # Holds a connection until TLS takes it over.

    def __init__(self) -> None:
        self.is_spoken_to = False

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - none of it is TLS
        self.is_spoken_to = True


@cache
def aiofastnet() -> ModuleType | None:
    """Return the library, or None where it is not installed or not needed."""
    # aiohttp 3.15 and later connects through it if it is there.
    own = vars(aiohttp.connector).values()

    if any(
        str(getattr(each, "__module__", "")).startswith("aiofastnet") for each in own
    ):
        return None

    with suppress(ImportError):
        return import_module("aiofastnet")

    return None


def _has_engine(fastnet: ModuleType, loop: asyncio.AbstractEventLoop) -> bool:
    # A Python that is linked with OpenSSL statically, as uv's are, hides it. The slower
    # engine for these fails in each handshake on uvloop (aiofastnet 1.2.0).
    return bool(fastnet.OPENSSL_DYN_LIBS) or isinstance(loop, asyncio.BaseEventLoop)


def _check_silent(plain: asyncio.Transport, waiting: _Waiting) -> None:
    # A handshake on a connection that is gone would wait for ever.
    if plain.is_closing():
        raise ConnectionResetError("the connection was closed before the handshake")

    if waiting.is_spoken_to:
        plain.abort()
        raise ssl.SSLError(1, "the server spoke before the handshake, so it has no TLS")


def _with_text(error: ssl.SSLError) -> ssl.SSLError:
    # aiohttp quotes the arguments, and aiofastnet's errors have none.
    error.args = error.args or (1, str(error))

    return error


def _is_known(args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    return (
        len(args) == 1
        and _NEEDED <= keywords.keys() <= _KNOWN
        and isinstance(keywords["ssl"], ssl.SSLContext)
        and hasattr(keywords["req"], "connection_key")
    )


def engine_of(transport: asyncio.Transport) -> str:
    """Return whose TLS a connection has, and on which engine, for a log."""
    # aiofastnet's slower engine is Python's `ssl`; see `_has_engine()`.
    engine = transport.get_extra_info("ssl_object")
    tls = f"{type(transport).__module__} on {type(engine).__module__}"

    return "no TLS" if engine is None else tls
