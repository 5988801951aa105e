"""
TLS that is read straight from its socket.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import cast

import aiohttp
import pytest

from amplitude_cohorts_async._io.wire import connector, tls
from amplitude_cohorts_async._io.wire.connector import StoreConnector
from amplitude_cohorts_async._io.wire.tls import TlsTransport, secured
from support.exporting import until
from support.pieces import PieceServer
from support.ports import GONE, LOOPBACK, hang_up

BODY = Random(7).randbytes(300_000)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Heard(asyncio.Protocol):
    """
    Remembers what it is told.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[str] = []
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Take note of the beginning.
        """
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        """
        Take note of some bytes.
        """
        self.data += data

    def eof_received(self) -> None:
        """
        Take note that nothing follows.
        """
        self.calls.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Take note of the end.
        """
        self.error = exc
        self.calls.append("lost")


class Lending(asyncio.BufferedProtocol):
    """
    Lends room for a few bytes at a time, and pauses after each time.
    """

    def __init__(self, sizes: Iterator[int]) -> None:
        self.data = bytearray()
        self.is_lost = False
        self._sizes = sizes
        self._room = bytearray()

    def take_from(self, transport: TlsTransport) -> None:
        """
        Go on where another protocol was.
        """
        self._transport = transport
        transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        """
        Lend room of the next size.
        """
        self._room = bytearray(next(self._sizes))

        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """
        Take what came, and have a rest.
        """
        self.data += self._room[:nbytes]
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Take note of the end.
        """
        self.is_lost = True


@pytest.fixture
def served(certificates: tuple[Path, Path]) -> ssl.SSLContext:
    """
    The server's side of a connection.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates[0])

    return context


@asynccontextmanager
async def connected(
    serve: Serve,
    served: ssl.SSLContext | None,
    trust: ssl.SSLContext,
    protocol: asyncio.Protocol,
) -> AsyncIterator[TlsTransport]:
    """
    A transport to a server that does one thing; both are gone afterwards.
    """
    done = asyncio.Event()

    async def served_once(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with suppress(*GONE):
                await serve(reader, writer)
        finally:
            await hang_up(writer)
            done.set()

    # No reader may be full when the end comes: uvloop's TLS then loses the rest.
    server = await asyncio.start_server(
        served_once, LOOPBACK, 0, ssl=served, limit=1 << 24
    )
    port = server.sockets[0].getsockname()[1]
    plain, _ = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, LOOPBACK, port
    )
    try:
        transport = await secured(plain, protocol, trust, LOOPBACK)
        try:
            yield transport
        finally:
            transport.abort()
            await done.wait()
    finally:
        server.close()


async def send_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """
    Send the body, and end.
    """
    writer.write(BODY)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_what_comes_before_the_end_is_passed_on(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    All bytes, then the end of them, then the end of the connection.
    """
    heard = Heard()

    async with connected(send_body, served, trust, heard) as transport:
        await until(lambda: "lost" in heard.calls)
        assert transport.is_closing()

    assert heard.data == BODY
    assert ["made", "eof", "lost"] == heard.calls
    assert heard.error is None


@pytest.mark.parametrize("sizes", [[1, 700, 16_384, 5], [40_000, 1], [3]])
async def test_a_record_is_read_in_parts_of_any_size(
    served: ssl.SSLContext, trust: ssl.SSLContext, sizes: list[int]
) -> None:
    """
    What OpenSSL holds back when the room is small is not forgotten by a pause.
    """

    def endless() -> Iterator[int]:
        while True:
            yield from sizes

    lending = Lending(endless())

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BODY[:20_000])
        await reader.read()

    async with connected(send, served, trust, Heard()) as transport:
        lending.take_from(transport)
        await until(lambda: len(lending.data) >= 20_000)

    assert lending.data == BODY[:20_000]


async def test_nothing_is_passed_on_during_a_pause(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    A paused connection holds the other side back, and loses nothing.
    """
    heard = Heard()

    async with connected(send_body, served, trust, heard) as transport:
        transport.pause_reading()
        assert not transport.is_reading()
        for _ in range(50):
            await asyncio.sleep(0)
        assert b"" == heard.data

        transport.resume_reading()
        await until(lambda: "lost" in heard.calls)

    assert heard.data == BODY


async def test_what_is_written_before_closing_arrives(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    More than a socket takes at once is sent to its end, then the good-bye.
    """
    data = BODY * 40
    received = bytearray()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 20):
            received.extend(piece)

    heard = Heard()

    async with connected(read, served, trust, heard) as transport:
        transport.write(data[:100])
        transport.write(data[100:])
        transport.close()
        transport.write(b"too late")
        await until(lambda: "lost" in heard.calls)
        await until(lambda: len(received) >= len(data))

    assert received == data
    assert ["made", "lost"] == heard.calls


async def test_a_reset_is_told(served: ssl.SSLContext, trust: ssl.SSLContext) -> None:
    """
    A connection that breaks ends with the reason.
    """

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    heard = Heard()

    async with connected(reset, served, trust, heard) as transport:
        # Unread bytes make an aborted connection a reset one.
        transport.write(bytes(200_000))
        await until(lambda: "lost" in heard.calls)
        transport.write(b"into the void")

    assert "lost" == heard.calls[-1]


async def test_what_came_before_a_reset_is_passed_on(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    More than a turn's bytes, and a reset behind them: no loop forgets the rest.
    """

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BODY * 3)
        # What nobody read makes the end of a connection a reset.
        await asyncio.sleep(0.05)
        writer.transport.abort()

    for _ in range(10):
        heard = Heard()

        async with connected(send, served, trust, heard) as transport:
            transport.pause_reading()
            transport.write(bytes(10_000))
            await asyncio.sleep(0.06)
            transport.resume_reading()
            await until(lambda heard=heard: "lost" in heard.calls)  # type: ignore[misc]

        # All that the kernel kept.
        assert heard.data
        assert (BODY * 3)[: len(heard.data)] == heard.data


async def test_the_end_waits_for_a_protocol_that_pauses(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    Whoever pauses in the middle of the last bytes hears of no end before it goes on.
    """

    class Pausing(Heard):
        transport: asyncio.Transport

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    heard = Pausing()

    async with connected(send_body, served, trust, heard) as transport:
        heard.transport = transport

        for _ in range(100):
            await asyncio.sleep(0.001)
            if len(heard.data) == len(BODY):
                break
            transport.resume_reading()

        assert heard.data == BODY
        assert ["made"] == heard.calls

        transport.resume_reading()
        await until(lambda: "lost" in heard.calls)

    assert ["made", "eof", "lost"] == heard.calls


async def test_unsent_bytes_have_only_so_long(
    served: ssl.SSLContext, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A closed connection whose other side reads nothing does not stay for ever.
    """
    monkeypatch.setattr(tls, "_PARTING", 0.05)
    enough = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        await enough.wait()

    heard = Heard()

    async with connected(hold, served, trust, heard) as transport:
        transport.write(bytes(64 << 20))
        transport.close()
        assert ["made"] == heard.calls
        await until(lambda: "lost" in heard.calls)
        enough.set()


async def test_a_protocol_that_fails_ends_its_connection(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    A defect in a protocol is told to the loop once, not again and again.
    """
    told: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))

    class Failing(Heard):
        def data_received(self, data: bytes) -> None:
            raise LookupError(len(data))

    heard = Failing()

    async with connected(send_body, served, trust, heard):
        await until(lambda: "lost" in heard.calls)

    assert isinstance(heard.error, LookupError)
    assert [heard.error] == [context["exception"] for context in told]


async def test_it_tells_what_transports_tell(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    Whoever asks for addresses and certificates gets them.
    """
    heard = Heard()

    async with connected(send_body, served, trust, heard) as transport:
        assert LOOPBACK == transport.get_extra_info("peername")[0]
        assert transport.get_extra_info("sslcontext") is trust
        assert transport.get_extra_info("peercert")["subjectAltName"]
        assert transport.get_protocol() is heard
        assert not transport.can_write_eof()


async def test_a_server_that_nobody_vouches_for_is_not_asked(
    served: ssl.SSLContext,
) -> None:
    """
    An unknown authority ends it before a byte of the request is sent.
    """
    asked: list[bytes] = []

    class Listening(PieceServer):
        async def _answer(self, *_: object) -> bool:
            asked.append(b"request")
            return False

    async with (
        Listening(b"", context=served) as server,
        aiohttp.ClientSession(connector=StoreConnector()) as session,
    ):
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(server.url)

    assert [] == asked


async def test_a_server_of_another_name_is_not_asked(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    A certificate for somebody else does not do.
    """
    plain_server = PieceServer(b"", context=served)

    async with (
        plain_server as server,
        aiohttp.ClientSession(connector=StoreConnector(ssl=trust)) as session,
    ):
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(server.url, server_hostname="elsewhere.example")


async def test_a_server_without_tls_is_told_from_one_that_is_away(
    trust: ssl.SSLContext,
) -> None:
    """
    Words that are no TLS are an error of TLS, an early end one of the connection.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(1 << 16)
        writer.close()

    server = await asyncio.start_server(talk, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]

    async with aiohttp.ClientSession(connector=StoreConnector(ssl=trust)) as session:
        with pytest.raises(aiohttp.ClientConnectorSSLError):
            await session.get(f"https://{LOOPBACK}:{port}/")

        server.close()
        await server.wait_closed()

        with pytest.raises(aiohttp.ClientConnectorError, match="onnect"):
            await session.get(f"https://{LOOPBACK}:{port}/")


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_handshake_that_nobody_answers_ends(
    trust: ssl.SSLContext, is_cancelled: bool
) -> None:
    """
    Whether the time is over or the caller had enough: no connection is left.
    """
    came, gone = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(hold, LOOPBACK, 0)
    url = f"https://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/"
    timeout = aiohttp.ClientTimeout(sock_connect=60 if is_cancelled else 0.2)

    async with aiohttp.ClientSession(
        connector=StoreConnector(ssl=trust), timeout=timeout
    ) as session:
        asking = asyncio.ensure_future(session.get(url))
        await came.wait()

        if is_cancelled:
            asking.cancel()

        with pytest.raises(
            asyncio.CancelledError if is_cancelled else aiohttp.ConnectionTimeoutError
        ):
            await asking

        await gone.wait()

    server.close()


async def test_a_connection_is_kept_and_used_again(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    One handshake serves many requests.
    """
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)

    async with (
        PieceServer(head, BODY, context=served) as server,
        aiohttp.ClientSession(connector=StoreConnector(ssl=trust)) as session,
    ):
        for _ in range(3):
            async with session.get(server.url) as response:
                connection = response.connection
                assert connection is not None
                assert isinstance(connection.transport, TlsTransport)
                assert BODY == await response.read()

        assert 1 == server.connections


async def test_a_server_shows_its_certificate_once(
    served: ssl.SSLContext, trust: ssl.SSLContext, certificates: tuple[Path, Path]
) -> None:
    """
    Later connections go on from the first one's session, but only with its trust.
    """
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    opened = StoreConnector(ssl=trust, force_close=True)
    other_trust = ssl.create_default_context(cafile=str(certificates[1]))
    resumed = []

    async with (
        PieceServer(head, BODY, context=served) as server,
        aiohttp.ClientSession(connector=opened) as session,
    ):
        for context in [trust, trust, trust, other_trust, trust]:
            async with session.get(server.url, ssl=context) as response:
                connection = response.connection
                assert connection is not None
                assert isinstance(connection.transport, TlsTransport)
                resumed.append(connection.transport.is_resumed)
                assert BODY == await response.read()

    assert [False, True, True, False, True] == resumed


async def test_a_server_that_cannot_resume_is_asked_once(
    served: ssl.SSLContext, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A box on the way that ends such handshakes costs one attempt, and no request.
    """
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    offered: list[bool] = []

    async def past_the_box(
        plain: asyncio.Transport,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        server_hostname: str | None,
        session: ssl.SSLSession | None,
    ) -> TlsTransport:
        offered.append(session is not None)

        if session is not None:
            plain.abort()
            raise ConnectionResetError("handshake refused")

        return await secured(plain, protocol, context, server_hostname)

    monkeypatch.setattr(connector, "secured", past_the_box)

    async with (
        PieceServer(head, BODY, context=served) as server,
        aiohttp.ClientSession(
            connector=StoreConnector(ssl=trust, force_close=True)
        ) as session,
    ):
        for _ in range(4):
            async with session.get(server.url) as response:
                assert BODY == await response.read()

    assert [False, True, False, False, False] == offered


async def test_an_ended_connection_keeps_only_its_session(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """
    What it served can be forgotten while others still go on from it.
    """
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    opened = StoreConnector(ssl=trust, force_close=True)

    async with (
        PieceServer(head, BODY, context=served) as server,
        aiohttp.ClientSession(connector=opened) as session,
    ):
        async with session.get(server.url) as response:
            connection = response.connection
            assert connection is not None
            assert isinstance(connection.transport, TlsTransport)
            transport = connection.transport
            handler = weakref.ref(transport.get_protocol())
            del connection
            assert BODY == await response.read()

        del response
        await until(lambda: gc.collect() >= 0 and handler() is None)
        assert transport.session is not None


async def test_another_aiohttp_connects_by_itself(
    served: ssl.SSLContext, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where the step has other arguments than we know, aiohttp's own TLS serves.
    """
    own = aiohttp.TCPConnector._wrap_create_connection

    async def called_otherwise(
        self: StoreConnector, *args: object, server_hostname: str, **keywords: object
    ) -> object:
        return await StoreConnector._wrap_create_connection(
            self, *args, hostname=server_hostname, **keywords
        )

    async def renamed(
        self: StoreConnector, *args: object, hostname: str, **keywords: object
    ) -> object:
        return await own(self, *args, server_hostname=hostname, **keywords)  # type: ignore[arg-type]

    class Caller(StoreConnector):
        _wrap_create_connection = called_otherwise  # type: ignore[assignment]

    monkeypatch.setattr(aiohttp.TCPConnector, "_wrap_create_connection", renamed)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)

    async with (
        PieceServer(head, BODY, context=served) as server,
        aiohttp.ClientSession(connector=Caller(ssl=trust)) as session,
        session.get(server.url) as response,
    ):
        connection = response.connection
        assert connection is not None
        assert not isinstance(connection.transport, TlsTransport)
        assert BODY == await response.read()
