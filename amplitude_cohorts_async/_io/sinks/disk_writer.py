"""
Bytes from the event loop to a sink that blocks.

Written on the loop as long as that is brief, and in a worker thread otherwise:
then the wire and the sink work at the same time, and the wire waits when the
sink is behind.
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
Bytes of a buffer: enough that the hand-over to a thread is nothing, and few
enough to stay in a processor's own cache.
"""

_ROOM = 256 * 1024
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
_PENANCE = (8, 1024)


class InlineWritePolicy:
    """
    Whether the next write may be expected to be brief.

    Attributes:
        holds: The answer.
    """

    def __init__(self) -> None:
        self.holds = False
        self._missing = 1
        self._penance = _PENANCE[0]

    def note(self, seconds: float) -> None:
        """Take note of how long one write took."""
        if seconds > _BRIEF:
            if self.holds:
                # It held up the loop. A disk that does so again and again has
                # to behave for twice as long each time.
                self._penance = min(2 * self._penance, _PENANCE[1])
            self._missing = self._penance
        else:
            self._missing -= 1

        self.holds = self._missing <= 0


class Writes(Protocol):
    """
    Something bytes are written to, in order; it may block.

    Attributes:
        is_light: Whether writing does nothing but write, so that it may be
            done on the loop while it is brief.
    """

    @property
    def is_light(self) -> bool:
        """Tell whether writing does nothing but write."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        ...


class Disk:
    """
    What all feeds of one disk share.

    Attributes:
        trust: Whether the next write may be made on the loop.

        thread: Keeps the writes in worker threads from overlapping.
    """

    def __init__(self) -> None:
        self.trust = InlineWritePolicy()
        self.thread = anyio.CapacityLimiter(1)
        self._waiting = 0
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """Seconds in which connections had to wait for the disk, up to now."""
        return self._waited + self._waiting * time.perf_counter()

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Count the time in which one connection waits."""
        # Counted from its beginning on, not when it is over.
        self._waiting += 1
        self._waited -= time.perf_counter()

        try:
            yield
        finally:
            self._waited += time.perf_counter()
            self._waiting -= 1


class Taker(Protocol):
    """Takes bytes in order."""

    async def take(self, data: bytes) -> None:
        """Take the next bytes; waits while it is behind."""
        ...


class DiskWriter:
    """
    A `Taker` that also lends buffers to receive bytes into.

    Args:
        is_one_of_many: Whether to make do with less memory.
    """

    def __init__(
        self, sink: Writes, disk: Disk, *, is_one_of_many: bool = False
    ) -> None:
        self._size, self._most = _SMALL if is_one_of_many else (_BUFFER, _BUFFERS)
        self._sink = sink
        self._disk = disk
        self._made = 0
        self._free: list[memoryview] = []
        self._room: memoryview | None = None
        self._fill = 0
        self._queue: list[bytes | memoryview] = []
        self._queued = 0
        self._work: asyncio.Task[float] | None = None
        self._at_work: list[bytes | memoryview] = []

    async def take(self, data: bytes) -> None:
        """
        Take the next bytes; waits while the sink is behind.

        Raises:
            Exception: Whatever the sink raised, now or at an earlier piece.
        """
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
            Where the bytes after these go; None when `get_buffer()` has to be asked.
        """
        self._fill += count

        if self._room is not None and self._fill <= len(self._room) - _ROOM:
            return self._room[self._fill :]

        self._close_room()

        return self._open_room()

    async def flush(self) -> None:
        """Return when all is written."""
        self._close_room()

        while self._work is not None:
            await self._settle()

    async def drop(self) -> None:
        """Forget what is not written yet, and wait for what is being written."""
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
            # Unlike awaiting it, this leaves the work alone when cancelled.
            with self._disk.waiting():
                await asyncio.wait([self._work])
            self._end_work()

    def _end_work(self) -> None:
        if self._work is not None:
            work, self._work = self._work, None
            self._disk.trust.note(work.result())
            self._recycle(self._at_work)

        while self._queue and self._sink.is_light and self._disk.trust.holds:
            piece = self._queue.pop(0)
            self._queued -= len(piece)
            self._disk.trust.note(_write_all(self._sink, [piece]))
            self._recycle([piece])

        if self._queue:
            self._start_work()

    def _start_work(self) -> None:
        self._at_work, self._queue, self._queued = self._queue, [], 0
        write = partial(_write_all, self._sink, self._at_work)
        self._work = asyncio.ensure_future(
            anyio.to_thread.run_sync(write, limiter=self._disk.thread)
        )

    def _recycle(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._free += [
            memoryview(piece.obj) for piece in pieces if isinstance(piece, memoryview)
        ]


def _write_all(sink: Writes, pieces: Sequence[bytes | memoryview]) -> float:
    # Returns the seconds of the slowest write that had to wait for something.
    # One that only lost the processor to others says nothing of the disk; on
    # a busy machine every tenth write would look slow.
    slowest = 0.0

    for piece in pieces:
        waits, started = _waits(), time.perf_counter()
        sink.write(piece)
        seconds = time.perf_counter() - started

        if _waits() != waits or not _COUNTS_WAITS:
            slowest = max(slowest, seconds)

    return slowest


def _waits() -> int:
    if sys.platform != "linux":
        return 0

    # How often this thread gave the processor up by itself, as on a slow disk.
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


_COUNTS_WAITS = sys.platform == "linux"
