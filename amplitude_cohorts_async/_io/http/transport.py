"""
Sends requests and reads answers, with aiohttp.

Credentials are added here, to each request for Amplitude's origin and to nothing
else; the store is asked through a session of its own that has no credentials, no
cookies and reads no netrc.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
import attrs
from yarl import URL

from ..._core.json_stream import whole_part
from ..._core.messages import Operation, Replay, Request, Response
from ..._core.redact import HIDDEN, Redactor, shorten
from ...errors import (
    CohortsError,
    ConfigurationError,
    ConnectionFailedError,
    RequestTimeoutError,
    TransportError,
)
from ..cancellation import finish_despite_cancel
from ..fast import FastPath
from .streamed_response import ErrorTranslation, StreamedResponse

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage

_CONNECT_SECONDS = 15.0

_LONG = frozenset({"list", "upload", "membership"})
_LONGER = 4.0
"""
How much longer an answer may take that is large, or that is about 100,000 ids: a
write that is given up too early may or may not have been done.
"""
_QUOTABLE = 1 << 16

_USER = re.compile(r"\S*@")

_LONGEST = 1 << 27
"""
Bytes of an answer in memory: whatever a server sends, it ends here. Ten thousand
cohorts with long definitions are half of it.
"""

_LONGEST_ERROR = 1 << 13
_LONGEST_REFUSAL = 1 << 16
"""Bytes that are read of an error, and of one that may list the ids of a write."""

_INTERIM_ANSWERS = 8
"""Answers of the kind 1xx that may come before the answer itself."""


@attrs.define
class Load:
    """
    What receiving has cost so far.

    Attributes:
        seconds: In which it kept the loop's thread at work.
    """

    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add what one piece has cost."""
        self.seconds += seconds


class AnswerLost(aiohttp.ClientError):
    """The connection ended before there was an answer."""


class InterimAnswersError(aiohttp.ClientError):
    """Too many interim answers came before the answer itself."""


class _BoundedResponse(aiohttp.ClientResponse):
    """
    A response that waits for its head through a few interim answers only.

    aiohttp leaves out any number of them in a loop that does not yield.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the head of the answer; return self."""
        protocol = connection.protocol

        if protocol is None:
            return await super().start(connection)

        read, heads = protocol.read, 0

        async def read_counted() -> tuple[RawResponseMessage, aiohttp.StreamReader]:
            nonlocal heads
            heads += 1

            if heads > _INTERIM_ANSWERS + 1:
                raise InterimAnswersError(
                    f"more than {_INTERIM_ANSWERS} interim answers came"
                )

            return await read()

        # aiohttp has no hook here; `read()` is the one step that it takes for each.
        protocol.read = read_counted  # type: ignore[method-assign]

        try:
            return await super().start(connection)
        finally:
            del protocol.read  # the instance's own; the class's is left


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # aiohttp repeats a GET whose answer was lost by itself, and that would
    # spend a second export behind our back. It does so for these exceptions.
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise AnswerLost(f"{type(error).__name__}: {error}") from error


class Transport:
    """
    Talks to Amplitude with `open()` and `send()`, to its object store with `fetch()`.

    Attributes:
        connections: To the store for one file, at most.

        load: What receiving files from the store has cost.

        redactor: Hides the keys and the password of the proxy.
    """

    def __init__(
        self,
        *,
        origin: str,
        api_key: str,
        secret_key: str,
        user_agent: str,
        redactor: Redactor,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        answer_seconds: float,
        stall_seconds: float,
        connections: int = 1,
        fast: bool = True,
    ) -> None:
        pair = base64.b64encode(f"{api_key}:{secret_key}".encode()).decode()

        self.connections = connections
        self.load: Load = Load()
        self._fast = FastPath(
            stall_seconds=stall_seconds,
            off=_reason_for_ordinary_path(session, proxy, fast=fast),
            on_work=self.load.add,
        )
        self._origin = origin
        self._authorization = f"Basic {pair}"
        self._user_agent = user_agent
        self.redactor = redactor
        self._given = session
        self._proxy = proxy
        self._answer_seconds = answer_seconds
        self._stall_seconds = stall_seconds
        self._short_timeout, self._long_timeout = (
            aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
            for seconds in (answer_seconds, answer_seconds * _LONGER)
        )
        # It takes as long as it takes; it must only never stand still.
        self._file_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=stall_seconds
        )
        self._own: dict[str, aiohttp.ClientSession] = {}
        self._is_closed = False

        if session is not None and session.auth is not None:
            raise ConfigurationError(
                "the session has credentials of its own (auth=), and the keys could "
                "not be sent beside them; make it without"
            )

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[StreamedResponse]:
        """
        Send *request* to Amplitude and yield its answer, unread.

        The body of a file comes as stored; any other is decoded.

        Raises:
            ConnectionFailedError: No answer, or not all of it.

            RequestTimeoutError: No answer in time.
        """
        response, answer = await self._answer(request)

        async with response:
            yield answer

    @asynccontextmanager
    async def fetch(
        self, link: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[StreamedResponse]:
        """
        Follow *link* to the store, byte for byte and without credentials.

        Raises:
            ConnectionFailedError: No answer, or not all of it.

            RequestTimeoutError: Nothing came for too long.
        """
        border = self._border("the file's link", link)
        response = await self._head(
            self._store(),
            "GET",
            link,
            border=border,
            operation="file",
            headers={
                # What a proxy would compress could not be resumed.
                "Accept-Encoding": "identity",
                "User-Agent": self._user_agent,
                **headers,
            },
        )

        async with response:
            yield StreamedResponse(response, border, fast=self._fast)

    async def send(self, request: Request) -> Response:
        """Send *request* to Amplitude and return its answer, read to the end."""
        response, answer = await self._answer(request)
        is_write = request.operation in {"upload", "membership"}

        async with response:
            return await self.read(
                answer, most_of_error=_LONGEST_REFUSAL if is_write else _LONGEST_ERROR
            )

    async def read(
        self, answer: StreamedResponse, *, most_of_error: int = _LONGEST_ERROR
    ) -> Response:
        """
        Return an answer, read to its end, without our keys should it quote them.

        Args:
            most_of_error: Bytes after which an unsuccessful answer is left.

        Raises:
            ConnectionFailedError: It does not end.
        """
        is_error = answer.status >= 400  # noqa: PLR2004
        most = most_of_error if is_error else _LONGEST
        seconds = self._answer_seconds * _LONGER
        body = await answer.read(most=most, seconds=seconds)

        if is_error and len(body) > most:
            body = whole_part(body[:most])
        elif len(body) >= _LONGEST:
            raise ConnectionFailedError(
                f"an answer of more than {_LONGEST >> 20} MiB was given up; no answer "
                f"of Amplitude is so long, look for a proxy in between",
                may_have_happened=True,
            )

        # Long lists of cohorts are no part of any message; all else may be.
        if is_error or len(body) <= _QUOTABLE or not body.startswith(b"{"):
            body = self.redactor.body(body)
        else:
            # Should it be no list after all, its beginning is quoted.
            quotable = body[:_QUOTABLE]
            shown = self.redactor.body(quotable)

            # Megabytes are not copied for nothing.
            if shown != quotable:
                body = shown + body[_QUOTABLE:]

        return Response(
            status=answer.status,
            headers=self._without_secrets(answer.headers),
            body=body,
        )

    async def glance(self, answer: StreamedResponse) -> bytes:
        """Return the beginning of an answer, which says why it was refused."""
        return await answer.read(most=_QUOTABLE, seconds=self._stall_seconds)

    async def aclose(self) -> None:
        """Close our own connections; a session given by the caller stays open."""
        self._is_closed = True
        await finish_despite_cancel(self._close())

    async def _close(self) -> None:
        while self._own:
            _, session = self._own.popitem()
            await session.close()

    async def _answer(
        self, request: Request
    ) -> tuple[aiohttp.ClientResponse, StreamedResponse]:
        # The response has to be left, whatever becomes of the answer.
        url = f"{self._origin}{request.path}"
        url += f"?{request.query}" if request.query else ""
        border = self._border(request.operation, url)

        with _own_credentials_only():
            response = await self._head(
                self._amplitude(request.replay),
                request.method,
                url,
                border=border,
                operation=request.operation,
                headers=self._headers(request),
                # As a file it is sent in pieces, with turns for others between.
                data=None if request.body is None else BytesIO(request.body),
            )

        return response, StreamedResponse(response, border)

    async def _head(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        *,
        border: ErrorTranslation,
        operation: Operation,
        headers: Mapping[str, str],
        data: BytesIO | None = None,
    ) -> aiohttp.ClientResponse:
        is_file = operation == "file"

        # A file has all the time it needs, and aiohttp would let its head have it,
        # too: a line now and then is enough. Anything else has a total.
        with border:
            async with asyncio.timeout(self._answer_seconds if is_file else None):
                return await session.request(
                    method,
                    URL(url, encoded=True),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    auto_decompress=not is_file,
                    middlewares=(_once,),
                    proxy=self._proxy,
                    raise_for_status=False,
                    timeout=self._timeout(operation),
                )

    def _without_secrets(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        # Nearly always there are none, and one search tells it of all of them.
        together = "\n".join(headers.values())

        if self.redactor.text(together) == together:
            return headers

        # A link is followed byte for byte; what shows it hides what it must.
        return {
            name: text if name == "location" else self.redactor.text(text)
            for name, text in headers.items()
        }

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {
            "Authorization": self._authorization,
            "User-Agent": self._user_agent,
        }

        if request.operation == "file":
            headers["Accept-Encoding"] = "gzip"
        else:
            headers["Accept"] = "application/json"

        if request.body is not None:
            headers["Content-Type"] = "application/json"

        return headers

    def _timeout(self, operation: Operation) -> aiohttp.ClientTimeout:
        if operation == "file":
            return self._file_timeout

        return self._long_timeout if operation in _LONG else self._short_timeout

    def _amplitude(self, replay: Replay) -> aiohttp.ClientSession:
        self._check_open()

        if self._given is not None:
            return self._given

        # A kept connection may be closed by the service at the moment we use
        # it, and then it is not known whether the request was seen. What must not
        # happen twice goes out on a fresh one.
        kept = replay is Replay.SAFE

        return self._session(
            "kept" if kept else "fresh", aiohttp.TCPConnector, force_close=not kept
        )

    def _store(self) -> aiohttp.ClientSession:
        self._check_open()

        if self._given is None or self._given.connector is None:
            return self._session("store", self._fast.connector_type, force_close=False)

        # The caller's TLS settings and resolver serve the store as well; the
        # caller's headers, cookies and credentials do not.
        if "store" not in self._own:
            self._own["store"] = aiohttp.ClientSession(
                connector=self._given.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                response_class=_BoundedResponse,
            )

        return self._own["store"]

    def _check_open(self) -> None:
        # A job may outlive its client; a session made for it would stay open.
        if self._is_closed:
            raise ConfigurationError("this client is closed; make another one")

        if self._given is not None and self._given.closed:
            raise ConfigurationError("the session this client was given is closed")

    def _session(
        self, name: str, connector: type[aiohttp.TCPConnector], *, force_close: bool
    ) -> aiohttp.ClientSession:
        if name not in self._own:
            self._own[name] = aiohttp.ClientSession(
                connector=connector(limit=0, force_close=force_close),
                cookie_jar=aiohttp.DummyCookieJar(),
                response_class=_BoundedResponse,
            )

        return self._own[name]

    def _border(self, what: str, url: str) -> ErrorTranslation:
        return ErrorTranslation(
            lambda error: self._translated(what, self.redactor.url(url), error)
        )

    def _translated(self, what: str, address: str, error: Exception) -> TransportError:
        reason = shorten(self.redactor.text(_said(error)))
        unsent = isinstance(
            error,
            aiohttp.ClientConnectorError
            | aiohttp.ConnectionTimeoutError
            | aiohttp.ClientHttpProxyError
            | aiohttp.InvalidURL,
        )

        if isinstance(error, TimeoutError):
            return RequestTimeoutError(
                f"{what} at {address} was not answered in time ({reason}); "
                f"{_next_step(what, unsent=unsent)}",
                may_have_happened=not unsent,
            )

        return ConnectionFailedError(
            f"{what} at {address} got no whole answer ({reason}); {_next_step(what, unsent=unsent)}",
            may_have_happened=not unsent,
        )


def _reason_for_ordinary_path(
    session: aiohttp.ClientSession | None, proxy: str | None, *, fast: bool
) -> str | None:
    if not fast:
        return "Downloading(fast=False) switches it off"

    # A caller's session or a proxy may change how bytes come, and a proxy's TLS may have
    # to hold another one's inside.
    if session is not None:
        return "the session is the caller's"

    return None if proxy is None else "there is a proxy"


@contextmanager
def _own_credentials_only() -> Generator[None]:
    try:
        yield
    except CohortsError:
        raise
    except ValueError as error:
        # A session with `trust_env` finds credentials in a netrc file as well.
        raise ConfigurationError(
            f"the session this client was given did not send the request "
            f"({_said(error)}); make it without credentials, and without trust_env if "
            f"a netrc file has some for this host"
        ) from None


def _said(error: Exception) -> str:
    name = type(error).__name__

    # What cannot be parsed is quoted by aiohttp: the ids of members, perhaps.
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return name

    # A session of the caller's may have a proxy, and a password in its URL.
    return f"{name}: {_USER.sub(HIDDEN, str(error))}".rstrip(": ")


def _next_step(what: str, *, unsent: bool) -> str:
    if what == "export" and not unsent:
        return (
            "it may have been spent all the same: look at `get_usage()` before you "
            "request it again"
        )

    return "check the network and try again"
