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
        # The last connection to a server that had to show its certificate.
        self._vouched: dict[tuple[object, ...], TlsTransport] = {}

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

        async with asyncio.timeout(keywords["timeout"].sock_connect):
            plain, _ = await connect(asyncio.Protocol, **keywords)
            server = (key, context, hostname)
            vouched = self._vouched.get(server)
            session = vouched.session if vouched is not None else None

            try:
                transport = await secured(plain, handler, context, hostname, session)
            except ssl.SSLCertVerificationError as error:
                raise aiohttp.ClientConnectorCertificateError(key, error) from error
            except ssl.SSLError as error:
                raise aiohttp.ClientConnectorSSLError(key, error) from error
            except OSError as error:
                raise broken(key, error) from error

            if not transport.is_resumed:
                self._vouched[server] = transport

            return transport, handler
