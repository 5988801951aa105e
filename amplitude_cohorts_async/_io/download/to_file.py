"""A file's bytes from the event loop to a disk that may block."""

from __future__ import annotations

from functools import partial

from ..cancellation import finish_despite_cancel, in_thread
from ..sinks.disk_writer import Disk, DiskWriter
from ..sinks.file_sink import FileSink
from ..sinks.saved_file import LocalFile


class RandomAccess:
    """The ability of a `FileReceiver` to take bytes in any order."""

    def __init__(self, sink: FileSink, disk: Disk, feed: DiskWriter) -> None:
        self._sink = sink
        self._disk = disk
        self._feed = feed

    @property
    def is_possible(self) -> bool:
        """Whether these bytes may come so; known after the first ones only."""
        return self._sink.takes_any_order

    @property
    def waited(self) -> float:
        """Seconds in which connections had to wait for the disk, up to now."""
        return self._disk.waited

    async def reserve(self, size: int) -> None:
        """Make ready for all bytes, *size* of them, in any order."""
        await self._feed.flush()
        await in_thread(partial(self._sink.reserve, size), self._disk.thread)

    def writer_at(self, start: int) -> DiskWriter:
        """Return what takes bytes from a position on, beside others."""
        return DiskWriter(self._sink.writer_at(start), self._disk, is_one_of_many=True)


class FileReceiver:
    """
    A `Receiver` that writes while more bytes arrive.

    One call of the sink at a time, so that it needs no locks.

    Attributes:
        feed: Where the bytes go, in order.
    """

    def __init__(self, sink: FileSink) -> None:
        self._sink = sink
        self._disk = Disk()
        self._thread = self._disk.thread
        self.feed = DiskWriter(sink, self._disk)

    @property
    def random_access(self) -> RandomAccess:
        """Its ability to take bytes in any order."""
        return RandomAccess(self._sink, self._disk, self.feed)

    async def begin(self) -> None:
        """Expect the first byte next, and forget all that came before."""
        await self.feed.drop()
        await in_thread(self._sink.begin, self._thread)
        self.feed = DiskWriter(self._sink, self._disk)

    def unbound(self) -> None:
        """Do nothing: the sender waits for no reader here, only for the disk."""

    async def end(self, *, is_delimited: bool) -> None:
        """
        Check that the bytes were all.

        Raises:
            Malformed: They cannot have been.

            OSError: The disk refused.
        """
        await self.feed.flush()
        finish = partial(self._sink.finish, is_delimited=is_delimited)
        await in_thread(finish, self._thread)

    async def publish(self) -> LocalFile:
        """Give the file its name, now that it is whole."""
        return await in_thread(self._sink.publish, self._thread)

    async def discard(self) -> None:
        """Remove what was written, unless it has its name; safe at any time."""
        await finish_despite_cancel(self._discard())

    async def _discard(self) -> None:
        await self.feed.drop()
        await in_thread(self._sink.discard, self._thread)
