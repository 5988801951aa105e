"""The receiver of a file's bytes that writes them to disk."""

from __future__ import annotations

from functools import partial
from typing import Self

from ..cancellation import finish_despite_cancel, in_thread
from ..sinks.disk_writer import DiskThread, DiskWriter
from ..sinks.file_sink import FileSink
from ..sinks.saved_file import LocalFile


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

    async def publish(self) -> LocalFile:
        """Rename the whole file to its target."""
        return await in_thread(self._sink.publish, self._thread.limiter)

    async def discard(self) -> None:
        """Remove what was written, unless it has its name; safe at any time."""
        await finish_despite_cancel(self._discard())

    async def _discard(self) -> None:
        await self.consumer.drop()
        await in_thread(self._sink.discard, self._thread.limiter)
