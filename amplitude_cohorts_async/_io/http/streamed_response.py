"""A response whose body has not been read yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import aiohttp

from ..._core.secret import Secret
from ..cancellation import in_thread
from ..fast import BodyProtocol, FastPath
from ..sinks.disk_writer import Consumer, DiskWriter

_LARGE = 1 << 20
"""Bytes that take a millisecond to join; so large a join releases the GIL."""

_FOREIGN = (aiohttp.ClientError, OSError, UnicodeError)


class ErrorTranslation:
    """A reusable context that translates aiohttp's and the system's errors."""

    def __init__(self, translate: Callable[[Exception], Exception]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, _FOREIGN):
            return

        translated = self._translate(error)
        # Nor as a local of this frame.
        del error

        # The original quotes links and headers whole, so it must not stay as the
        # `__context__` either, which `raise` sets.
        try:
            raise translated from None
        finally:
            translated.__context__ = None


class StreamedResponse:
    """
    Status and headers of an answer, and its body as it arrives.

    Attributes:
        headers: By lower-case name; the last of a repeated name.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        translation: ErrorTranslation,
        *,
        fast: FastPath | None = None,
    ) -> None:
        self._response = response
        self._translation = translation
        self._fast = fast
        self.status: int = response.status
        self.headers: dict[str, str] = {
            name.lower(): text for name, text in response.headers.items()
        }

        if "location" in self.headers:
            # A presigned link; the frames of errors hold headers.
            self.headers["location"] = Secret(self.headers["location"])

    @property
    def is_delimited(self) -> bool:
        """Whether the end of the body can be told from a lost connection."""
        return "content-length" in self.headers or (
            "chunked" in self.headers.get("transfer-encoding", "").lower()
        )

    async def read(self, *, most: int, seconds: float) -> bytes:
        """Return the body, or *most* bytes and the rest of a piece, within *seconds*."""
        content = self._response.content
        pieces: list[bytes] = []
        left = most

        with self._translation:
            async with asyncio.timeout(seconds):
                while left > 0 and (piece := await content.readany()):
                    pieces.append(piece)
                    left -= len(piece)

        join = partial(b"".join, pieces)

        if most - left < _LARGE:
            return join()

        return await in_thread(join)

    async def pour(self, consumer: Consumer, on_bytes: Callable[[int], None]) -> None:
        """Pass the body to *consumer*, by the fast path if possible."""
        early, body = self._take_over(consumer, on_bytes)

        try:
            for piece in early:
                await consumer.take(piece)
                on_bytes(len(piece))

            if body is not None:
                await body.run(self._translation)
                return
        finally:
            if body is not None:
                body.detach()

        while chunk := await self._next():
            await consumer.take(chunk)
            on_bytes(len(chunk))

    async def _next(self) -> bytes:
        # Errors of the consumer are not the network's: they are not translated.
        with self._translation:
            return await self._response.content.readany()

    def _take_over(
        self, consumer: Consumer, on_bytes: Callable[[int], None]
    ) -> tuple[list[bytes], BodyProtocol | None]:
        if self._fast is None or not isinstance(consumer, DiskWriter):
            return [], None

        with self._translation:
            return self._fast.receive(self._response, consumer, on_bytes)
