"""A store that gives each connection only so much, and does what a test wants."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Literal, Self

from .ports import GONE, LOOPBACK, hang_up

BITE = 64 * 1024
Whim = Literal["serve", "cut", "refuse", "ignore range", "shift"]


class RangedStore:
    """
    Serves one object, whole or by ranges, with a strong ETag.

    Attributes:
        whim: Asked at each request, by its number and range; what it says is
            done: "cut" ends the connection half way, "refuse" answers 403,
            "ignore range" sends everything, "shift" sends another part.

        ranges: What was asked for, in order; None for everything.

        most: Connections at the same time, at most.

        sent: Bytes of bodies.
    """

    def __init__(self, body: bytes, *, rate: float) -> None:
        self.body = body
        self.etag = '"one"'
        self.whim: Callable[[int, tuple[int, int] | None], Whim] = lambda *_: "serve"
        self.ranges: list[tuple[int, int] | None] = []
        self.open = 0
        self.most = 0
        self.sent = 0
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Give each connection that many bytes a second."""
        self._pause = BITE / rate

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        while self.open:  # noqa: ASYNC110  it is nobody's event
            await asyncio.sleep(0.001)

    @property
    def url(self) -> str:
        """Where the object is."""
        return f"http://{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}/object"

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if not await self._answer(head.decode(), writer):
                    break
        except GONE:
            pass
        finally:
            await hang_up(writer)
            self.open -= 1

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        asked = _asked(head, len(self.body))
        self.ranges.append(asked)
        whim = self.whim(len(self.ranges), asked)

        if "refuse" == whim:
            writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            return True

        match = re.search(r"(?i)^if-match: *(\S+)", head, re.MULTILINE)
        if match and match[1] != self.etag:
            writer.write(b"HTTP/1.1 412 No\r\nContent-Length: 0\r\n\r\n")
            return True

        part = None if "ignore range" == whim else asked
        start, end = part or (0, len(self.body))
        if "shift" == whim:
            start += 1
        status = "206 Partial" if part else "200 OK"
        span = f"Content-Range: bytes {start}-{end - 1}/{len(self.body)}\r\n"
        writer.write(
            f"HTTP/1.1 {status}\r\nETag: {self.etag}\r\nAccept-Ranges: bytes\r\n"
            f"{span if part else ''}Content-Length: {end - start}\r\n\r\n".encode()
        )

        if "cut" == whim:
            await self._send(writer, start, (start + end) // 2)
            return False

        await self._send(writer, start, end)
        return True

    async def _send(self, writer: asyncio.StreamWriter, start: int, end: int) -> None:
        now = asyncio.get_running_loop().time
        due = now()

        for at in range(start, end, BITE):
            bite = self.body[at : min(at + BITE, end)]
            writer.write(bite)
            await writer.drain()
            self.sent += len(bite)
            # On a busy machine a pause is too long; the next ones make up for it.
            due += self._pause
            await asyncio.sleep(max(0.0, due - now()))


def _asked(head: str, size: int) -> tuple[int, int] | None:
    match = re.search(r"(?i)^range: *bytes=(\d+)-(\d*)", head, re.MULTILINE)
    if match is None:
        return None

    return int(match[1]), int(match[2]) + 1 if match[2] else size
