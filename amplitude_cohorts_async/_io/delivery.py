"""
Bytes from the event loop to stages that block, overlapped and bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from .threads import in_thread, to_the_end


class Sink(Protocol):
    """
    The first of the stages: takes bytes as served.
    """

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes.
        """
        ...

    def finish(self, *, is_delimited: bool) -> None:
        """
        Take note that this was all.
        """
        ...

    def discard(self) -> None:
        """
        Forget everything; safe at any time, also after `finish()`.
        """
        ...


S = TypeVar("S", bound=Sink)

_BATCH = 1 << 20
"""
Bytes handed to a worker thread at once: enough that the hand-over is nothing,
and at most two of them are in memory, one filling and one being worked on.
"""


class Delivery(Generic[S]):
    """
    A `Receiver` that feeds stages in a worker thread while more bytes arrive.

    One call at a time, so the stages need no locks.
    """

    def __init__(self, build: Callable[[], S]) -> None:
        self._build = build
        self._stage: S | None = None
        self._batch: list[bytes] = []
        self._size = 0
        self._work: asyncio.Task[None] | None = None
        self._thread = anyio.CapacityLimiter(1)

    @property
    def stage(self) -> S:
        """
        The first of the stages.
        """
        if self._stage is None:
            raise RuntimeError("nothing has begun yet")

        return self._stage

    async def begin(self) -> None:
        """
        Expect the first byte next, and forget all that came before.
        """
        await self.discard()
        await in_thread(self._begin, self._thread)

    async def take(self, data: bytes) -> None:
        """
        Take the next bytes; waits while the stages are behind.
        """
        self._batch.append(data)
        self._size += len(data)

        if self._size >= _BATCH:
            await self._hand_over()

    async def end(self, *, is_delimited: bool) -> None:
        """
        Let the stages finish with what they have.

        Raises:
            Malformed: This cannot have been all.

            OSError: The disk refused.
        """
        await self._hand_over()
        await self._settle()
        finish = partial(self.stage.finish, is_delimited=is_delimited)
        await in_thread(finish, self._thread)

    async def discard(self) -> None:
        """
        Let the stages forget; safe at any time, also after the end.
        """
        await to_the_end(self._discard())

    def _begin(self) -> None:
        # In the thread, so that a cancelled caller still finds it to discard.
        self._stage = self._build()

    async def _discard(self) -> None:
        if self._work is not None:
            await asyncio.wait([self._work])
            self._work.exception()
            self._work = None

        self._batch, self._size = [], 0

        if self._stage is not None:
            await in_thread(self._stage.discard, self._thread)

    async def _hand_over(self) -> None:
        await self._settle()

        batch, self._batch, self._size = self._batch, [], 0
        write = partial(_write_all, self.stage, batch)
        self._work = asyncio.ensure_future(
            anyio.to_thread.run_sync(write, limiter=self._thread)
        )

    async def _settle(self) -> None:
        if self._work is not None:
            # Unlike awaiting it, this leaves the work alone when cancelled.
            await asyncio.wait([self._work])
            work, self._work = self._work, None
            work.result()


def _write_all(stage: Sink, batch: list[bytes]) -> None:
    for data in batch:
        stage.write(data)
