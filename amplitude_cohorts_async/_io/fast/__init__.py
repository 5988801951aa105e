"""
The fast path, behind two doors: `connector_type` and `receive`.

Delete this folder and everything works, slower: `transport` then opens aiohttp's own
connector, and `streamed_response` reads each body from aiohttp's stream, as both do
where the fast path is switched off. There `seconds` stay 0.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import aiohttp

from .body_protocol import BodyProtocol, Buffers, is_known, worthwhile_length
from .connections import FastConnector, engine_of

__all__ = ("BodyProtocol", "FastPath")

_SWITCH = "AMPLITUDE_FAST"

_logger = logging.getLogger(__name__)


class FastPath:
    """
    How one client connects to the store and receives bodies.

    Args:
        stall_seconds: In which a byte of a body has to come.
        off: Why the ordinary path has to serve, if it has to.

    Attributes:
        seconds: In which receiving kept the event loop's thread at work, so far.
    """

    def __init__(self, *, stall_seconds: float, off: str | None = None) -> None:
        if os.environ.get(_SWITCH) == "0":
            off = f"{_SWITCH}=0 switches it off"

        self.seconds: float = 0.0
        self.stall_seconds = stall_seconds
        self._off = off
        self._logged: str | None = None

    @property
    def connector_type(self) -> type[aiohttp.TCPConnector]:
        """The connector for the store."""
        return FastConnector if self._off is None else aiohttp.TCPConnector

    def receive(
        self,
        response: aiohttp.ClientResponse,
        buffers: Buffers,
        on_bytes: Callable[[int], None],
    ) -> tuple[list[bytes], BodyProtocol | None]:
        """
        Put a protocol of ours on an answer's connection.

        Returns:
            The bytes that aiohttp had received already, and the protocol for those that
            follow; None when aiohttp's own stream has to bring these.
        """
        early: list[bytes] = []
        length = worthwhile_length(response)
        content, connection = response.content, response.connection

        if self._off is not None or length is None:
            short = "the body is short, or its length is not known"
            return self._ordinary(self._off or short, early)

        transport = None if connection is None else connection.transport
        handler = None if connection is None else connection.protocol

        if transport is None or handler is None:
            return self._ordinary("the body is here already", early)

        if not is_known(content, transport, handler):
            return self._ordinary(f"aiohttp {aiohttp.__version__} is not known", early)

        # Nothing else runs from here on, so nothing is received in between.
        while piece := content.read_nowait(-1):
            early.append(piece)

        left = length - sum(map(len, early))

        if left <= 0 or content.is_eof():
            return self._ordinary("the body is here already", early)

        # Paused although the stream is empty: aiohttp holds bytes back somewhere.
        if not transport.is_reading():
            return self._ordinary("aiohttp has paused the connection", early)

        handler.read_timeout = None
        handler.start_timeout()
        self._log(f"fast, over {engine_of(transport)}")

        return early, BodyProtocol(
            self,
            *(content, transport, handler),
            left=left,
            buffers=buffers,
            on_bytes=on_bytes,
        )

    def _ordinary(self, reason: str, early: list[bytes]) -> tuple[list[bytes], None]:
        self._log(f"ordinary, because {reason}")

        return early, None

    def _log(self, line: str) -> None:
        # Once for each client, and again when the answer changes.
        if line != self._logged:
            self._logged = line
            _logger.debug("body receiver: %s", line)
