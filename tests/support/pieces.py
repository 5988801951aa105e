"""A server that sends one answer to every request, in the pieces a test chose."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Self

from .ports import GONE, LOOPBACK, hang_up

PAUSE = 0.002
"""Seconds between two pieces: enough for the other side to see them apart."""


class PieceServer:
    """
    Answers each request with the same pieces; keeps connections.

    Attributes:
        pieces: Bytes, and None for a silence that lasts.

        connections: How many there were.

        open: How many there are.
    """

    def __init__(
        self, *pieces: bytes | None, context: ssl.SSLContext | None = None
    ) -> None:
        self.pieces: Sequence[bytes | None] = pieces
        self.connections = 0
        self.open = 0
        self._context = context

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, LOOPBACK, 0, ssl=self._context
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        while self.open:  # noqa: ASYNC110  it is nobody's event
            await asyncio.sleep(PAUSE)

    @property
    def url(self) -> str:
        """Where it is."""
        scheme = "http" if self._context is None else "https"
        port = self._server.sockets[0].getsockname()[1]
        return f"{scheme}://{LOOPBACK}:{port}/"

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if not await self._answer(reader, writer):
                    return
        except GONE:
            pass
        finally:
            await hang_up(writer)
            self.open -= 1

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        for piece in self.pieces:
            if piece is None:
                # Until the other side has had enough.
                await reader.read()
                return False

            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(PAUSE)

        return True
