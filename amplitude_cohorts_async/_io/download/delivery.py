"""
A file's bytes from the event loop to stages that block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

from ..threads import in_thread, to_the_end
from ..wire.feed import Disk, Feed, Writes


class Sink(Writes, Protocol):
    """
    The first of the stages: takes bytes as served.
    """

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

    def window(self, start: int) -> Writes | None:
        """
        Return another place to write to, if bytes may come in any order.

        Known after the first bytes only.
        """
        ...

    def reserve(self, size: int) -> None:
        """
        Make ready for all bytes, in any order.
        """
        ...


S_co = TypeVar("S_co", bound=Sink, covariant=True)


class Delivery(Generic[S_co]):
    """
    A `Receiver` that feeds stages while more bytes arrive.

    One call at a time, so the stages need no locks.

    Attributes:
        disk: What all of its feeds share.
    """

    def __init__(self, build: Callable[[], S_co]) -> None:
        self._build = build
        self._stage: S_co | None = None
        self._feed: Feed | None = None
        self.disk = Disk()

    @property
    def stage(self) -> S_co:
        """
        The first of the stages.
        """
        if self._stage is None:
            raise RuntimeError("nothing has begun yet")

        return self._stage

    @property
    def feed(self) -> Feed:
        """
        Where the bytes go, in order.
        """
        if self._feed is None:
            raise RuntimeError("nothing has begun yet")

        return self._feed

    async def begin(self) -> None:
        """
        Expect the first byte next, and forget all that came before.
        """
        await self.discard()
        await in_thread(self._begin, self.disk.thread)
        self._feed = Feed(self.stage, self.disk)

    @property
    def spreads(self) -> bool:
        """
        Whether bytes may come in any order; known after the first ones only.
        """
        return self.stage.window(0) is not None

    async def spread(self, size: int) -> None:
        """
        Make ready for bytes in any order.

        Args:
            size: Bytes in all.
        """
        await self.feed.flush()
        await in_thread(partial(self.stage.reserve, size), self.disk.thread)

    def window(self, start: int) -> Feed:
        """
        Take bytes from a position on, beside others; see `spread()`.
        """
        window = self.stage.window(start)

        if window is None:
            raise RuntimeError("bytes have to come in order here")

        return Feed(window, self.disk, is_one_of_many=True)

    def hurry(self) -> None:
        """
        Nothing to change: nobody but the disk is waited for.
        """

    async def end(self, *, is_delimited: bool) -> None:
        """
        Let the stages finish with what they have.

        Raises:
            Malformed: This cannot have been all.

            OSError: The disk refused.
        """
        await self.feed.flush()
        finish = partial(self.stage.finish, is_delimited=is_delimited)
        await in_thread(finish, self.disk.thread)

    async def discard(self) -> None:
        """
        Let the stages forget; safe at any time, also after the end.
        """
        await to_the_end(self._discard())

    def _begin(self) -> None:
        # In the thread, so that a cancelled caller still finds it to discard.
        self._stage = self._build()

    async def _discard(self) -> None:
        if self._feed is not None:
            await self._feed.drop()

        if self._stage is not None:
            await in_thread(self._stage.discard, self.disk.thread)


AnyDelivery: TypeAlias = Delivery[Sink]
"""
Where it does not matter what the stages are.
"""
