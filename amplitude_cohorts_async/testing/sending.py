"""
Answers onto the socket, whole or as a fault will have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import BinaryIO

import attrs
from aiohttp import web

from .answers import Answer, FileBody
from .faults import Fault

__all__ = ("Line", "send")

_PIECE = 256 * 1024
_NO_BODY = frozenset({204, 304})


@attrs.frozen(kw_only=True)
class Line:
    """
    The connection to one client.

    Attributes:
        release: Told just before the answer's last bytes go out: who reads
            them may send the next request at once.

        pause: Waits on the emulator's clock.

        hold: Waits until the client has gone.
    """

    request: web.BaseRequest
    release: Callable[[int | None], None]
    pause: Callable[[float], Awaitable[None]]
    hold: Callable[[], Awaitable[None]]

    def hang_up(self) -> None:
        """
        Close the connection once all is sent that was written.
        """
        if self.request.transport is not None:
            self.request.transport.close()


async def send(line: Line, answer: Answer, fault: Fault) -> web.StreamResponse:
    """
    Send an answer, and what a fault leaves of its body.
    """
    answer = _with_headers(answer, fault)
    whims = (fault.cut_at, fault.stall_at, fault.flip_at, fault.rate)
    plain = all(whim is None for whim in whims)

    if plain and isinstance(answer.body, bytes) and len(answer.body) <= _PIECE:
        line.release(answer.status)
        return _short(answer, answer.body)

    response = web.StreamResponse(status=answer.status, headers=answer.headers)

    if answer.chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(answer.body)

    await response.prepare(line.request)
    await _send_body(line, response, answer, fault)

    return response


def _with_headers(answer: Answer, fault: Fault) -> Answer:
    names = {name.lower() for name in fault.headers}
    kept = {
        name: value
        for name, value in answer.headers.items()
        if name.lower() not in names
    }
    new = {name: value for name, value in fault.headers.items() if value is not None}

    return attrs.evolve(answer, headers={**kept, **new})


def _short(answer: Answer, body: bytes) -> web.Response:
    response = web.Response(status=answer.status, headers=answer.headers, body=body)

    if answer.chunked and answer.status not in _NO_BODY:
        response.enable_chunked_encoding()

    return response


async def _send_body(
    line: Line, response: web.StreamResponse, answer: Answer, fault: Fault
) -> None:
    size = len(answer.body)
    stop = _stop(fault, size)

    async with _opened(answer.body) as source:
        sent = 0

        if fault.flip_at is None and fault.rate is None:
            sent = await source.send_by_kernel(line.request, stop - _PIECE)

        while sent < stop:
            piece = await source.read(sent, min(sent + _piece_size(fault), stop))
            sent += len(piece)

            if sent == size:
                line.release(answer.status)

            await response.write(_flipped(piece, fault, end=sent))

            if fault.rate is not None:
                await line.pause(len(piece) / fault.rate)

    if fault.stall_at is not None:
        await line.hold()

    if stop < size or fault.cut_at is not None:
        line.hang_up()


def _stop(fault: Fault, size: int) -> int:
    ends = [end for end in (fault.cut_at, fault.stall_at) if end is not None]

    return min(*ends, max(0, size - 1)) if ends else size


def _piece_size(fault: Fault) -> int:
    return _PIECE if fault.rate is None else max(1, min(_PIECE, int(fault.rate / 10)))


def _flipped(piece: bytes, fault: Fault, *, end: int) -> bytes:
    if fault.flip_at is None:
        return piece

    place = fault.flip_at - (end - len(piece))

    if not 0 <= place < len(piece):
        return piece

    return piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]


class _Bytes:
    """
    A body in memory.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def send_by_kernel(self, request: web.BaseRequest, count: int) -> int:
        del request, count

        return 0

    async def read(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


class _File:
    """
    A body on disk; never read on the event loop.
    """

    def __init__(self, file: BinaryIO, body: FileBody) -> None:
        self._file = file
        self._start = body.start

    async def send_by_kernel(self, request: web.BaseRequest, count: int) -> int:
        """
        Have the kernel copy from the file to the socket.

        Returns:
            The bytes sent; 0 where the event loop has no such thing.
        """
        transport = request.transport

        if count <= 0:
            return 0

        if transport is None:
            raise ConnectionResetError

        loop = asyncio.get_running_loop()

        try:
            return await loop.sendfile(transport, self._file, self._start, count)
        except NotImplementedError:
            return 0

    async def read(self, start: int, stop: int) -> bytes:
        return await asyncio.to_thread(self._read, self._start + start, stop - start)

    def _read(self, start: int, count: int) -> bytes:
        self._file.seek(start)

        return self._file.read(count)


@asynccontextmanager
async def _opened(body: bytes | FileBody) -> AsyncGenerator[_Bytes | _File]:
    if isinstance(body, bytes):
        yield _Bytes(body)
        return

    file = await asyncio.to_thread(body.path.open, "rb")

    try:
        yield _File(file, body)
    finally:
        file.close()
