"""The receiver of a file's bytes that decodes them for a reader of text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import anyio.to_thread

from ...errors import IncompleteDownloadError
from ..sinks.filters import DetectGzip, Filter, Inflate, PassThrough, TextCheck
from ..sinks.part_record import Source

_PIECE_SIZE = 64 * 1024
"""Bytes of a piece at most: the network brings more at once when it is fast."""

_QUEUE_SIZE = 16
"""Pieces that may wait; beyond, the network waits for the reader."""

_UNBOUND_QUEUE_SIZE = 1024
"""
The same while the sender holds one of the five slots: a reader that calls the
API between rows would otherwise deadlock.
"""

_DECODED_AT_ONCE = 4
"""Pieces decoded in one visit to the worker thread."""


class TextReceiver:
    """
    Takes bytes on one side; an iterator of decoded text on the other.

    A transfer that has to start over after the first read fails, because the text
    of two files must not be mixed.
    """

    random_access = None

    def __init__(
        self, *, request_id: str, has_header: bool, max_size: int | None
    ) -> None:
        self._request_id = request_id
        self._has_header = has_header
        self._max_size = max_size
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queue_size = _QUEUE_SIZE
        self._taken = asyncio.Event()
        self._failure: Exception | None = None
        self._is_read = False
        self._is_over = False
        self._is_delimited = True
        self._text = _Text()
        self._filters = DetectGzip(self._choose)

    @property
    def consumer(self) -> Self:
        """Takes the bytes in order."""
        return self

    async def take_up(self) -> None:
        """Return None: nothing is kept of a text."""

    def comes_from(self, source: Source | None) -> None:
        """Do nothing: nothing is kept of a text."""

    async def begin(self) -> None:
        """Expect the first byte next; raise if some text was read already."""
        if self._is_read:
            raise IncompleteDownloadError(
                f"the file of export {self._request_id} has to be read from its start "
                f"again, because it changed or the store cannot resume it, and some "
                f"members were handed out already; open `job.members()` once more, "
                f"which spends no export",
                request_id=self._request_id,
            )

        while not self._pieces.empty():
            self._pieces.get_nowait()

    def unbound(self) -> None:
        """Let the sender run ahead of the reader, because it holds a slot."""
        self._queue_size = _UNBOUND_QUEUE_SIZE

    async def take(self, data: bytes) -> None:
        """Take the next bytes; waits while the reader is behind."""
        for start in range(0, len(data), _PIECE_SIZE):
            while self._pieces.qsize() >= self._queue_size:
                self._taken.clear()
                await self._taken.wait()

            self._pieces.put_nowait(data[start : start + _PIECE_SIZE])

    async def end(self, *, is_delimited: bool) -> None:
        """Record whether a cut would have been seen: see `FileReceiver.end()`."""
        self._is_delimited = is_delimited

    async def fill(self, transfer: Callable[[], Awaitable[None]]) -> None:
        """Run the transfer; the reader raises its exception."""
        try:
            await transfer()
        except Exception as error:  # noqa: BLE001 - raised by the reader
            self._failure = error

        self._pieces.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._is_over:
            piece = await self._pieces.get()
            self._is_read = True
            text = await anyio.to_thread.run_sync(self._decode, self._with_next(piece))

            if self._is_over and self._failure is not None:
                raise self._failure

            if text:
                return text

        raise StopAsyncIteration

    def _with_next(self, piece: bytes | None) -> list[bytes | None]:
        # Each waiting piece saves a visit to the worker thread.
        pieces = [piece]

        while len(pieces) < _DECODED_AT_ONCE and not self._pieces.empty():
            pieces.append(self._pieces.get_nowait())

        self._taken.set()

        return pieces

    def _decode(self, pieces: list[bytes | None]) -> bytes:
        for piece in pieces:
            if piece is not None:
                self._filters.write(piece)
                continue

            self._is_over = True

            if self._failure is None:
                self._filters.finish(is_delimited=self._is_delimited)

        return self._text.collect()

    def _choose(self, is_gzip: bool) -> Filter:
        checked = TextCheck(
            self._text, has_header=self._has_header, max_size=self._max_size
        )

        return Inflate(checked) if is_gzip else checked


class _Text(PassThrough):
    # The end of the filters: keeps text until `collect()`.
    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes | memoryview] = []

    def write(self, data: bytes | memoryview) -> None:
        self._pieces.append(data)

    def collect(self) -> bytes:
        text = b"".join(self._pieces)
        self._pieces.clear()

        return text
