"""The stream of a file's members: bytes in, members or batches of them out."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Iterator
from itertools import chain, islice

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from ..._core.csvparse import MemberReader
from ..._core.csvtext import Buffer
from ..._core.export_errors import ExportErrors
from ...errors import InvalidInputError
from ...models import Member
from ..async_only import AsyncOnly

_BLOCK_SIZE = 384 * 1024
"""
Bytes decoded in one visit to the worker thread: some ten thousand members. With
fewer, the visits cost; with more, freeing a batch holds the loop.
"""

_YIELD_SECONDS = 0.001
"""Seconds for which the worker thread keeps the interpreter."""

_CHECKPOINT_ROWS = 1_000
"""Members handed out one by one before other tasks may run."""


class MemberStream(AsyncOnly):
    """
    The members of one file, in the file's order, each once.

    Iterate over it for single members, or over `batches()`, which is faster. Both
    may be mixed: no member is repeated, and none is skipped when a loop is left
    early and another one begun. A read that was cancelled or failed ends the stream,
    because the file may have been cut in the middle. The file is read once: another
    loop after the last member is an error, as is reading after the context.

    Made by ``ExportJob.members()``, whose ``async with`` closes the file.

    Attributes:
        is_exhausted: Whether a read found that all members were handed out.
    """

    _usage = "async for member in members:"

    def __init__(
        self,
        source: AsyncIterator[Buffer],
        *,
        errors: ExportErrors,
    ) -> None:
        self.is_exhausted: bool = False
        self._is_closed = False
        self._source = source
        self._errors = errors
        self._reader = MemberReader()
        # Decoded and not handed out: first those that `__anext__()` has begun.
        self._row: Iterator[Member] = iter(())
        self._rest: Iterator[Member] = iter(())
        self._text = bytearray()
        self._is_at_end = False
        self._is_broken = False
        # Not one of the forty threads that the program shares: if it blocks all
        # of those, this stream would stop, too.
        self._thread = anyio.CapacityLimiter(1)
        self._guard = anyio.ResourceGuard("reading")

    @property
    def rows(self) -> int:
        """Members decoded so far; all of the file's at the end of the stream."""
        return self._reader.rows

    def __aiter__(self) -> AsyncIterator[Member]:
        self._check_unread()

        return self

    async def __anext__(self) -> Member:
        for member in self._row:
            return member

        # A loop over rows does not wait by itself: let other tasks run.
        await checkpoint()
        self._row = iter(await self._take(_CHECKPOINT_ROWS))

        for member in self._row:
            return member

        raise StopAsyncIteration

    async def batches(self, size: int = 10_000) -> AsyncIterator[list[Member]]:
        """
        Yield lists of *size* members; the last one may be shorter.

        Raises:
            MalformedFileError: The file is not CSV of a cohort's members; its
                ``line`` is the first bad one.
            InvalidInputError: *size* is less than one, or an earlier read of
                this stream was cancelled or failed, or all members were read
                before.
        """
        if size < 1:
            raise InvalidInputError(f"a batch needs a size of 1 or more, not {size}")

        self._check_unread()

        while batch := await self._take(size):
            yield batch

    def close(self) -> None:
        """Give up what was not read yet; leaving the context does that."""
        self._is_closed = True
        self._row = self._rest = iter(())

    def _check_unread(self) -> None:
        if self.is_exhausted:
            raise InvalidInputError(
                f"all members of export {self._errors.ref.request_id} were read "
                f"already; open `job.members()` again, which spends no export"
            )

    async def _take(self, size: int) -> list[Member]:
        if self._is_closed:
            raise InvalidInputError(
                f"the members of export {self._errors.ref.request_id} are read after "
                f"the block that opened them; read them inside of it, or open "
                f"`job.members()` again, which spends no export"
            )

        with self._guard:
            batch = list(islice(chain(self._row, self._rest), size))

            while len(batch) < size and (decoded := await self._decode_next()):
                self._rest = iter(decoded)
                batch += islice(self._rest, size - len(batch))

            self.is_exhausted = not batch

            return batch

    async def _decode_next(self) -> list[Member]:
        if self._is_broken:
            raise InvalidInputError(
                f"reading the members of export {self._errors.ref.request_id} was cut "
                f"short; open `job.members()` again, which spends no export"
            )

        self._is_broken = True
        decoded: list[Member] = []

        while not decoded and not self._is_at_end:
            block = await self._next_block()
            decoded = await anyio.to_thread.run_sync(
                self._decode, block, limiter=self._thread
            )

        self._is_broken = False

        return decoded

    async def _next_block(self) -> bytearray:
        if len(self._text) < _BLOCK_SIZE:
            async for piece in self._source:
                # Copied, because the source may use its buffers again.
                self._text += piece

                if len(self._text) >= _BLOCK_SIZE:
                    break
            else:
                self._is_at_end = len(self._text) <= _BLOCK_SIZE

        block = self._text[:_BLOCK_SIZE]
        del self._text[:_BLOCK_SIZE]

        return block

    def _decode(self, block: bytearray) -> list[Member]:
        # In the worker thread, which shares the interpreter with the loop.
        decoded: list[Member] = []
        since = time.perf_counter()

        with self._errors.about_the_file():
            for members in self._slices(block):
                decoded += members
                since = _yield_interpreter(since)

        return decoded

    def _slices(self, block: bytearray) -> Iterator[list[Member]]:
        yield from self._reader.feed(block)

        if self._is_at_end:
            yield from self._reader.finish()


def _yield_interpreter(since: float) -> float:
    # Both measured with two million members beside a 1 ms ticker (stall p50,
    # p99 and max in ms).
    #
    # Ten thousand new objects look like a leak: the cyclic collector walks the
    # whole program's heap, twenty times and more (0.3, 11.7, 17.8). Collecting
    # each slice while it is young prevents that (0.3, 1.3, 5.4), and everything
    # takes a fifth less time.
    gc.collect(0)

    # By itself, the interpreter goes to the loop when the switch interval of 5 ms
    # is over (5.6, 11.0, 13.8). Yielding takes a tenth of a millisecond.
    if time.perf_counter() - since < _YIELD_SECONDS:
        return since

    time.sleep(0)

    return time.perf_counter()
