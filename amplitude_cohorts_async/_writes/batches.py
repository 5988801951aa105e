"""
Turns a stream of ids into the batches of one write, each id once.

Ids that can be read twice are read once beforehand, so that a mistake anywhere
in them is found before anything is sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import compress

import anyio.lowlevel
import attrs

from .._core.batching import MOST_IDS, Batch, Batcher
from .._core.id_sets import Diff, SeenIds
from ..errors import InvalidInputError
from .id_stream import Ids

_SHOWN = 5


@attrs.frozen(kw_only=True)
class Prescan:
    """
    The result of reading ids beforehand: the digests of the batches.

    `flags` has a byte for each id: 1 if it was new, 0 if it had come before; `total`
    is how many different ones there are.
    """

    digests: Sequence[str]
    flags: bytearray
    total: int


@attrs.frozen(kw_only=True)
class Source:
    """
    The ids of a write.

    Attributes:
        prescan: None when they can be read only once, or are known to be distinct.
        seen: Finds repeated ones, where there is no prescan.
        excluding: Must hold none of them, where there is no prescan.
        first: How many go into the first batch.
        size: How many there are, if known.
    """

    ids: Ids
    prescan: Prescan | None = None
    seen: SeenIds | None = None
    excluding: SeenIds | None = None
    first: int | None = None
    size: int | None = None

    @property
    def joins(self) -> bool:
        """Whether the first batch goes into a request that has other ids already."""
        return self.first is not None and self.first < MOST_IDS

    @property
    def is_empty(self) -> bool:
        """Whether a prescan found no ids."""
        return self.prescan is not None and not self.prescan.total

    async def batches(self) -> AsyncGenerator[Batch]:
        """
        Yield the batches; close it when leaving early.

        Raises `InvalidInputError` also when the ids changed since the prescan.
        """
        batcher = Batcher(size=MOST_IDS, first=self.first)

        async with aclosing(self._new_ids()) as slices:
            async for ids in slices:
                for batch in batcher.feed(ids):
                    yield self._verified(batch)

        for batch in batcher.flush():
            yield self._verified(batch)

    async def _new_ids(self) -> AsyncGenerator[Sequence[str]]:
        position = 0

        async with aclosing(self.ids.slices()) as slices:
            async for ids in slices:
                _refuse_overlap(ids, self.excluding)

                if self.prescan is not None:
                    end = position + len(ids)
                    yield list(compress(ids, self.prescan.flags[position:end]))
                elif self.seen is not None:
                    yield list(compress(ids, self.seen.add(ids)))
                else:
                    yield ids

                position += len(ids)

        if self.prescan is not None and position != len(self.prescan.flags):
            raise _changed()

    def _verified(self, batch: Batch) -> Batch:
        if self.prescan and batch.digest != self.prescan.digests[batch.index]:
            raise _changed()

        return batch


def is_full(batches: Sequence[Batch]) -> bool:
    """Whether nothing more fits into a request with these batches."""
    return sum(batch.count for batch in batches) >= MOST_IDS


def room_after(source: Source) -> int:
    """Return how many more ids fit into the last request of a source."""
    if source.size is None:
        return MOST_IDS

    first = MOST_IDS if source.first is None else source.first

    return (first - source.size) % MOST_IDS or MOST_IDS


async def prescan(
    ids: Ids,
    seen: SeenIds,
    *,
    excluding: SeenIds | None = None,
    first: int | None = None,
) -> Source:
    """Read and check ids beforehand, if they can be read again; *seen* gets them."""
    if not ids.again:
        return Source(ids=ids, seen=seen, excluding=excluding, first=first)

    before = seen.count
    batcher = Batcher(size=MOST_IDS, first=first)
    digests: list[str] = []
    flags = bytearray()

    async with aclosing(ids.slices()) as slices:
        async for part in slices:
            _refuse_overlap(part, excluding)
            new = seen.add(part)
            flags += new
            fresh = list(compress(part, new))
            digests += [batch.digest for batch in batcher.feed(fresh)]

    digests += [batch.digest for batch in batcher.flush()]
    total = seen.count - before
    scanned = Prescan(digests=digests, flags=flags, total=total)

    return Source(ids=ids, prescan=scanned, first=first, size=total)


async def release(ids: SeenIds | Diff) -> None:
    """Free millions of ids without holding the loop."""
    for _ in ids.release():
        await anyio.lowlevel.checkpoint()


def _refuse_overlap(ids: Sequence[str], excluding: SeenIds | None) -> None:
    both = [] if excluding is None else excluding.among(ids)

    if both:
        raise InvalidInputError(
            f"ids are both added and removed, among them {both[:_SHOWN]}; "
            f"leave each of them in one of the two"
        )


def _changed() -> InvalidInputError:
    return InvalidInputError(
        "the ids changed while they were being written: the second reading differs "
        "from the first; write them again when they no longer change"
    )
