"""
Bytes from the event loop to stages that block, overlapped and bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio

from .stages import Stage

T = TypeVar("T")

_BATCH = 1 << 20
"""
Bytes handed to a worker thread at once: enough that the hand-over is nothing,
and at most three of them are in memory: filling, waiting, being worked on.
"""


class Delivery:
    """
    Feeds a chain of stages in a worker thread while the next bytes arrive.

    One call at a time, so the stages need no locks. Cancelling a call never
    leaves a thread at work behind the caller's back: leaving waits for it.
    """

    def __init__(self, build: Callable[[], Stage]) -> None:
        self._build = build
        self._stage: Stage | None = None
        self._batch: list[bytes] = []
        self._size = 0
        self._work: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        """
        Start with the first byte, forgetting all that came before.
        """
        await self.discard()
        self._stage = await _in_thread(self._build)

    async def take(self, data: bytes) -> None:
        """
        Take the next bytes; waits while the stages are behind.
        """
        self._batch.append(data)
        self._size += len(data)

        if self._size >= _BATCH:
            await self._hand_over()

    async def finish(self) -> None:
        """
        Let the stages finish with what they have.

        Raises:
            Malformed: This cannot have been all.

            OSError: The disk refused.
        """
        await self._hand_over()
        await self._settle()
        await _in_thread(self._existing.finish)

    async def discard(self) -> None:
        """
        Let the stages forget; safe at any time.
        """
        with anyio.CancelScope(shield=True):
            if self._work is not None:
                await asyncio.wait([self._work])
                self._work.exception()
                self._work = None

            self._batch, self._size = [], 0

            if self._stage is not None:
                stage, self._stage = self._stage, None
                await _in_thread(stage.discard)

    @property
    def _existing(self) -> Stage:
        if self._stage is None:
            raise RuntimeError("bytes came before their beginning")

        return self._stage

    async def _hand_over(self) -> None:
        await self._settle()

        batch, self._batch, self._size = self._batch, [], 0
        work = partial(_write_all, self._existing, batch)
        self._work = asyncio.get_running_loop().run_in_executor(None, work)

    async def _settle(self) -> None:
        if self._work is not None:
            # Unlike awaiting it, this leaves the work alone when cancelled.
            await asyncio.wait([self._work])
            work, self._work = self._work, None
            work.result()


def _write_all(stage: Stage, batch: list[bytes]) -> None:
    for data in batch:
        stage.write(data)


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work)
