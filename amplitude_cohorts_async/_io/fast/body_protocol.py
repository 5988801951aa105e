"""
A body straight off the connection into lent buffers.

aiohttp reads the head of an answer; for the body, a protocol of ours takes its place on
the transport, receives into buffers that are used again and again, and hands the
connection back. That leaves out the copies that a stream of small pieces costs.

| state | reads | on the transport | what ends it |
|---|---|---|---|
| PAUSED | no | ours | `_receive()`: RECEIVING |
| RECEIVING | yes | ours | a full buffer, the body's end, a failed writer: PAUSED |
| LOST | no | ours | (from PAUSED and RECEIVING, when the connection ends) |
| DETACHED | aiohttp's business | aiohttp's | (from any, by `detach()`) |

The connection changes hands only while it is PAUSED, and from a task: never from within
one of its transport's callbacks, because some transports read on behind these with the
kind of protocol that they found at the start.

It leans on a few things that asyncio and aiohttp promise or have long done. They are
looked at each time, and if one is not as expected, nothing is taken over: the stream
still works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

if TYPE_CHECKING:
    from . import FastPath

_SMALLEST = 256 * 1024
"""Bytes of a body below which it is not worth it: they may be here already."""

_TURN = 512 * 1024
"""Bytes received before others have a turn, on loops that do not see to that."""


class Buffers(Protocol):
    """Lends buffers to receive into."""

    async def get_buffer(self) -> memoryview:
        """Lend a buffer for the next bytes; wait while none is free."""
        ...

    def buffer_filled(self, count: int) -> memoryview | None:
        """
        Take the next bytes, which are in the lent buffer.

        Returns:
            Where the bytes after these go; None when `get_buffer()` has to be asked.
        """
        ...


class _State(Enum):
    PAUSED = auto()
    RECEIVING = auto()
    LOST = auto()
    DETACHED = auto()


class BodyProtocol(asyncio.BufferedProtocol):
    """
    Receives the *left* bytes of one body in aiohttp's place.

    The caller has to `detach()` it.
    """

    def __init__(
        self,
        path: FastPath,
        content: aiohttp.StreamReader,
        transport: asyncio.Transport,
        handler: asyncio.Protocol,
        *,
        left: int,
        buffers: Buffers,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._path = path
        self._content = content
        self._transport = transport
        self._handler = handler
        self._left = left
        self._buffers = buffers
        self._on_bytes = on_bytes
        self._began = 0.0
        self._loop = asyncio.get_running_loop()
        self._state = _State.PAUSED
        self._failure: Exception | None = None
        self._refusal: Exception | None = None
        self._room: memoryview | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._last_read = self._loop.time()
        # asyncio reads once in each turn of the loop. Other loops read many times in a
        # row, and keep everything else waiting for milliseconds.
        takes_turns = isinstance(self._loop, asyncio.BaseEventLoop)
        self._turn = 0 if takes_turns else _TURN
        self._in_turn = 0

        transport.set_protocol(self)
        transport.pause_reading()

    async def run(self, translation: AbstractContextManager[None]) -> None:
        """Receive to the end, with only what the network does in *translation*."""
        while self._left:
            self._room = await self._buffers.get_buffer()

            with translation:
                await self._receive()

            if self._refusal is not None:
                raise self._refusal

    def detach(self) -> None:
        """Hand the connection back; it is used again only if the body is over."""
        state, self._state = self._state, _State.DETACHED
        self._room = None

        if state in {_State.LOST, _State.DETACHED}:
            return

        self._transport.set_protocol(self._handler)

        if self._left:
            self._transport.abort()
        else:
            self._transport.resume_reading()
            # aiohttp's parser has not seen the end, so its stream has to be told. That
            # makes aiohttp ask `should_close` and keep the connection, for which the
            # next request makes a parser of its own: see `_parses_afresh()`.
            self._content.feed_eof()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - its name
        """Return where the next bytes go; never beyond the end of the body."""
        self._began, room = time.thread_time(), self._room

        if room is None:
            raise RuntimeError("nothing was to be received now")

        return room if len(room) <= self._left else room[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Pass the received bytes on."""
        self._left -= nbytes
        self._last_read = self._loop.time()

        try:
            self._room = self._buffers.buffer_filled(nbytes)
            self._on_bytes(nbytes)
        except Exception as error:  # noqa: BLE001 - raised where the caller waits
            self._refusal = error
            self._room = None

        if self._room is None or not self._left:
            self._pause()
        elif self._turn:
            self._take_turns(nbytes)

        self._path.seconds += time.thread_time() - self._began

    def eof_received(self) -> None:
        """End the wait: the other side sends no more."""
        self._fail(aiohttp.ClientPayloadError("the connection ended in the body"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the wait, and tell aiohttp as well."""
        self._state = _State.LOST
        self._fail(aiohttp.ClientPayloadError(f"the connection was lost: {exc}"))
        self._handler.connection_lost(exc if isinstance(exc, Exception) else None)

    async def _receive(self) -> None:
        # Returns when the buffer is full, the body over or the writer broken.
        self._last_read = self._loop.time()
        self._waiter = self._loop.create_future()

        if self._failure is None:
            self._state = _State.RECEIVING
            self._transport.resume_reading()

        while self._failure is None and not self._waiter.done():
            seconds_left = (
                self._last_read + self._path.stall_seconds - self._loop.time()
            )

            if seconds_left <= 0:
                raise aiohttp.SocketTimeoutError("nothing came for too long")

            await asyncio.wait([self._waiter], timeout=seconds_left)

        if self._failure is not None and self._left and self._refusal is None:
            raise self._failure

    def _pause(self) -> None:
        self._state = _State.PAUSED
        self._transport.pause_reading()
        self._wake()

    def _take_turns(self, count: int) -> None:
        self._in_turn += count

        if self._in_turn >= self._turn:
            self._in_turn = 0
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._state is _State.RECEIVING:
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def worthwhile_length(response: aiohttp.ClientResponse) -> int | None:
    """Return the length of a body; None if it is short or not known."""
    length = response.headers.get("Content-Length", "")
    is_length = length.isdecimal() and "Transfer-Encoding" not in response.headers

    return int(length) if is_length and int(length) >= _SMALLEST else None


_TRANSPORT = (
    "abort",
    "get_protocol",
    "is_reading",
    "pause_reading",
    "resume_reading",
    "set_protocol",
)
_HANDLER = ("connection_lost", "read_timeout", "should_close", "start_timeout")


def is_known(
    content: object, transport: asyncio.Transport, handler: asyncio.Protocol
) -> bool:
    """Whether these parts of aiohttp and asyncio are as the fast path needs them."""
    return (
        type(content) is aiohttp.StreamReader
        and all(hasattr(transport, name) for name in _TRANSPORT)
        and all(hasattr(handler, name) for name in _HANDLER)
        and hasattr(content, "feed_eof")
        and transport.get_protocol() is handler
        and _parses_afresh(type(handler))
    )


def _parses_afresh(kind: Callable[[asyncio.AbstractEventLoop], Any]) -> bool:
    # Whether each answer on a connection gets a parser of its own. The parser of a body
    # that we receive never sees its end, and would take the next answer for the rest.
    try:
        handler = kind(asyncio.get_running_loop())
        handler.set_response_params()
        parser = handler._parser  # noqa: SLF001 - missing, nothing is taken over
        handler.set_response_params()
    except Exception:  # noqa: BLE001 - whatever it is, this aiohttp is not known
        return False

    return parser is not None and parser is not handler._parser  # noqa: SLF001
