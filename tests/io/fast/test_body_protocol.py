"""The fast path: bodies received in aiohttp's place."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from amplitude_cohorts_async._io.fast import FastPath, body_protocol
from amplitude_cohorts_async._io.fast.connections import FastConnector
from amplitude_cohorts_async._io.http.streamed_response import (
    ErrorTranslation,
    StreamedResponse,
)
from amplitude_cohorts_async._io.sinks.disk_writer import DiskThread, DiskWriter
from support.exporting import until
from support.pieces import PieceServer

BODY = b"".join(b"%07d\n" % number for number in range(40_000))
HEAD = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n' % len(BODY)
WHOLE = HEAD + BODY


class Collected:
    """A sink that remembers, and may be slow or broken."""

    def __init__(self, *, seconds: float = 0.0, fails_at: int | None = None) -> None:
        # One that sleeps belongs into a thread, however short that is.
        self.is_light = not seconds
        self.data = bytearray()
        self.threads: set[int] = set()
        self._seconds = seconds
        self._fails_at = fails_at

    def write(self, data: bytes | memoryview) -> None:
        if self._seconds:
            time.sleep(self._seconds)
        self.threads.add(threading.get_ident())
        self.data += data

        if self._fails_at is not None and len(self.data) >= self._fails_at:
            raise OSError(28, "No space left on device")


class ForeignError(Exception):
    """What the border makes of the network's exceptions."""


border = ErrorTranslation(lambda error: ForeignError(type(error).__name__))


class Ends(NamedTuple):
    """The server's and the client's side of a connection, and what opens it."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None
    connector: type[aiohttp.TCPConnector] = FastConnector


@asynccontextmanager
async def session(ends: Ends = Ends()) -> AsyncIterator[aiohttp.ClientSession]:  # noqa: B008  it never changes
    """A session as the transport makes them."""
    connector = ends.connector(ssl=ends.client if ends.client is not None else True)
    async with aiohttp.ClientSession(connector=connector) as made:
        yield made


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path is what is tested here, whatever the environment says."""
    monkeypatch.delenv("AMPLITUDE_FAST", raising=False)


def fast_path(patience: float = 5.0) -> FastPath:
    """The fast path of a client."""
    return FastPath(stall_seconds=patience)


def feeding(sink: Collected) -> DiskWriter:
    """A feed that trusts its sink as soon as it may."""
    return DiskWriter(sink, DiskThread())


async def pour(
    made: aiohttp.ClientSession, url: str, sink: Collected, *, patience: float = 5.0
) -> int:
    """Bring what a server sends to a sink, and return the tally."""
    counted = 0

    def tally(count: int) -> None:
        nonlocal counted
        counted += count

    feed = feeding(sink)
    try:
        async with made.get(url) as response:
            await StreamedResponse(response, border, fast=fast_path(patience)).pour(
                feed, tally
            )
            await feed.flush()
    finally:
        await feed.drop()

    return counted


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each body that is taken over, how many bytes aiohttp had already."""
    seen: list[int] = []
    real = FastPath.receive

    def watched(*args: object) -> object:
        early, made = real(*args)  # type: ignore[arg-type]
        if made is not None:
            seen.append(sum(map(len, early)))
        return early, made

    monkeypatch.setattr(FastPath, "receive", watched)

    return seen


@pytest.fixture(params=["plain", "the loop's tls", "aiofastnet's tls"])
def ends(request: pytest.FixtureRequest) -> Ends:
    """Every way in which bytes come."""
    if request.param == "plain":
        return Ends()

    certificates: tuple[Path, Path] = request.getfixturevalue("certificates")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates[0])
    is_fast = request.param == "aiofastnet's tls"

    if is_fast:
        pytest.importorskip("aiofastnet", reason="the extra speed is not installed")

    return Ends(
        server,
        request.getfixturevalue("trust"),
        FastConnector if is_fast else aiohttp.TCPConnector,
    )


@pytest.mark.slow
async def test_no_split_loses_or_doubles_a_byte(ends: Ends, taken: list[int]) -> None:
    """
    Wherever the bytes are cut in two, the body is the same, and one connection does.
    """
    # More than any loop receives in a row: uvloop reads 768 KiB.
    body = BODY * 4
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    whole = head + body
    cuts = [
        *range(1, len(head) + 40),
        *range(len(head) + 40, len(whole), 151_111),
        *range(len(whole) - 3, len(whole)),
    ]

    async with PieceServer(context=ends.server) as server, session(ends) as made:
        for cut in cuts:
            server.pieces = [whole[:cut], whole[cut:]]
            sink = Collected()
            assert len(body) == await pour(made, server.url, sink), cut
            assert sink.data == body, cut

        assert 1 == server.connections

    assert len(cuts) * 0.8 < len(taken)
    assert {0} < set(taken)


async def test_bytes_that_wait_while_reading_is_paused_are_kept(
    ends: Ends, taken: list[int]
) -> None:
    """A stream that filled up before anybody read it is emptied, to the last byte."""
    body = BODY * 12
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async with (
        PieceServer(head, body, context=ends.server) as server,
        session(ends) as made,
    ):
        sink = Collected()
        feed = feeding(sink)
        async with made.get(server.url, read_bufsize=2**14) as response:
            assert response.connection
            protocol = response.connection.protocol
            assert protocol is not None
            while not protocol._reading_paused:  # noqa: ASYNC110 - aiohttp's
                await asyncio.sleep(0.001)
            answer = StreamedResponse(response, border, fast=fast_path())
            await answer.pour(feed, lambda _: None)
            await feed.flush()
        await feed.drop()

    assert sink.data == body
    assert [count for count in taken if count] == taken


async def test_a_cut_connection_is_told_after_what_came(
    ends: Ends, taken: list[int]
) -> None:
    """What was received before a cut is with the sink; then the border hears of it."""

    class Cutting(PieceServer):
        async def _answer(self, *args: object) -> bool:
            await super()._answer(*args)  # type: ignore[arg-type]
            return False

    async with (
        Cutting(HEAD, BODY[:-1], context=ends.server) as server,
        session(ends) as made,
    ):
        sink = Collected()
        feed = feeding(sink)
        counts: list[int] = []
        async with made.get(server.url) as response:
            answer = StreamedResponse(response, border, fast=fast_path())
            with pytest.raises(ForeignError, match="ClientPayloadError"):
                await answer.pour(feed, counts.append)
        await feed.flush()

    assert 1 == len(taken)
    assert sink.data == BODY[: sum(counts)]
    assert len(BODY) - 1 == sum(counts)


async def test_a_body_that_ends_with_the_connection_is_whole(
    ends: Ends, taken: list[int]
) -> None:
    """A server that closes right after the last byte takes none of them back."""
    body = BODY * 5

    class Closing(PieceServer):
        async def _answer(
            self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> bool:
            writer.write(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % len(body)
            )
            await asyncio.sleep(0.02)
            writer.write(body)
            writer.close()
            await writer.wait_closed()
            return False

    async with Closing(context=ends.server) as server, session(ends) as made:
        for _ in range(5):
            sink = Collected(seconds=0.003)
            assert len(body) == await pour(made, server.url, sink)
            assert sink.data == body

    assert 5 == len(taken)


async def test_silence_is_told_after_the_time_given(
    ends: Ends, taken: list[int]
) -> None:
    """A body that stands still is given up, no sooner and not much later than told."""
    async with (
        PieceServer(HEAD, BODY[:300_000], None, context=ends.server) as server,
        session(ends) as made,
    ):
        started = time.perf_counter()
        with pytest.raises(ForeignError, match="SocketTimeoutError"):
            await pour(made, server.url, Collected(), patience=0.3)
        assert 0.3 <= time.perf_counter() - started < 2.0

    assert 1 == len(taken)


async def test_time_with_a_slow_sink_is_not_silence(taken: list[int]) -> None:
    """Waiting for the disk does not count as waiting for the network."""
    body = BODY * 10
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async with PieceServer(head, body) as server, session() as made:
        sink = Collected(seconds=0.15)
        assert len(body) == await pour(made, server.url, sink, patience=0.1)

    assert sink.data == body
    assert 1 == len(taken)


async def test_cancelling_leaves_no_connection(ends: Ends, taken: list[int]) -> None:
    """Whoever is cancelled in a body leaves no connection behind."""
    async with (
        PieceServer(HEAD, BODY[:300_000], None, context=ends.server) as server,
        session(ends) as made,
    ):
        task = asyncio.ensure_future(pour(made, server.url, Collected()))
        await until(lambda: bool(taken))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await until(lambda: not server.open)


async def test_a_broken_sink_is_told_as_it_is(taken: list[int]) -> None:
    """What the disk says is not taken for the network's, and the connection ends."""
    body = BODY * 20
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async with PieceServer(head, body) as server, session() as made:
        with pytest.raises(OSError, match="No space left"):
            await pour(made, server.url, Collected(fails_at=2_000_000))

        await until(lambda: not server.open)

    assert 1 == len(taken)


@pytest.mark.parametrize(
    "change",
    [
        ("_TRANSPORT", ("set_protocol", "one_that_is_no_more")),
        ("_HANDLER", ("read_timeout", "one_that_is_no_more")),
        ("_SMALLEST", 1 << 30),
    ],
    ids=["transport", "handler", "small"],
)
async def test_what_is_not_as_expected_goes_the_ordinary_way(
    change: tuple[str, object], taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another aiohttp than we know is left to itself, and the body is the same."""
    monkeypatch.setattr(body_protocol, *change)

    async with PieceServer(WHOLE) as server, session() as made:
        sink = Collected()
        assert len(BODY) == await pour(made, server.url, sink)

    assert sink.data == BODY
    assert [] == taken


async def test_a_parser_that_serves_many_answers_goes_the_ordinary_way(
    taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An aiohttp whose parser would take the next answer for the rest of a body is left
    to itself.
    """
    real = ResponseHandler.set_response_params

    def keeps_its_parser(self: ResponseHandler, **params: object) -> None:
        parser = self._parser
        real(self, **params)  # type: ignore[arg-type]
        self._parser = parser or self._parser

    monkeypatch.setattr(ResponseHandler, "set_response_params", keeps_its_parser)

    async with PieceServer(WHOLE) as server, session() as made:
        sink = Collected()
        assert len(BODY) == await pour(made, server.url, sink)

    assert sink.data == BODY
    assert [] == taken


async def test_chunks_go_the_ordinary_way(taken: list[int]) -> None:
    """A body without a length is aiohttp's to read."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

    async with PieceServer(head, chunked) as server, session() as made:
        sink = Collected()
        assert len(BODY) == await pour(made, server.url, sink)

    assert sink.data == BODY
    assert [] == taken


async def test_aiohttp_is_as_the_fast_path_needs_it(taken: list[int]) -> None:
    """The aiohttp that is installed here is taken over: no release slips by unseen."""
    async with PieceServer(HEAD, BODY) as server, session() as made:
        await pour(made, server.url, Collected())

    assert 1 == len(taken)
