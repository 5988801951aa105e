"""What goes wrong before a byte is sent: names, connections, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import aiohttp
import attrs
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from amplitude_cohorts_async.testing import CohortsEmulator

from .fault_server import closed_port
from .ports import GONE, LOOPBACK

API, STORE = "api.test", "store.test"
WIRE_FAULTS = ("no such host", "refused", "wrong certificate")


class NamedEmulator(CohortsEmulator):
    """An emulator whose links may name another origin."""

    link_origin: str | None = None

    @property
    def store_url(self) -> str:
        """The origin of the store, as links name it."""
        return self.link_origin or super().store_url


@attrs.define
class Names(AbstractResolver):
    """
    Leads each connection to where it belongs, but for the one that a test names.

    Attributes:
        ports: By name; the last one refuses, and the one before shows the
            certificate of somebody else.

        fault: One of `WIRE_FAULTS`; None for none.

        at: Which connection it happens to, from 1 on.

        always: Whether it also happens to all after that.
    """

    ports: dict[str, int]
    fault: str | None = None
    at: int = 0
    always: bool = False
    count: int = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Tell where a host is."""
        self.count += 1
        del port, family
        is_hit = self.fault is not None and (
            self.count == self.at or (self.always and self.count > self.at)
        )

        if is_hit and "no such host" == self.fault:
            raise OSError(None, "no such host")

        return [
            ResolveResult(
                hostname=host,
                host=LOOPBACK,
                port=self.ports[str(self.fault) if is_hit else host],
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing open."""


@functools.cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name)


def _server_context(authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = _authority(authority).issue_cert(API, STORE)
    certificate.configure_cert(context)

    return context


@functools.cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
    ours = ssl.create_default_context()
    _authority("ours").configure_trust(ours)

    return ours, _server_context("ours"), _server_context("theirs")


@asynccontextmanager
async def named(
    emulator: NamedEmulator,
) -> AsyncIterator[tuple[Names, aiohttp.ClientSession]]:
    """Put TLS and names before an emulator; each request has its own connection."""
    client, good, bad = _contexts()
    api, store = (
        int(urlsplit(url).port or 0) for url in (emulator.base_url, emulator.store_url)
    )

    async with AsyncExitStack() as stack:
        names = Names(
            {
                API: await stack.enter_async_context(_tls(good, api)),
                STORE: await stack.enter_async_context(_tls(good, store)),
                "wrong certificate": await stack.enter_async_context(_tls(bad, api)),
                "refused": stack.enter_context(closed_port()),
            }
        )
        emulator.link_origin = f"https://{STORE}"
        connector = aiohttp.TCPConnector(
            resolver=names, ssl=client, force_close=True, use_dns_cache=False
        )
        yield (
            names,
            await stack.enter_async_context(aiohttp.ClientSession(connector=connector)),
        )


@asynccontextmanager
async def _tls(context: ssl.SSLContext, port: int) -> AsyncIterator[int]:
    """Listen with TLS, and pass all on to a port."""
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        partial(_pass_on, port, tasks), LOOPBACK, 0, ssl=context
    )

    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(
    port: int,
    tasks: set[asyncio.Task[None]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    task = asyncio.current_task()
    assert task is not None
    tasks.add(task)
    behind, before = await asyncio.open_connection(LOOPBACK, port)

    try:
        with contextlib.suppress(*GONE, ssl.SSLError):
            await asyncio.gather(_copy(reader, before), _copy(behind, writer))
    except asyncio.CancelledError:
        pass
    finally:
        for each in (before, writer):
            each.transport.abort()
            with contextlib.suppress(*GONE, ssl.SSLError, asyncio.CancelledError):
                await each.wait_closed()
        tasks.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()

    with contextlib.suppress(*GONE, ssl.SSLError):
        writer.close()


def sockets() -> Iterator[str]:
    """List the open sockets of this process."""
    from pathlib import Path  # noqa: PLC0415

    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(entry.readlink())
            if name.startswith("socket:"):
                yield name
