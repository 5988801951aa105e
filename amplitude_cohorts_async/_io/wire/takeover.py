"""
A body straight off the connection into lent buffers.

aiohttp reads the head of an answer; for the body, a protocol of ours takes its
place on the transport, receives into buffers that are used again and again, and
hands the connection back. That leaves out the copies that a stream of small
pieces costs.

It leans on a few things that asyncio and aiohttp promise or have long done.
They are looked at each time, and if one is not as expected, nothing is taken
over: the stream still works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp
import attrs

from .border import Border
from .feed import Feed
from .tls import TlsTransport

_LEAST = 256 * 1024
"""
Bytes of a body below which it is not worth it: they may be here already.
"""

_TURN = 512 * 1024
"""
Bytes received before others have a turn, on loops that do not see to that.
"""


@attrs.define
class Load:
    """
    What receiving has cost so far.

    Attributes:
        seconds: In which it kept the loop's thread at work.
    """

    seconds: float = 0.0


class Takeover(asyncio.BufferedProtocol):
    """
    Receives the rest of one body in aiohttp's place.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        transport: asyncio.Transport,
        handler: asyncio.Protocol,
        *,
        left: int,
        stall_seconds: float,
        load: Load,
    ) -> None:
        self._content = response.content
        self._transport = transport
        self._handler = handler
        self._left = left
        self._stall_seconds = stall_seconds
        self._load = load
        self._began = 0.0
        self._loop = asyncio.get_running_loop()
        self._is_ours = True
        self._is_lost = False
        self._failure: Exception | None = None
        self._refusal: Exception | None = None
        self._room: memoryview | None = None
        self._feed: Feed | None = None
        self._tally: Callable[[int], None] = _ignored
        self._waiter: asyncio.Future[None] | None = None
        self._heard = self._loop.time()
        # One read for each turn of the loop is asyncio's habit and ours, but not
        # every loop's: many in a row would keep everybody waiting for milliseconds.
        takes_turns = isinstance(transport, TlsTransport) or isinstance(
            self._loop, asyncio.BaseEventLoop
        )
        self._turn = 0 if takes_turns else _TURN
        self._in_turn = 0

        transport.set_protocol(self)
        transport.pause_reading()

    async def run(
        self, feed: Feed, tally: Callable[[int], None], border: Border
    ) -> None:
        """
        Receive to the end of the body, and hand the connection back.

        Args:
            tally: Told how many bytes are with the feed.

            border: Around whatever the network does, and nothing else.
        """
        self._feed, self._tally = feed, tally

        try:
            while self._left:
                self._room = await feed.room()

                with border:
                    await self._receive()

                if self._refusal is not None:
                    raise self._refusal
        finally:
            self._hand_back()

    def abandon(self) -> None:
        """
        Hand the connection back, not to be used again.
        """
        self._hand_back()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - its name
        """
        Tell where the next bytes go; never beyond the end of the body.
        """
        self._began, room = time.thread_time(), self._room

        if room is None:
            raise RuntimeError("nothing was to be received now")

        return room if len(room) <= self._left else room[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """
        Pass the received bytes on.
        """
        self._left -= nbytes
        self._heard = self._loop.time()
        feed, self._room = self._feed, None

        try:
            if feed is not None:
                self._room = feed.filled(nbytes)
            self._tally(nbytes)
        except Exception as error:  # noqa: BLE001 - raised where the caller waits
            self._refusal = error
            self._room = None

        if not self._left:
            self._hand_back()
            self._wake()
        elif self._room is None:
            self._transport.pause_reading()
            self._wake()
        elif self._turn:
            self._take_turns(nbytes)

        self._load.seconds += time.thread_time() - self._began

    def eof_received(self) -> None:
        """
        Take note that the other side is done.
        """
        self._fail(aiohttp.ClientPayloadError("the connection ended in the body"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """
        Take note, and let aiohttp know, too.
        """
        self._is_lost = True
        self._fail(aiohttp.ClientPayloadError(f"the connection was lost: {exc}"))
        self._handler.connection_lost(exc if isinstance(exc, Exception) else None)

    async def _receive(self) -> None:
        # Returns when the buffer is full, the body over or the feed broken.
        self._heard = self._loop.time()
        self._waiter = self._loop.create_future()

        if self._failure is None:
            self._transport.resume_reading()

        while self._failure is None and not self._waiter.done():
            patience = self._heard + self._stall_seconds - self._loop.time()

            if patience <= 0:
                raise aiohttp.SocketTimeoutError("nothing came for too long")

            await asyncio.wait([self._waiter], timeout=patience)

        if self._failure is not None and self._left and self._refusal is None:
            raise self._failure

    def _take_turns(self, count: int) -> None:
        self._in_turn += count

        if self._in_turn >= self._turn:
            self._in_turn = 0
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._is_ours and not self._is_lost and self._room is not None:
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hand_back(self) -> None:
        if not self._is_ours:
            return

        self._is_ours = False
        self._room = None

        if self._is_lost:
            return

        self._transport.set_protocol(self._handler)

        if self._left:
            self._transport.abort()
        else:
            # aiohttp's parser has not seen the end. Its stream has to be told,
            # and then the connection is used again, with another parser.
            self._content.feed_eof()


def take_over(
    response: aiohttp.ClientResponse, *, length: int, stall_seconds: float, load: Load
) -> tuple[list[bytes], Takeover | None]:
    """
    Put a protocol of ours on an answer's connection.

    Args:
        length: Bytes of the body, all of them still unread.

        load: To add the cost to.

    Returns:
        The bytes that aiohttp had received already, and the protocol for those
        that follow; None when aiohttp's own stream has to bring these.
    """
    content, connection = response.content, response.connection

    if (
        length < _LEAST
        or connection is None
        or type(content) is not aiohttp.StreamReader
    ):
        return [], None

    transport, handler = connection.transport, connection.protocol

    if transport is None or handler is None or not _is_known(transport, handler):
        return [], None

    # Nothing else runs from here on, so nothing is received in between.
    early: list[bytes] = []

    while piece := content.read_nowait(-1):
        early.append(piece)

    left = length - sum(map(len, early))

    # Paused although empty: some bytes are held back, nobody knows where.
    if left <= 0 or content.is_eof() or not transport.is_reading():
        return early, None

    handler.read_timeout = None
    handler.start_timeout()

    return early, Takeover(
        response,
        transport,
        handler,
        left=left,
        stall_seconds=stall_seconds,
        load=load,
    )


_TRANSPORT = (
    "abort",
    "get_protocol",
    "is_reading",
    "pause_reading",
    "resume_reading",
    "set_protocol",
)
_HANDLER = ("connection_lost", "read_timeout", "start_timeout")


def _is_known(transport: asyncio.Transport, handler: asyncio.Protocol) -> bool:
    return (
        all(hasattr(transport, name) for name in _TRANSPORT)
        and all(hasattr(handler, name) for name in _HANDLER)
        and transport.get_protocol() is handler
    )


def _ignored(_count: int) -> None:
    pass
