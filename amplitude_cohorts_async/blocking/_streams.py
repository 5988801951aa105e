"""What is read in a loop: members, record batches, the outcomes of many exports."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

from .._exports.many import ExportBatch as AsyncExportBatch
from .._io.download.member_stream import MemberStream as AsyncMemberStream
from ..models import ExportOutcome, Member
from ._bridge import Bridge, TaskRunner

T = TypeVar("T")

_ROWS_AT_ONCE = 10_000
"""Members that cross to the thread in one call: each takes a tenth of a ms."""


class MemberStream:
    """
    The members of one file, in the file's order, each once.

    Iterate over it for single members, or over `batches()`. Both may be mixed: no
    member is repeated, and none is skipped when a loop is left early and another one
    begun. A read that was interrupted or failed ends the stream, because the file may
    have been cut in the middle. The file is read once: another loop after the last
    member is an error, as is reading after the context.

    Made by ``ExportJob.members()``, whose ``with`` closes the file.
    """

    def __init__(self, runner: TaskRunner, stream: AsyncMemberStream) -> None:
        self._runner = runner
        self._stream = stream
        # Members that have crossed, and were not handed out.
        self._row: Iterator[Member] = iter(())

    @property
    def rows(self) -> int:
        """Members decoded so far; all of the file's at the end of the stream."""
        return self._stream.rows

    @property
    def is_exhausted(self) -> bool:
        """Whether a read found that all members were handed out."""
        return self._stream.is_exhausted

    def __iter__(self) -> Iterator[Member]:
        if self.is_exhausted:
            # Everything was read, and the stream says so.
            self._take(_ROWS_AT_ONCE)

        return self._members()

    def __next__(self) -> Member:
        return next(self._members())

    def batches(self, size: int = 10_000) -> Iterator[list[Member]]:
        """
        Yield lists of *size* members; the last one may be shorter.

        Raises:
            MalformedFileError: The file is not CSV of a cohort's members; its
                ``line`` is the first bad one.
            InvalidInputError: *size* is less than one, or an earlier read of
                this stream was interrupted or failed, or all members were read
                before.
        """
        if size < 1 or self.is_exhausted:
            # Nothing is read, and the stream says why.
            self._take(size)

        while batch := self._batch(size):
            yield batch

    def close(self) -> None:
        """Give up what was not read yet; leaving the context does that."""
        self._row = iter(())
        self._stream.close()

    def _members(self) -> Generator[Member]:
        while True:
            yield from self._row

            if self.is_exhausted or not (batch := self._take(_ROWS_AT_ONCE)):
                return
            self._row = iter(batch)

    def _batch(self, size: int) -> list[Member]:
        batch = list(islice(self._row, size))

        if len(batch) < size and not self.is_exhausted:
            batch += self._take(size - len(batch))

        return batch

    def _take(self, size: int) -> list[Member]:
        return self._runner.run(_first_of, self._stream, size)


class ExportBatch:
    """
    An iterator of `ExportOutcome`, in the order the exports end.

    Exports are requested only while the caller waits for the next outcome. As a
    context manager the batch also requests them while the body is busy.

    Leaving the context, `close()`, an interrupted step, closing the client and
    dropping the iterator stop everything. The job store keeps what was requested, and
    the same call goes on with it.
    """

    def __init__(self, bridge: Bridge, batch: AsyncExportBatch) -> None:
        self._calls = bridge.calls()
        self._batch = batch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ExportOutcome:
        for outcome in self._calls.call().run(_next_of, self._batch):
            return outcome

        raise StopIteration

    def __enter__(self) -> Self:
        self._calls.call().run(self._batch.__aenter__)

        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all exports of the batch; calling it twice does no harm."""
        self._calls.call().run(self._batch.aclose)


def each_of(runner: TaskRunner, source: AsyncIterator[T]) -> Generator[T]:
    """Yield what an async iterator yields in a task of the loop."""
    while found := runner.run(_next_of, source):
        yield from found


def all_of(bridge: Bridge, source: AsyncIterator[T]) -> Generator[T]:
    """Yield what an async iterator yields in a task of its own; close both then."""
    runner = bridge.calls().runner()

    async def close(_: object = None) -> None:
        """Close the iterator, if it can be closed."""
        if isinstance(source, AsyncGenerator):
            await source.aclose()

    runner.leaving = close

    try:
        yield from each_of(runner, source)
    finally:
        runner.leave(close)


async def _next_of(source: AsyncIterator[T]) -> list[T]:
    async for found in source:
        return [found]

    return []


async def _first_of(stream: AsyncMemberStream, size: int) -> list[Member]:
    batches = stream.batches(size)

    try:
        async for batch in batches:
            return batch
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()

    return []
