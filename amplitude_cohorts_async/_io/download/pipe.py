"""
A file's bytes on their way to somebody who reads rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import anyio.to_thread

from ...errors import IncompleteDownloadError
from ..disk.stages import Inflate, Sniff, TextCheck

_PIECE = 64 * 1024
"""
Bytes of a piece at most: the network brings more at once when it is fast.
"""

_PIECES = 16
"""
Pieces that may wait; then the network waits for the reader.
"""

_HURRIED = 1024
"""
The same while the sender holds one of the five slots: a reader that calls the
API between rows would otherwise wait for itself.
"""

_AT_ONCE = 4
"""
Pieces decoded in one visit to the worker thread.
"""


class Pipe:
    """
    A `Receiver` on one side, decoded text on the other.

    What was read cannot be unread: a transfer that has to start over after
    that fails instead of mixing two files.
    """

    def __init__(self, *, request_id: str, never: bytes) -> None:
        self._request_id = request_id
        self._never = never
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = _PIECES
        self._taken = asyncio.Event()
        self._failure: Exception | None = None
        self._is_read = False
        self._is_over = False
        self._is_delimited = True
        self._text = _Text()
        self._stage = Sniff(self._choose)

    @property
    def feed(self) -> Self:
        """
        Where the bytes go, in order.
        """
        return self

    async def begin(self) -> None:
        """
        Expect the first byte next.

        Raises:
            IncompleteDownloadError: Some had been read already.
        """
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

    def hurry(self) -> None:
        """
        Let the sender run ahead of the reader, because it holds a slot.
        """
        self._room = _HURRIED

    async def take(self, data: bytes) -> None:
        """
        Take the next bytes; waits while the reader is behind.
        """
        for start in range(0, len(data), _PIECE):
            while self._pieces.qsize() >= self._room:
                self._taken.clear()
                await self._taken.wait()

            self._pieces.put_nowait(data[start : start + _PIECE])

    async def end(self, *, is_delimited: bool) -> None:
        """
        Let the reader come to the end.
        """
        self._is_delimited = is_delimited

    async def fill(self, transfer: Callable[[], Awaitable[None]]) -> None:
        """
        Run the transfer that fills the pipe; its reader hears how it ended.
        """
        try:
            await transfer()
        except Exception as error:  # noqa: BLE001 - raised where the reader is
            self._failure = error

        self._pieces.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        Hand out the next text.

        Raises:
            Malformed: The file is no gzip, or no text, or not whole.
        """
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
        # What waits already saves a visit to the worker thread.
        pieces = [piece]

        while len(pieces) < _AT_ONCE and not self._pieces.empty():
            pieces.append(self._pieces.get_nowait())

        self._taken.set()

        return pieces

    def _decode(self, pieces: list[bytes | None]) -> bytes:
        for piece in pieces:
            if piece is not None:
                self._stage.write(piece)
                continue

            self._is_over = True

            if self._failure is None:
                self._stage.finish(is_delimited=self._is_delimited)

        return self._text.collect()

    def _choose(self, is_gzip: bool) -> Inflate | TextCheck:
        checked = TextCheck(self._text, never=self._never)

        return Inflate(checked) if is_gzip else checked


class _Text:
    """
    The last stage: keeps text until it is asked for.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes | memoryview] = []

    def write(self, data: bytes | memoryview) -> None:
        self._pieces.append(data)

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        self._pieces.clear()

    def collect(self) -> bytes:
        text = b"".join(self._pieces)
        self._pieces.clear()

        return text
