"""The store's connections: the same answers and errors, whichever TLS carries them."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import aiohttp.connector
import pytest

from amplitude_cohorts_async._io.fast import FastPath, connections
from amplitude_cohorts_async._io.fast.connections import FastConnector, aiofastnet
from support.exporting import until
from support.pieces import PieceServer
from support.ports import LOOPBACK

BODY = bytes(300_000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)

needs_aiofastnet = pytest.mark.skipif(
    aiofastnet() is None, reason="the extra speed is not installed"
)


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path is what is tested here, whatever the environment says."""
    monkeypatch.delenv("AMPLITUDE_FAST", raising=False)


@pytest.fixture(params=[aiohttp.TCPConnector, FastConnector])
def connector_type(request: pytest.FixtureRequest) -> type[aiohttp.TCPConnector]:
    """aiohttp's connector and ours; without aiofastnet they do the same."""
    if request.param is aiohttp.TCPConnector and request.config.getoption(
        "--aiofastnet"
    ):
        pytest.skip("aiohttp shows no text of aiofastnet's errors")

    return request.param


@pytest.fixture
def served(certificates: tuple[Path, Path]) -> ssl.SSLContext:
    """The server's side of a connection."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates[0])

    return context


@asynccontextmanager
async def session(
    connector_type: type[aiohttp.TCPConnector],
    trust: ssl.SSLContext | bool = True,
    **keywords: aiohttp.ClientTimeout,
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with one kind of connector."""
    connector = connector_type(ssl=trust)
    async with aiohttp.ClientSession(connector=connector, **keywords) as made:
        yield made


@asynccontextmanager
async def listening(says: bytes) -> AsyncIterator[str]:
    """
    A server without TLS that says something at once, and hangs up after a request.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await reader.read(1 << 16)
        writer.close()

    server = await asyncio.start_server(talk, LOOPBACK, 0)

    try:
        yield f"https://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


async def test_an_unknown_authority_is_refused_before_the_request(
    connector_type: type[aiohttp.TCPConnector], served: ssl.SSLContext
) -> None:
    """A certificate that nothing vouches for ends it, and not a byte is asked."""
    asked: list[bytes] = []

    class Listening(PieceServer):
        async def _answer(self, *_: object) -> bool:
            asked.append(b"request")
            return False

    async with (
        Listening(b"", context=served) as server,
        session(connector_type) as made,
    ):
        with pytest.raises(
            aiohttp.ClientConnectorCertificateError, match="CERTIFICATE_VERIFY_FAILED"
        ):
            await made.get(server.url)

    assert [] == asked


async def test_another_host_name_is_refused(
    connector_type: type[aiohttp.TCPConnector],
    served: ssl.SSLContext,
    trust: ssl.SSLContext,
) -> None:
    """A certificate for another host is no proof."""
    async with (
        PieceServer(b"", context=served) as server,
        session(connector_type, trust) as made,
    ):
        with pytest.raises(
            aiohttp.ClientConnectorCertificateError, match=r"(?i)hostname mismatch"
        ):
            await made.get(server.url, server_hostname="elsewhere.example")


async def test_words_that_are_no_tls_are_an_error_of_tls(
    connector_type: type[aiohttp.TCPConnector], trust: ssl.SSLContext
) -> None:
    """A server that speaks first, and without TLS, is told from one that is away."""
    async with (
        listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url,
        session(connector_type, trust) as made,
    ):
        with pytest.raises(aiohttp.ClientConnectorSSLError):
            await made.get(url)


async def test_a_cut_handshake_is_an_error_of_the_connection(
    connector_type: type[aiohttp.TCPConnector],
    trust: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    A server that hangs up in the handshake is named as one that cannot be reached.
    """
    async with listening(b"") as url, session(connector_type, trust) as made:
        with pytest.raises(
            aiohttp.ClientConnectorError, match="Cannot connect to host"
        ):
            await made.get(url)

    # aiofastnet 1.2.0 hands the loop a class where an exception belongs, which asyncio
    # then cannot log.
    caplog.clear()


async def test_a_server_that_is_away_is_an_error_of_the_connection(
    connector_type: type[aiohttp.TCPConnector], trust: ssl.SSLContext
) -> None:
    """A refused connection is named as such."""
    async with listening(b"") as url:
        pass

    async with session(connector_type, trust) as made:
        with pytest.raises(
            aiohttp.ClientConnectorError, match="Cannot connect to host"
        ):
            await made.get(url)


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_handshake_without_an_answer_leaves_no_connection(
    connector_type: type[aiohttp.TCPConnector],
    trust: ssl.SSLContext,
    is_cancelled: bool,
) -> None:
    """Whether the time is over or the caller is cancelled: the connection ends."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(hold, LOOPBACK, 0)
    url = f"https://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/"
    timeout = aiohttp.ClientTimeout(sock_connect=60 if is_cancelled else 0.2)

    async with session(connector_type, trust, timeout=timeout) as made:
        asking = asyncio.ensure_future(made.get(url))
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
    connector_type: type[aiohttp.TCPConnector],
    served: ssl.SSLContext,
    trust: ssl.SSLContext,
) -> None:
    """One handshake serves many requests."""
    async with (
        PieceServer(HEAD, BODY, context=served) as server,
        session(connector_type, trust) as made,
    ):
        for _ in range(3):
            async with made.get(server.url) as response:
                assert BODY == await response.read()

        assert 1 == server.connections


async def engine_used(served: ssl.SSLContext, trust: ssl.SSLContext) -> str:
    """Fetch a body, and return whose TLS it came over."""
    async with (
        PieceServer(HEAD, BODY, context=served) as server,
        session(FastConnector, trust) as made,
        made.get(server.url) as response,
    ):
        connection = response.connection
        assert connection is not None
        assert connection.transport is not None
        engine = connections.engine_of(connection.transport)
        assert BODY == await response.read()

    return engine


@needs_aiofastnet
async def test_aiofastnet_is_used_where_it_is_installed(
    served: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """No release of aiohttp or aiofastnet ends this unseen."""
    assert "aiofastnet" in await engine_used(served, trust)


@needs_aiofastnet
async def test_its_slower_engine_serves_asyncio_alone(
    served: ssl.SSLContext, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that hides OpenSSL has no other; no handshake succeeds on uvloop."""
    found = aiofastnet()
    assert found is not None
    monkeypatch.setattr(found, "OPENSSL_DYN_LIBS", None)
    is_asyncio = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)

    assert is_asyncio == ("aiofastnet" in await engine_used(served, trust))


async def test_another_aiohttp_connects_by_itself(
    served: ssl.SSLContext, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the step has other arguments than we know, aiohttp's own TLS serves."""
    own = aiohttp.TCPConnector._wrap_create_connection

    async def called_otherwise(
        self: FastConnector, *args: object, server_hostname: str, **keywords: object
    ) -> object:
        return await FastConnector._wrap_create_connection(
            self, *args, hostname=server_hostname, **keywords
        )

    async def renamed(
        self: FastConnector, *args: object, hostname: str, **keywords: object
    ) -> object:
        return await own(self, *args, server_hostname=hostname, **keywords)  # type: ignore[arg-type]

    class Caller(FastConnector):
        _wrap_create_connection = called_otherwise  # type: ignore[assignment]

    monkeypatch.setattr(aiohttp.TCPConnector, "_wrap_create_connection", renamed)

    async with (
        PieceServer(HEAD, BODY, context=served) as server,
        session(Caller, trust) as made,
        made.get(server.url) as response,
    ):
        assert BODY == await response.read()


@needs_aiofastnet
def test_an_aiohttp_that_uses_aiofastnet_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two layers that do the same are one too many."""
    found = aiofastnet()
    assert found is not None
    monkeypatch.setattr(
        aiohttp.connector, "create_connection", found.create_connection, raising=False
    )
    assert aiofastnet.__wrapped__() is None


@pytest.mark.parametrize(
    ("off", "line"),
    [
        (None, "body receiver: fast, over no TLS"),
        ("there is a proxy", "body receiver: ordinary, because there is a proxy"),
    ],
)
async def test_a_debug_line_names_the_path_once(
    off: str | None, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Which path serves bodies, and why, is in the log of each client."""
    caplog.set_level(logging.DEBUG, "amplitude_cohorts_async")
    path = FastPath(stall_seconds=5.0, off=off)

    async with PieceServer(HEAD, BODY) as server, session(path.connector_type) as made:
        for _ in range(3):
            async with made.get(server.url) as response:
                _, body = path.receive(response, object(), len)  # type: ignore[arg-type]
                if body is not None:
                    body.detach()

        await until(lambda: server.open <= 1)

    assert [line] == [record.message for record in caplog.records]


@pytest.mark.parametrize("value", ["0", "1", ""])
def test_the_environment_switches_it_off(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMPLITUDE_FAST=0 does; any other value changes nothing."""
    monkeypatch.setenv("AMPLITUDE_FAST", value)
    path = FastPath(stall_seconds=5.0)

    expected = aiohttp.TCPConnector if value == "0" else FastConnector
    assert expected is path.connector_type
