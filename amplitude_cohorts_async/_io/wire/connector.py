"""
aiohttp's connector, with TLS that is read straight from its socket.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from .tls import TlsTransport, secured

_NEEDED = {"req", "server_hostname", "ssl", "timeout"}
_KNOWN = _NEEDED | {"addr_infos", "client_error"}
"""
What aiohttp calls the step with.
"""

_SERVERS = 16
"""
Servers whose sessions are kept.
"""

_Connect: TypeAlias = Callable[
    ..., Awaitable[tuple[asyncio.Transport, ResponseHandler]]
]


class StoreConnector(aiohttp.TCPConnector):
    """
    Opens connections to the store.

    aiohttp resolves the name, connects, keeps connections and speaks HTTP; only
    the TLS in between is ours. It hooks into the one step in which aiohttp opens a
    connection to known addresses. An aiohttp that does not take this step, or
    takes it another way, opens connections of its own, which are slower.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)  # pyright: ignore[reportUnknownMemberType]
        # By server: the last connection with a handshake of its own, from whose
        # session others go on; None where that has failed once.
        self._first: dict[tuple[object, ...], TlsTransport | None] = {}

    async def _wrap_create_connection(
        self, *args: Any, **keywords: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        is_known = (
            len(args) == 1
            and _NEEDED <= keywords.keys() <= _KNOWN
            and isinstance(keywords["ssl"], ssl.SSLContext)
        )

        # aiohttp types its addresses by halves.
        connect = cast("_Connect", super()._wrap_create_connection)  # pyright: ignore[reportUnknownMemberType]

        # Windows' loop watches no sockets for others.
        if not is_known or sys.platform == "win32":
            return await connect(*args, **keywords)

        context = keywords.pop("ssl")
        hostname = keywords.pop("server_hostname")
        key = keywords["req"].connection_key
        broken = keywords.get("client_error", aiohttp.ClientConnectorError)
        handler = args[0]()

        async def shake_hands(session: ssl.SSLSession | None) -> TlsTransport:
            plain, _ = await connect(asyncio.Protocol, **keywords)

            return await secured(plain, handler, context, hostname, session)

        async with asyncio.timeout(keywords["timeout"].sock_connect):
            try:
                return await self._go_on((key, context, hostname), shake_hands), handler
            except aiohttp.ClientError:
                raise
            except ssl.SSLCertVerificationError as error:
                raise aiohttp.ClientConnectorCertificateError(key, error) from error
            except ssl.SSLError as error:
                raise aiohttp.ClientConnectorSSLError(key, error) from error
            except OSError as error:
                raise broken(key, error) from error

    async def _go_on(
        self,
        server: tuple[object, ...],
        shake_hands: Callable[[ssl.SSLSession | None], Awaitable[TlsTransport]],
    ) -> TlsTransport:
        first = self._first.get(server)
        session = None if first is None else first.session

        try:
            transport = await shake_hands(session)
        except aiohttp.ClientError:
            raise
        except BaseException as error:
            if session is None:
                raise

            # There may be a box on the way that cannot stand a resumption.
            self._remember(server, None)

            if not isinstance(error, OSError):
                raise

            return await shake_hands(None)

        if not transport.is_resumed and self._first.get(server, transport) is not None:
            self._remember(server, transport)

        return transport

    def _remember(
        self, server: tuple[object, ...], transport: TlsTransport | None
    ) -> None:
        self._first[server] = transport

        if len(self._first) > _SERVERS:
            del self._first[next(iter(self._first))]
