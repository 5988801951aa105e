"""
The receiver of a file's bytes that sends them on to a destination.

One upload goes on however many links the bytes take. The object appears when the
destination has read the end of its blocks, which `publish()` alone gives it; whatever
else happens is raised inside of them. An upload is never cancelled: a store keeps the
parts of one that was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

import attrs

from ..._core.manifest import SUFFIX
from ..cancellation import finish_despite_cancel, in_thread
from ..sinks.destination import Destination
from ..sinks.disk_writer import DiskThread, DiskWriter
from ..sinks.part_record import Source
from ..sinks.saved_object import SavedObject
from ..sinks.target import Options, Target
from ..sinks.upload_sink import UploadSink

_WAITING = 4
"""Blocks that may wait for the destination; beyond, the network waits for it."""


class UploadFailed(OSError):  # noqa: N818 - translated for users
    """What the destination raised: no error of the source, so no link is renewed."""


class _Discarded(Exception):  # noqa: N818 - never seen by users
    """Ends an upload whose bytes are not wanted."""


class Upload:
    """
    One upload: blocks in, from any thread, and its end.

    It begins with the first block, or with `finish()`.
    """

    def __init__(
        self, destination: Destination, metadata: Mapping[str, str], suffix: str = ""
    ) -> None:
        self._destination = destination
        self._metadata = metadata
        self._suffix = suffix
        self._loop = asyncio.get_running_loop()
        self._blocks: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[str | None] | None = None
        self._is_whole = False
        self._is_discarded = False
        self._is_read = False

    def send(self, block: bytes) -> None:
        """Take the next block, in a worker thread; waits while the store is behind."""
        asyncio.run_coroutine_threadsafe(self.put(block), self._loop).result()

    async def finish(self) -> str | None:
        """
        Make the object appear, and return its tag.

        A cancellation discards it if the destination has not read its end yet.
        """
        self._is_whole = True
        task = self._begun()
        self._notify()

        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            await finish_despite_cancel(self.discard())
            raise

        self._check()
        return task.result()

    async def discard(self) -> None:
        """End the upload without an object, and wait until nothing of it is open."""
        self._is_discarded = True
        self._notify()

        if self._task is not None:
            await asyncio.wait([self._task])
            # Retrieved, or asyncio logs that it never was.
            _ = self._task.cancelled() or self._task.exception()

    async def put(self, block: bytes) -> None:
        """Take the next block; waits while the store is behind."""
        self._begun()

        while len(self._blocks) >= _WAITING and not self._is_over:
            await self._change()

        self._check()
        self._blocks.append(block)
        self._notify()

    def _begun(self) -> asyncio.Task[str | None]:
        if self._task is None and self._is_discarded:
            raise _Discarded
        if self._task is None:
            self._task = asyncio.ensure_future(self._write())
            self._task.add_done_callback(lambda _: self._notify())

        return self._task

    async def _write(self) -> str | None:
        return await self._destination.write(
            _Reader(self._next), metadata=self._metadata, suffix=self._suffix
        )

    async def _next(self) -> bytes:
        while not (self._blocks or self._is_whole or self._is_over):
            await self._change()

        if self._is_over:
            raise _Discarded
        if not self._blocks:
            self._is_read = True
            raise StopAsyncIteration

        block = self._blocks.popleft()
        self._notify()
        return block

    @property
    def _is_over(self) -> bool:
        # A destination that has ended may still wait for a block.
        is_done = self._task is not None and self._task.done()

        return self._is_discarded or is_done

    def _check(self) -> None:
        task = self._task

        if self._is_discarded or task is None:
            raise _Discarded
        if not task.done():
            return
        if task.cancelled():
            raise UploadFailed("the upload was cancelled")
        if error := task.exception():
            raise UploadFailed(_reason_of(error)) from error
        if not self._is_read:
            raise UploadFailed("the destination ended before the file did")

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()


@attrs.frozen
class _Reader:
    # The blocks of an upload, for its destination. No generator: nobody would close
    # it after a destination that has failed.
    _next: Callable[[], Awaitable[bytes]]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._next()


class UploadReceiver:
    """
    Sends bytes to a destination, in order, while more arrive.

    Args:
        metadata: What is kept with the object.
    """

    random_access = None

    def __init__(
        self,
        target: Target,
        destination: Destination,
        *,
        options: Options,
        metadata: Mapping[str, str],
    ) -> None:
        self._target = target
        self._destination = destination
        self._options = options
        self._metadata = metadata
        self._thread = DiskThread()
        self._new()

    def _new(self) -> None:
        self._upload = Upload(self._destination, self._metadata)
        self._sink = UploadSink(
            self._target, options=self._options, send=self._upload.send
        )
        self.consumer = DiskWriter(self._sink, self._thread)

    @asynccontextmanager
    async def unfinished(self) -> AsyncGenerator[Self]:
        """Leave nothing of what was not published when the context ends."""
        try:
            yield self
        finally:
            await finish_despite_cancel(self._discard())

    async def take_up(self) -> None:
        """Return None: what was sent for an object that is not whole is gone."""

    def comes_from(self, source: Source | None) -> None:
        """Do nothing: nothing is kept."""

    def unbound(self) -> None:
        """Do nothing: the sender only waits for the destination, not for a reader."""

    async def begin(self) -> None:
        """Expect the first byte next, for another upload; the present one ends."""
        await finish_despite_cancel(self._discard())
        self._new()

    async def end(self, *, is_delimited: bool) -> None:
        """Check that the bytes were a whole file; see `FileReceiver.end()`."""
        await self.consumer.flush()
        finish = partial(self._sink.finish, is_delimited=is_delimited)
        await in_thread(finish, self._thread.limiter)

    async def publish(self) -> SavedObject:
        """Make the whole object appear."""
        tag = await self._upload.finish()
        sink = self._sink

        return SavedObject(size=sink.size, sha256=sink.sha256, rows=sink.rows, tag=tag)

    async def write_manifest(self, text: bytes) -> None:
        """Write the manifest beside the object that has appeared."""
        manifest = Upload(self._destination, self._metadata, SUFFIX)

        try:
            await manifest.put(text)
            await manifest.finish()
        finally:
            await finish_despite_cancel(manifest.discard())

    async def _discard(self) -> None:
        # First the upload: a thread may wait for it.
        await self._upload.discard()
        await self.consumer.drop()
        await in_thread(self._sink.discard, self._thread.limiter)


def _reason_of(error: BaseException) -> str:
    # The texts of others may show what they were made with.
    if isinstance(error, OSError):
        return error.strerror or str(error)

    return type(error).__name__
