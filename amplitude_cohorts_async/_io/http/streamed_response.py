"""A response whose body has not been read yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

import aiohttp

from ..._core.csvtext import Malformed
from ..._core.secret import Secret
from ..cancellation import in_thread
from ..fast import BodyProtocol, FastPath
from ..sinks.disk_writer import Consumer, DiskWriter
from ..sinks.filters import Inflate, PassThrough

_LARGE = 1 << 20
"""Bytes that take a millisecond to join; so large a join releases the GIL."""

_INFLATED_AT_ONCE = 2048
"""Compressed bytes inflated before other tasks may run: two MiB at most, 3 ms."""

# Malformed: what claims to be compressed, and is not.
_FOREIGN = (aiohttp.ClientError, OSError, UnicodeError, Malformed)


class _Held(PassThrough):
    # The end of a filter: keeps what was written until `collect()`.
    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def write(self, data: bytes | memoryview) -> None:
        self._pieces.append(bytes(data))

    def collect(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()

        return data


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

    async def read(
        self, *, most: int, seconds: float, may_be_cut: bool
    ) -> bytes | None:
        """
        Return the body, decompressed, within *seconds*.

        Of a body of more than *most* bytes return that many and the rest of a piece, or
        None unless it *may_be_cut*.
        """
        pieces: list[bytes] = []
        size = 0

        with self._translation:
            async with (
                asyncio.timeout(seconds),
                aclosing(self._inflated_pieces()) as body,
            ):
                async for piece in body:
                    pieces.append(piece)
                    size += len(piece)

                    if size > most:
                        break

        if size > most and not may_be_cut:
            return None

        join = partial(b"".join, pieces)

        return join() if size < _LARGE else await in_thread(join)

    async def _inflated_pieces(self) -> AsyncGenerator[bytes]:
        content = self._response.content
        encoding = self.headers.get("content-encoding", "").strip().lower()
        held = _Held()
        inflate = Inflate(held) if encoding in {"gzip", "x-gzip"} else None
        is_empty = True

        while piece := await content.readany():
            is_empty = False

            if inflate is None:
                yield piece
                continue

            for start in range(0, len(piece), _INFLATED_AT_ONCE):
                inflate.write(piece[start : start + _INFLATED_AT_ONCE])
                yield held.collect()
                # A body that becomes a thousand times as long must not hold the loop.
                await asyncio.sleep(0)

        if inflate is not None and not is_empty:
            inflate.finish()

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
