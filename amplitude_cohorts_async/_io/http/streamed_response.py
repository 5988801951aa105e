"""An answer whose body is still on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import aiohttp
import anyio

from ..cancellation import in_thread
from ..fast import BodyProtocol, FastPath
from ..sinks.disk_writer import Consumer, DiskWriter
from .error_translation import ErrorTranslation

_LARGE = 1 << 20
"""Bytes that take a millisecond to join; so many Python joins without its lock."""


class StreamedResponse:
    """
    Status and headers of an answer, and its body as it comes.

    Args:
        fast: Takes the body over, where that is possible.

    Attributes:
        headers: By lower-case name; the last of a repeated name.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        border: ErrorTranslation,
        *,
        fast: FastPath | None = None,
    ) -> None:
        self._response = response
        self._border = border
        self._fast = fast
        self.status: int = response.status
        self.headers: dict[str, str] = {
            name.lower(): text for name, text in response.headers.items()
        }

    @property
    def is_delimited(self) -> bool:
        """Whether the end of the body can be distinguished from a cut."""
        return "content-length" in self.headers or (
            "chunked" in self.headers.get("transfer-encoding", "").lower()
        )

    async def read(self, *, most: int, seconds: float) -> bytes:
        """
        Return the body, or *most* bytes of it and the rest of a piece.

        Args:
            seconds: To do it in; a byte now and then is not enough.
        """
        content = self._response.content
        pieces: list[bytes] = []
        left = most

        # A short body comes with its head, and needs no timer.
        timer = nullcontext() if content.is_eof() else asyncio.timeout(seconds)

        with self._border:
            async with timer:
                while left > 0 and (piece := await content.readany()):
                    pieces.append(piece)
                    left -= len(piece)

        join = partial(b"".join, pieces)

        if most - left < _LARGE:
            return join()

        return await in_thread(join, anyio.CapacityLimiter(1))

    async def pour(self, taker: Consumer, tally: Callable[[int], None]) -> None:
        """
        Give the body to a taker, on the shortest way there is.

        Args:
            tally: Told how many more bytes are with the taker.
        """
        early, body = self._take_over(taker)

        try:
            for piece in early:
                await taker.take(piece)
                tally(len(piece))

            if body is not None and isinstance(taker, DiskWriter):
                await body.run(taker, tally, self._border)
                return
        finally:
            if body is not None:
                body.detach()

        while chunk := await self._next():
            await taker.take(chunk)
            tally(len(chunk))

    async def _next(self) -> bytes:
        # What the taker of a piece raises is not the network's doing.
        with self._border:
            return await self._response.content.readany()

    def _take_over(self, taker: Consumer) -> tuple[list[bytes], BodyProtocol | None]:
        if self._fast is None or not isinstance(taker, DiskWriter):
            return [], None

        with self._border:
            return self._fast.receive(self._response)
