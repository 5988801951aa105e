"""
The fast path, behind two doors: `connector_type` and `receive`.

Delete this folder and everything works, slower: `transport` then opens aiohttp's own
connector, and `streamed_response` reads each body from aiohttp's stream, as both do
where the fast path is switched off.
"""

from __future__ import annotations

import logging
import os

import aiohttp

from .body_protocol import BodyProtocol, take_over
from .connections import FastConnector

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
        self, response: aiohttp.ClientResponse
    ) -> tuple[list[bytes], BodyProtocol | None]:
        """
        Take over the rest of a body.

        Returns:
            The bytes that aiohttp had received already, and what receives those that
            follow; None when aiohttp's own stream has to bring these.
        """
        early: list[bytes] = []
        body: BodyProtocol | str = self._off or ""

        if self._off is None:
            early, body = take_over(response, self)

        if isinstance(body, str):
            self._log(f"ordinary, because {body}")
            return early, None

        self._log(f"fast, over {body.tls}")
        return early, body

    def _log(self, line: str) -> None:
        # Once for each client, and again when the answer changes.
        if line != self._logged:
            self._logged = line
            _logger.debug("body receiver: %s", line)
