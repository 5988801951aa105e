"""A proxy between a client and a server that passes bytes on, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs

from .ports import GONE, LOOPBACK, hang_up


@attrs.define(eq=False)
class Proxy:
    """
    Passes on what both sides say.

    Attributes:
        port: Where it listens.
        forwards: Cleared while it passes nothing on, and closes nothing either.
        swallows: How many connections from now on lose an answer that comes to a
            question with *word* in it, and are closed instead.
        lost: How many did.
    """

    upstream: int
    port: int = 0
    forwards: asyncio.Event = attrs.field(factory=asyncio.Event)
    word: bytes = b""
    swallows: int = 0
    lost: int = 0
    _open: set[asyncio.StreamWriter] = attrs.field(
        init=False, factory=set[asyncio.StreamWriter]
    )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Serve meanwhile."""
        self.forwards.set()
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]

        try:
            yield self
        finally:
            self.forwards.set()
            server.close()
            for writer in list(self._open):
                await hang_up(writer)
            await server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        upstream: asyncio.StreamWriter | None = None
        self._open.add(writer)

        with suppress(*GONE):
            answers, upstream = await asyncio.open_connection(LOOPBACK, self.upstream)
            link = _Link()
            pumps = [
                asyncio.ensure_future(self._pump(reader, upstream, link, asks=True)),
                asyncio.ensure_future(self._pump(answers, writer, link, asks=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

        self._open.discard(writer)
        await hang_up(writer)
        if upstream is not None:
            await hang_up(upstream)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        to: asyncio.StreamWriter,
        link: _Link,
        *,
        asks: bool,
    ) -> None:
        while piece := await source.read(65_536):
            await self.forwards.wait()
            if asks and self.swallows and self.word in piece:
                self.swallows -= 1
                link.loses = True
            elif not asks and link.loses:
                self.lost += 1
                return
            to.write(piece)
            await to.drain()


@attrs.define(eq=False)
class _Link:
    loses: bool = False
