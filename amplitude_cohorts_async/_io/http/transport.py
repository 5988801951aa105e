"""
Sends requests and reads answers, with aiohttp.

Credentials are added here, to each request for Amplitude's origin and to nothing
else. Requests to the object store use a separate session, which has no
credentials and no cookies and does not read netrc.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from ..._core.json_stream import whole_part
from ..._core.messages import Operation, Replay, Request, Response
from ..._core.redact import Redactor, shorten
from ..._core.secret import HIDDEN, Secret
from ...errors import (
    CohortsError,
    ConfigurationError,
    ConnectionFailedError,
    RequestTimeoutError,
    TransportError,
)
from ..cancellation import finish_despite_cancel, in_thread
from ..fast import FastPath
from .proxies import Proxies
from .streamed_response import ErrorTranslation, StreamedResponse
from .suppression import not_instrumented

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage

_CONNECT_SECONDS = 15.0

_SLOW_OPERATIONS = frozenset({"list", "upload", "membership"})
_SLOW_FACTOR = 4.0
"""
Factor on the timeout of answers that are large or about 100,000 ids: after a
write that is given up too early, it is unknown whether it was done.
"""
_QUOTABLE = 1 << 16

_USER = re.compile(r"\S*@")

_MAX_BODY = 1 << 16
_MAX_BODIES: Mapping[Operation, int] = {
    "list": 1 << 27,
    "upload": 1 << 25,
    "membership": 1 << 25,
}
"""
Most bytes of an answer in memory, decompressed, whatever a server sends. Ten thousand
cohorts with long definitions are half of the list's; a write may list its 100,000 ids;
all other answers have a few hundred bytes.
"""

_MAX_ERROR = 1 << 16
"""Most bytes read of an error: the refusal of a write may list its ids."""

_INTERIM_ANSWERS = 8
"""Answers of the kind 1xx that may come before the answer itself."""


class AnswerLost(aiohttp.ClientError):
    """The connection ended before there was an answer."""


class InterimAnswersError(aiohttp.ClientError):
    """Too many interim answers came before the answer itself."""


class _BoundedResponse(aiohttp.ClientResponse):
    """
    A response that accepts a few interim answers before its head.

    aiohttp skips any number of them, in a loop that does not yield.
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

        # aiohttp has no hook here; it calls `read()` once for each head.
        protocol.read = read_counted  # type: ignore[method-assign]

        try:
            return await super().start(connection)
        finally:
            del protocol.read  # the instance's attribute; the method stays


def _to(link: Secret) -> aiohttp.ClientMiddlewareType:
    # aiohttp, whose frames and answers show the URL of a request, is given one without
    # its query, which is added last.
    async def add_query(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.url = URL(link, encoded=True)
        return await handler(request)

    return add_query


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # aiohttp itself repeats a GET whose answer was lost, after these exceptions;
    # that would spend a second export unnoticed.
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
        proxies: Proxies = Proxies(),  # noqa: B008 - a frozen value
        answer_seconds: float,
        stall_seconds: float,
        connections: int = 1,
        fast: bool = True,
    ) -> None:
        pair = base64.b64encode(f"{api_key}:{secret_key}".encode()).decode()

        self.connections = connections
        self.fast: FastPath = FastPath(
            stall_seconds=stall_seconds,
            off=_reason_for_ordinary_path(session, proxies, fast=fast),
        )
        self._origin = origin
        # aiohttp's frames and errors hold all headers of a request.
        self._authorization = Secret(f"Basic {pair}")
        self._user_agent = user_agent
        self.redactor = redactor
        self._given = session
        self._proxies = proxies
        self._answer_seconds = answer_seconds
        self._stall_seconds = stall_seconds
        self._short_timeout, self._long_timeout = (
            aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
            for seconds in (answer_seconds, answer_seconds * _SLOW_FACTOR)
        )
        # No limit on the whole file, only on a stall.
        self._file_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=stall_seconds
        )
        self._own: dict[str, aiohttp.ClientSession] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[StreamedResponse]:
        """
        Send *request* to Amplitude and yield its answer, unread.

        The body of a file comes as stored; any other is decoded.
        """
        response, answer = await self._answer(request)

        async with response:
            yield answer

    @asynccontextmanager
    async def fetch(
        self, link: Secret, headers: Mapping[str, str]
    ) -> AsyncGenerator[StreamedResponse]:
        """Request *link* from the store, byte for byte and without credentials."""
        translation = self._translation("the file's link", link)

        # The head is all of it: an instrumentation has nothing for a body.
        with not_instrumented():
            response = await self._head(
                self._store(),
                "GET",
                link,
                translation=translation,
                operation="file",
                headers={
                    # A body that a proxy has compressed could not be resumed.
                    "Accept-Encoding": "identity",
                    "User-Agent": self._user_agent,
                    **headers,
                },
            )

        async with response:
            yield StreamedResponse(response, translation, fast=self.fast)

    async def send(self, request: Request) -> Response:
        """Return the answer to *request* from Amplitude, read to its end."""
        response, answer = await self._answer(request)

        async with response:
            return await self.read(answer, request.operation)

    async def read(self, answer: StreamedResponse, operation: Operation) -> Response:
        """
        Return an answer, read to its end, with our keys hidden if it quotes them.

        Of an unsuccessful one only the beginning is read. One that does not end raises
        `ConnectionFailedError`.
        """
        is_error = answer.status >= 400  # noqa: PLR2004
        is_list = operation == "list"
        most = _MAX_ERROR if is_error else _MAX_BODIES.get(operation, _MAX_BODY)
        seconds = self._answer_seconds * _SLOW_FACTOR
        # The beginning of the answer may name an export that was spent.
        may_be_cut = is_error or operation == "export"
        body = await answer.read(most=most, seconds=seconds, may_be_cut=may_be_cut)

        if body is None:
            raise ConnectionFailedError(
                f"{operation} had an answer of more than {most >> 10:,} KiB, which was "
                f"given up; no such answer of Amplitude is so long, look for a proxy "
                f"in between",
                may_have_happened=True,
            )

        if len(body) > most:
            # 50 ms for a body of brackets only.
            body = await in_thread(partial(whole_part, body[:most]))

        # Any part of an answer may be quoted in a message, but of a list of cohorts
        # only the beginning, if it turns out to be none.
        if is_error or not is_list or len(body) <= _QUOTABLE:
            body = self.redactor.body(body)
        else:
            quotable = body[:_QUOTABLE]
            shown = self.redactor.body(quotable)

            # Do not copy megabytes unless something was hidden.
            if shown != quotable:
                body = shown + body[_QUOTABLE:]

        return Response(
            status=answer.status,
            headers=self._without_secrets(answer.headers),
            body=body,
        )

    async def glance(self, answer: StreamedResponse) -> bytes:
        """Return the beginning of an answer, which says why a request was refused."""
        seconds = self._stall_seconds

        return (
            await answer.read(most=_QUOTABLE, seconds=seconds, may_be_cut=True) or b""
        )

    async def aclose(self) -> None:
        """Close our own connections; a session of the caller stays open."""
        self._is_closed = True
        await finish_despite_cancel(self._close())

    @property
    def is_open(self) -> bool:
        """Whether there are sessions of its own to close."""
        return bool(self._own)

    async def _close(self) -> None:
        while self._own:
            _, session = self._own.popitem()
            await session.close()

    async def _answer(
        self, request: Request
    ) -> tuple[aiohttp.ClientResponse, StreamedResponse]:
        # The caller has to leave the response, whatever becomes of the answer.
        url = f"{self._origin}{request.path}"
        url = Secret(url + (f"?{request.query}" if request.query else ""))
        translation = self._translation(request.operation, url)

        try:
            response = await self._head(
                self._amplitude(request.replay),
                request.method,
                url,
                translation=translation,
                operation=request.operation,
                headers=self._headers(request),
                # A file is sent in pieces, with turns of the loop in between.
                data=None if request.body is None else BytesIO(request.body),
            )
        except CohortsError:
            raise
        except ValueError as error:
            # A session with `trust_env` finds credentials in a netrc file as well.
            raise ConfigurationError(
                f"the session this client was given did not send the request "
                f"({_described(error)}); make it without credentials, and without "
                f"trust_env if a netrc file has some for this host"
            ) from None

        return response, StreamedResponse(response, translation)

    async def _head(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: Secret,
        *,
        translation: ErrorTranslation,
        operation: Operation,
        headers: Mapping[str, str],
        data: BytesIO | None = None,
    ) -> aiohttp.ClientResponse:
        is_file = operation == "file"

        proxy, proxy_headers = self._proxies.of(url)

        if url.startswith("http:"):
            # Without a tunnel the proxy reads the request itself.
            headers = {**headers, **proxy_headers}

        # aiohttp would allow the head of a file any time, as long as a line comes
        # now and then; all other requests have a total timeout.
        with translation:
            async with asyncio.timeout(self._answer_seconds if is_file else None):
                return await session.request(
                    method,
                    URL(url.partition("?")[0], encoded=True),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    # Each piece as a whole, however much it becomes; see `read()`.
                    auto_decompress=False,
                    middlewares=(_once, _to(url)),
                    proxy=proxy,
                    proxy_headers=proxy_headers,
                    raise_for_status=False,
                    timeout=self._timeout(operation),
                )

    def _without_secrets(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        # Nearly always there are none, which one search over all of them shows; twelve
        # headers one by one take 70 us instead of 26.
        together = "\n".join(headers.values())

        if self.redactor.text(together) == together:
            return headers

        # A link has to stay byte for byte; it is redacted where it is shown.
        return {
            name: text if name == "location" else self.redactor.text(text)
            for name, text in headers.items()
        }

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {
            "Authorization": self._authorization,
            "User-Agent": self._user_agent,
            "Accept-Encoding": "gzip",
        }

        if request.operation != "file":
            headers["Accept"] = "application/json"

        if request.body is not None:
            headers["Content-Type"] = "application/json"

        return headers

    def _timeout(self, operation: Operation) -> aiohttp.ClientTimeout:
        if operation == "file":
            return self._file_timeout

        return (
            self._long_timeout if operation in _SLOW_OPERATIONS else self._short_timeout
        )

    def _amplitude(self, replay: Replay) -> aiohttp.ClientSession:
        self._check_open()

        if self._given is not None:
            return self._given

        # The service may close a kept connection at the moment we use it, and then
        # it is unknown whether the request was seen. A request that must not happen
        # twice uses a fresh connection.
        kept = replay is Replay.SAFE

        return self._session(
            "kept" if kept else "fresh",
            partial(aiohttp.TCPConnector, limit=0, force_close=not kept),
        )

    def _store(self) -> aiohttp.ClientSession:
        self._check_open()

        if self._given is None or self._given.connector is None:
            return self._session("store", partial(self.fast.connector_type, limit=0))

        # The caller's TLS settings and resolver serve the store as well; the
        # caller's headers, cookies and credentials do not.
        connector = self._given.connector

        return self._session("store", lambda: connector, connector_owner=False)

    def check_loop(self) -> None:
        """Raise `ConfigurationError` on another event loop than the first one."""
        loop = asyncio.get_running_loop()

        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            # Its connections, and what waits for answers, belong to the first one.
            raise ConfigurationError(
                "this client was used on another event loop before; create one in each "
                "`asyncio.run()`: clients of one project share their limits and jobs "
                "all the same"
            )

    def _check_open(self) -> None:
        # A job may outlive its client; a session opened for it would never close.
        if self._is_closed:
            raise ConfigurationError("this client is closed; make another one")

        self.check_loop()

        if self._given is not None and self._given.closed:
            raise ConfigurationError("the session this client was given is closed")

    def _session(
        self,
        name: str,
        connect: Callable[[], aiohttp.BaseConnector],
        *,
        connector_owner: bool = True,
    ) -> aiohttp.ClientSession:
        if name not in self._own:
            self._own[name] = aiohttp.ClientSession(
                connector=connect(),
                connector_owner=connector_owner,
                cookie_jar=aiohttp.DummyCookieJar(),
                response_class=_BoundedResponse,
            )

        return self._own[name]

    def _translation(self, what: str, url: str) -> ErrorTranslation:
        return ErrorTranslation(
            lambda error: self._translated(what, self.redactor.url(url), error)
        )

    def _translated(self, what: str, address: str, error: Exception) -> TransportError:
        reason = shorten(self.redactor.text(_described(error)))
        unsent = isinstance(
            error,
            aiohttp.ClientConnectorError
            | aiohttp.ConnectionTimeoutError
            | aiohttp.ClientHttpProxyError
            | aiohttp.InvalidURL,
        )

        kind, what_happened = (
            (RequestTimeoutError, "was not answered in time")
            if isinstance(error, TimeoutError)
            else (ConnectionFailedError, "got no whole answer")
        )

        return kind(
            f"{what} at {address} {what_happened} ({reason}); "
            f"{_next_step(what, unsent=unsent)}",
            may_have_happened=not unsent,
        )


def _reason_for_ordinary_path(
    session: aiohttp.ClientSession | None, proxies: Proxies, *, fast: bool
) -> str | None:
    if not fast:
        return "Downloading(fast=False) switches it off"

    # A caller's session or a proxy may change how bytes arrive, and TLS to a proxy may
    # carry another TLS connection inside.
    if session is not None:
        return "the session is the caller's"

    return "there is a proxy" if proxies.by_scheme else None


def _described(error: Exception) -> str:
    name = type(error).__name__

    # aiohttp quotes what it cannot parse, which may be the ids of members.
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return name

    # A session of the caller may have a proxy, with a password in its URL.
    return f"{name}: {_USER.sub(HIDDEN, str(error))}".rstrip(": ")


def _next_step(what: str, *, unsent: bool) -> str:
    if what == "export" and not unsent:
        return (
            "it may have been spent all the same: look at `get_usage()` before you "
            "request it again"
        )

    return "check the network and try again"
