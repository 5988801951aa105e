"""
Bytes from the event loop to a sink that blocks.

Written on the loop while writes are brief, and in a worker thread otherwise: then
network and sink work at the same time, and the network waits when the sink is
behind.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from .file_sink import FileSink, RangeSink
    from .upload_sink import UploadSink

    Sink: TypeAlias = FileSink | RangeSink | UploadSink

if sys.platform == "linux":
    import resource

_BUFFER_SIZE = 768 * 1024
"""
Bytes of a buffer: enough that the hand-over to a thread costs little, and few
enough to stay in a processor's own cache.
"""

_SMALLEST_BUFFER = 256 * 1024
"""
Bytes lent at least. asyncio's TLS decrypts as many at a time, and drops what does not
fit when the connection ends at that moment.
"""

_MAX_BUFFERS = 3
"""Buffers at most: one is filled while another is written, and one waits."""

_ONE_OF_MANY = (384 * 1024, 2)
"""Bytes and number of the buffers of one connection among many."""

_QUEUED = 1 << 20
"""Bytes that may wait for the worker thread; as many are with it."""

_FAST_WRITE = 0.002
"""Seconds that a write may take on the loop."""

_BACKOFF = (8, 1024)
"""Fast writes in a thread that a slow one asks for: at first, and at most."""


class InlineWritePolicy:
    """
    Decides whether the next write may be made on the event loop.

    A write to the page cache is over sooner than its hand-over to a worker thread
    would be; a write to a slow disk holds up the loop. The two cannot be told apart
    beforehand, so writes are timed. It is worth a fifth of the processor's time:
    512 MB over TLS to a memory disk take 2.1 s/GB with it, and 2.6 with every write
    in a thread (asyncio, medians of eight on a busy machine of two cores).
    """

    def __init__(self) -> None:
        self.allows = False
        self._missing = 1
        self._backoff = _BACKOFF[0]

    def record(self, seconds: float) -> None:
        """Learn from the time that one write took."""
        if seconds > _FAST_WRITE:
            if self.allows:
                # It held up the loop. A disk that does so again and again has to be
                # fast for twice as long each time.
                self._backoff = min(2 * self._backoff, _BACKOFF[1])
            self._missing = self._backoff
        else:
            self._missing -= 1

        self.allows = self._missing <= 0


class DiskThread:
    """The worker thread of one file, shared by all writers of it."""

    def __init__(self) -> None:
        self.policy = InlineWritePolicy()
        self.limiter = anyio.CapacityLimiter(1)
        self._waiting = 0
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """Seconds in which connections waited for the disk, up to now."""
        return self._waited + self._waiting * time.perf_counter()

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Count the time in which one connection waits."""
        # Counted while it passes, not only when it is over.
        self._waiting += 1
        self._waited -= time.perf_counter()

        try:
            yield
        finally:
            self._waited += time.perf_counter()
            self._waiting -= 1


class Consumer(Protocol):
    """Takes bytes in order."""

    async def take(self, data: bytes) -> None:
        """Take the next bytes; waits while it is behind."""


class DiskWriter:
    """
    A `Consumer` that also lends buffers to receive bytes into.

    What the sink raises is raised by the call that made it write, or by a later one.

    Args:
        is_one_of_many: Whether to use less memory.
    """

    def __init__(
        self, sink: Sink, thread: DiskThread, *, is_one_of_many: bool = False
    ) -> None:
        self._size, self._max_buffers = (
            _ONE_OF_MANY if is_one_of_many else (_BUFFER_SIZE, _MAX_BUFFERS)
        )
        self._sink = sink
        self._thread = thread
        self._made = 0
        self._free: list[memoryview] = []
        self._buffer: memoryview | None = None
        self._fill = 0
        self._queue: list[bytes | memoryview] = []
        self._queued = 0
        self._write: asyncio.Task[float] | None = None
        self._in_thread: list[bytes | memoryview] = []

    async def take(self, data: bytes) -> None:
        """Take the next bytes; waits while the sink is behind."""
        self._queue_buffer()
        self._put(data)

        while self._queued >= _QUEUED:
            await self._wait_for_write()

    async def get_buffer(self) -> memoryview:
        """Lend a buffer for the next bytes; waits while none is free."""
        if self._buffer is not None:
            return self._buffer[self._fill :]

        while (buffer := self._next_buffer()) is None:
            await self._wait_for_write()

        return buffer

    def buffer_filled(self, count: int) -> memoryview | None:
        """Take bytes in the lent buffer; None means: await `get_buffer()` for more."""
        self._fill += count

        if (
            self._buffer is not None
            and self._fill <= len(self._buffer) - _SMALLEST_BUFFER
        ):
            return self._buffer[self._fill :]

        self._queue_buffer()

        return self._next_buffer()

    async def flush(self) -> None:
        """Return when all is written."""
        self._queue_buffer()

        while self._write is not None:
            await self._wait_for_write()

    async def drop(self) -> None:
        """Discard what is not written yet, and wait for what is being written."""
        self._queue.clear()
        self._queued = 0
        self._buffer = None

        if self._write is not None:
            await asyncio.wait([self._write])
            self._write.exception()
            self._write = None

    def _next_buffer(self) -> memoryview | None:
        if self._free:
            self._buffer = self._free.pop()
        elif self._made < self._max_buffers:
            self._made += 1
            self._buffer = memoryview(bytearray(self._size))

        return self._buffer

    def _queue_buffer(self) -> None:
        buffer, self._buffer = self._buffer, None

        if buffer is not None:
            fill, self._fill = self._fill, 0
            self._put(buffer[:fill])

    def _put(self, piece: bytes | memoryview) -> None:
        self._queue.append(piece)
        self._queued += len(piece)

        if self._write is None or self._write.done():
            self._continue()

    async def _wait_for_write(self) -> None:
        if self._write is not None:
            # Unlike awaiting it, this leaves the work alone when cancelled.
            with self._thread.waiting():
                await asyncio.wait([self._write])
            self._continue()

    def _continue(self) -> None:
        if self._write is not None:
            work, self._write = self._write, None
            self._thread.policy.record(work.result())
            self._recycle(self._in_thread)

        while self._queue and self._sink.is_light and self._thread.policy.allows:
            piece = self._queue.pop(0)
            self._queued -= len(piece)
            self._thread.policy.record(_write_all(self._sink, [piece]))
            self._recycle([piece])

        if self._queue:
            self._in_thread, self._queue, self._queued = self._queue, [], 0
            write = partial(_write_all, self._sink, self._in_thread)
            self._write = asyncio.ensure_future(
                anyio.to_thread.run_sync(write, limiter=self._thread.limiter)
            )

    def _recycle(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._free += [
            memoryview(piece.obj) for piece in pieces if isinstance(piece, memoryview)
        ]


def _write_all(sink: Sink, pieces: Sequence[bytes | memoryview]) -> float:
    # Returns the seconds of the slowest write that waited for something. A write
    # that only lost the processor to others shows nothing of the disk; on a busy
    # machine every tenth one would look slow.
    slowest = 0.0

    for piece in pieces:
        blocked, started = _times_blocked(), time.perf_counter()
        sink.write(piece)
        seconds = time.perf_counter() - started

        if _times_blocked() != blocked:
            slowest = max(slowest, seconds)

    return slowest


def _times_blocked() -> float:
    if sys.platform != "linux":
        return math.nan  # never equal: every write counts

    # How often this thread has had to wait for something, such as a slow disk.
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
