"""
Bytes from the event loop to a sink that blocks.

Written on the loop while writes are brief, and in a worker thread otherwise: then
network and sink work at the same time, and the network waits when the sink is
behind.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

if sys.platform == "linux":
    import resource

_BUFFER = 768 * 1024
"""
Bytes of a buffer: enough that handing it to a thread costs nothing beside it, and
few enough to stay in a processor's own cache.
"""

_MIN_ROOM = 256 * 1024
"""
Bytes lent at least. As many are decrypted at a time, and a loop that finds less
room when the connection ends loses what does not fit.
"""

_BUFFERS = 3
"""Buffers at most: one is filled while another is written, and one waits."""

_SMALL = (384 * 1024, 2)
"""Bytes and number of the buffers of one connection among many."""

_QUEUED = 1 << 20
"""Bytes that may wait for the worker thread; as many are with it."""

_BRIEF = 0.002
"""Seconds that a write on the loop may take."""

_BACKOFF = (8, 1024)
"""Brief writes after a slow one until the loop writes again: first, and at most."""


class InlineWritePolicy:
    """
    Decides whether the next write may be made on the loop.

    A write to the page cache takes less time than its hand-over to a thread would:
    512 MiB took 1.1 s (0.42 s of processor time) on the loop, 1.4 s (0.57 s) by way
    of a thread. A write to a slow disk stops the loop. Only timing shows which disk
    it is.

    Attributes:
        is_allowed: Whether the next write is expected to be brief.
    """

    def __init__(self) -> None:
        self.is_allowed = False
        self._missing = 1
        self._backoff = _BACKOFF[0]

    def record(self, seconds: float) -> None:
        """Record how long one write took."""
        if seconds > _BRIEF:
            if self.is_allowed:
                # It stopped the loop: wait for twice as many writes each time.
                self._backoff = min(2 * self._backoff, _BACKOFF[1])
            self._missing = self._backoff
        else:
            self._missing -= 1

        self.is_allowed = self._missing <= 0


class Sink(Protocol):
    """What bytes are written to, in order; it may block."""

    @property
    def is_light(self) -> bool:
        """Whether `write()` does nothing else: then it may run on the loop."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        ...


class DiskThread:
    """
    The worker thread of one file, shared by all writers of it.

    Attributes:
        inline: Whether the next write may be made on the loop instead.

        limiter: Keeps the writes in worker threads from overlapping.
    """

    def __init__(self) -> None:
        self.inline = InlineWritePolicy()
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
        ...


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
        self._size, self._most = _SMALL if is_one_of_many else (_BUFFER, _BUFFERS)
        self._sink = sink
        self._thread = thread
        self._made = 0
        self._free: list[memoryview] = []
        self._room: memoryview | None = None
        self._fill = 0
        self._queue: list[bytes | memoryview] = []
        self._queued = 0
        self._work: asyncio.Task[float] | None = None
        self._at_work: list[bytes | memoryview] = []

    async def take(self, data: bytes) -> None:
        """Take the next bytes; waits while the sink is behind."""
        self._close_room()
        self._put(data)

        while self._queued >= _QUEUED:
            await self._settle()

    async def get_buffer(self) -> memoryview:
        """Lend a buffer for the next bytes; waits while none is free."""
        if self._room is not None:
            return self._room[self._fill :]

        while (room := self._open_room()) is None:
            await self._settle()

        return room

    def buffer_filled(self, count: int) -> memoryview | None:
        """
        Take the next bytes, which are in the lent buffer.

        Returns:
            The buffer for the bytes after these; None to await `get_buffer()`.
        """
        self._fill += count

        if self._room is not None and self._fill <= len(self._room) - _MIN_ROOM:
            return self._room[self._fill :]

        self._close_room()

        return self._open_room()

    async def flush(self) -> None:
        """Wait until all bytes are written."""
        self._close_room()

        while self._work is not None:
            await self._settle()

    async def drop(self) -> None:
        """Discard what is not written yet, and wait for what is being written."""
        self._queue.clear()
        self._queued = 0
        self._room = None

        if self._work is not None:
            await asyncio.wait([self._work])
            self._work.exception()
            self._work = None

    def _open_room(self) -> memoryview | None:
        if self._free:
            self._room = self._free.pop()
        elif self._made < self._most:
            self._made += 1
            self._room = memoryview(bytearray(self._size))

        return self._room

    def _close_room(self) -> None:
        room, self._room = self._room, None

        if room is not None:
            fill, self._fill = self._fill, 0
            self._put(room[:fill])

    def _put(self, piece: bytes | memoryview) -> None:
        self._queue.append(piece)
        self._queued += len(piece)

        if self._work is None or self._work.done():
            self._end_work()

    async def _settle(self) -> None:
        if self._work is not None:
            # Unlike awaiting the task, this does not cancel it.
            with self._thread.waiting():
                await asyncio.wait([self._work])
            self._end_work()

    def _end_work(self) -> None:
        inline = self._thread.inline

        if self._work is not None:
            work, self._work = self._work, None
            inline.record(work.result())
            self._recycle(self._at_work)

        while self._queue and self._sink.is_light and inline.is_allowed:
            piece = self._queue.pop(0)
            self._queued -= len(piece)
            inline.record(_write_all(self._sink, [piece]))
            self._recycle([piece])

        if self._queue:
            self._at_work, self._queue, self._queued = self._queue, [], 0
            write = partial(_write_all, self._sink, self._at_work)
            self._work = asyncio.ensure_future(
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
        waits, started = _waits(), time.perf_counter()
        sink.write(piece)
        seconds = time.perf_counter() - started

        if _waits() != waits or not _COUNTS_WAITS:
            slowest = max(slowest, seconds)

    return slowest


_COUNTS_WAITS = sys.platform == "linux"


def _waits() -> int:
    if sys.platform != "linux":
        return 0

    # How often this thread gave the processor up by itself, as on a slow disk.
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
