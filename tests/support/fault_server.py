"""
A server that answers with exactly the bytes a test wrote, and ends as it says.

For what no web framework will send: a body shorter than announced, a broken
chunk, a reset in the middle, an answer that never comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal, Self

import attrs

from .ports import GONE, LOOPBACK

Ending = Literal["keep", "close", "reset", "hang", "drip"]


@attrs.frozen(kw_only=True)
class Reply:
    """
    What comes back for one request.

    Attributes:
        raw: Every byte of it.

        then: What becomes of the connection: "keep" waits for the next
            request, "close" ends it, "reset" breaks it, "hang" leaves it open
            and silent, "drip" goes on with `more` now and then.

        more: What drips.
    """

    raw: bytes = b""
    then: Ending = "keep"
    more: bytes = b""


@attrs.frozen(kw_only=True)
class Seen:
    """
    One request, as it arrived.

    Attributes:
        target: Path and query, byte for byte.

        headers: By lower-case name.

        connection: The number of its connection.
    """

    method: str
    target: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    connection: int
    body: bytes = attrs.field(default=b"", repr=False)


def reply(
    status: int = 200,
    body: bytes = b"",
    *,
    then: Ending = "keep",
    length: int | None = None,
    **headers: str | None,
) -> Reply:
    """
    Write an answer.

    Args:
        length: The Content-Length, if it is not that of the body.

        headers: Names with underscores; None leaves a header out.
    """
    announced = len(body) if length is None else length
    shown = {"content-length": str(announced)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [f"{name}: {value}" for name, value in shown.items() if value is not None]
    head = "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""])

    return Reply(raw=head.encode("latin-1") + body, then=then)


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    """Write an answer of JSON."""
    body = json.dumps(value).encode()

    return reply(status, body, content_type="application/json", **headers)


def redirect(location: str, status: int = 302) -> Reply:
    """Write an answer that leads elsewhere."""
    return reply(status, location=location)


DROP = Reply(then="close")
RESET = Reply(then="reset")
HANG = Reply(then="hang")


class FaultServer:
    """Answers by path: each path has its replies in order, and the last one stays."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._replies: dict[str, list[Reply]] = defaultdict(list)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = itertools.count(1)
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://{LOOPBACK}:{self.port}"

    def on(self, path: str, *replies: Reply) -> None:
        """Answer requests for *path*, whatever their query, with these in turn."""
        self._replies[path] = list(replies)

    def requests(self, path: str) -> list[Seen]:
        """Tell the requests for *path*, in their order."""
        return [seen for seen in self.seen if path == seen.target.partition("?")[0]]

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

        try:
            # Clients leave as they like; that is no complaint of the server's.
            with contextlib.suppress(*GONE):
                await self._serve(reader, writer, next(self._connections))
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            # What ended the connection is reported by the loop unless it is asked for;
            # so is a server that ends while it waits here.
            with contextlib.suppress(*GONE, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: int,
    ) -> None:
        while True:
            seen = _parse(await reader.readuntil(b"\r\n\r\n"), connection)
            length = int(seen.headers.get("content-length", "0"))
            body = await reader.readexactly(length)
            self.seen.append(attrs.evolve(seen, body=body))
            answer = self._next(seen.target.partition("?")[0])
            writer.write(answer.raw)
            await writer.drain()

            if "close" == answer.then:
                return
            if "reset" == answer.then:
                _reset(writer)
                return
            while "drip" == answer.then:
                await asyncio.sleep(0.02)
                writer.write(answer.more)
                await writer.drain()
            if "hang" == answer.then:
                await reader.read()
                return

    def _next(self, path: str) -> Reply:
        replies = self._replies.get(path)

        if not replies:
            return reply(404, b"no such path at the fault server: " + path.encode())

        return replies.pop(0) if len(replies) > 1 else replies[0]


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Hold a port of loopback that refuses connections."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def tls_port(context: ssl.SSLContext) -> Iterator[int]:
    """Hold a port of loopback that agrees on TLS, and then says nothing."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def answer() -> None:
            """Take one connection after another, until the port is closed."""
            while True:
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    accepted, _ = server.accept()
                    with accepted:
                        context.wrap_socket(accepted, server_side=True).close()

        def run() -> None:
            """End with the port."""
            with contextlib.suppress(OSError):
                answer()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _parse(head: bytes, connection: int) -> Seen:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}

    return Seen(method=method, target=target, headers=headers, connection=connection)


def _reset(writer: asyncio.StreamWriter) -> None:
    # With a linger of zero the kernel sends RST instead of FIN.
    held = writer.get_extra_info("socket")
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
