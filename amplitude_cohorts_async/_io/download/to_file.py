"""The receiver of a file's bytes that writes them to disk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import BinaryIO, Self

import anyio
import attrs

from ..._core.csvtext import Malformed
from ...errors import ExportExpiredError, StorageError
from ..cancellation import background, finish_despite_cancel, in_thread
from ..sinks.disk_writer import DiskThread, DiskWriter
from ..sinks.file_sink import FileSink
from ..sinks.part_file import Damaged, Kept
from ..sinks.part_record import Source
from ..sinks.saved_file import LocalFile

_logger = logging.getLogger(__name__)

_PAUSES = (0.25, 0.5, 1.0, 2.0)
"""
Seconds until what is on disk is recorded for the first time, and from then on until
the next; the last one repeats. A process that is killed loses as much of its work.
"""

_CHEAP = 32 << 20
_LATEST = 10.0
"""
Bytes that are synced and summed up at once, and seconds after which more of them are.
Half a second of processor time a GB, in a thread beside the download, is a fifth of
what a fast one takes at all (2.4 s/GB over TLS to a memory disk). So what comes
faster than 16 MB/s, and would soon be here again, is recorded more rarely: 512 MB in
0.8 s, as in benchmarks/download, pay nothing.
"""

_REPLAYED = 32
"""Pieces of a MiB that pass the filters in one visit to the worker thread."""


class FileReceiver:
    """
    Writes bytes, in order or to reserved places, while more arrive.

    It makes one call of the sink at a time, so that the sink needs no locks.
    """

    def __init__(self, sink: FileSink) -> None:
        self._sink = sink
        self._thread = DiskThread()
        self.consumer = DiskWriter(sink, self._thread)

    @property
    def random_access(self) -> Self:
        """What takes bytes in any order; a `TextReceiver` has none."""
        return self

    @property
    def takes_any_order(self) -> bool:
        """Whether bytes may come in any order; known after the first ones only."""
        return self._sink.takes_any_order

    @property
    def waited(self) -> float:
        """Seconds in which connections waited for the disk, up to now."""
        return self._thread.waited

    @asynccontextmanager
    async def unfinished(self) -> AsyncGenerator[None]:
        """
        Keep a record of what is on disk until the file is published.

        Without that, the file is left for a later download that can go on with it,
        and removed if none can, or would only fail in the same way: its bytes are
        wrong, or a newer file is at the target.
        """
        is_bad = False

        try:
            async with background(self._record()):
                yield
        except (Malformed, ExportExpiredError, StorageError):
            is_bad = True
            raise
        finally:
            await finish_despite_cancel(self._end(is_bad=is_bad))

    async def take_up(self) -> Kept | None:
        """Return what an earlier download left of this file, once it is verified."""
        kept = await in_thread(self._sink.take_up, self._thread.limiter)

        if kept is None:
            return None

        try:
            replay = partial(self._sink.replay_some, _REPLAYED)
            while await in_thread(replay, self._thread.limiter):
                pass
        except Damaged:
            return None

        if not self.takes_any_order:
            kept = attrs.evolve(kept, ranges=kept.ranges[:1])

        end = kept.ranges[-1][1]
        await in_thread(partial(self._sink.cut, end), self._thread.limiter)
        return kept

    def comes_from(self, source: Source | None) -> None:
        """Set the stored object of all bytes; with None the file is not resumable."""
        self._sink.comes_from(source)

    async def begin(self) -> None:
        """Expect the first byte next; discard all earlier ones."""
        await self.consumer.drop()
        await in_thread(self._sink.begin, self._thread.limiter)
        self.consumer = DiskWriter(self._sink, self._thread)

    def unbound(self) -> None:
        """Do nothing: the sender only waits for the disk, not for a reader."""

    async def reserve(self, size: int) -> None:
        """Prepare for all *size* bytes, in any order."""
        await self.consumer.flush()
        await in_thread(partial(self._sink.reserve, size), self._thread.limiter)

    def writer_at(self, start: int) -> DiskWriter:
        """Return a writer for the bytes from a position on, beside others."""
        return DiskWriter(
            self._sink.writer_at(start), self._thread, is_one_of_many=True
        )

    async def end(self, *, is_delimited: bool) -> None:
        """
        Check that the bytes were a whole file.

        Unless HTTP would have shown that the body was cut (*is_delimited*), the bytes
        themselves have to prove their end.
        """
        await self.consumer.flush()
        finish = partial(self._sink.finish, is_delimited=is_delimited)
        await in_thread(finish, self._thread.limiter)

    async def describe(self) -> None:
        """Compute the digest of the whole file, and count its members."""
        await in_thread(self._sink.describe, self._thread.limiter)

    async def publish(self) -> LocalFile:
        """Rename the whole file to its target."""
        return await in_thread(self._sink.publish, self._thread.limiter)

    async def reader(self) -> BinaryIO:
        """Return the whole file, open at its start; the caller closes it."""
        return await in_thread(self._sink.reader, self._thread.limiter)

    async def _record(self) -> None:
        # Not the client's clock: this is about the disk.
        done_at = time.monotonic()

        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            await anyio.sleep(pause)
            most = math.inf if time.monotonic() - done_at > _LATEST else _CHEAP

            try:
                # In a thread of its own, which may take its time.
                if await in_thread(partial(self._sink.checkpoint, most=most)):
                    done_at = time.monotonic()
            except OSError as error:
                # The download goes on without; a full disk stops it by itself.
                _logger.debug("no record of a partial file: %s", error)

    async def _end(self, *, is_bad: bool) -> None:
        await self.consumer.drop()
        end = self._sink.discard if is_bad else self._sink.leave
        await in_thread(end, self._thread.limiter)
