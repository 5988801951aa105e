"""
A stream of ids as the batches of one write, each id once.

What can be read twice is read once beforehand, so that a mistake anywhere in
it is found before anything is sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import compress

import anyio.lowlevel
import attrs

from ..._core.batching import MOST_IDS, Batch, Batcher, Distinct
from ..._core.diffing import Diff
from ...errors import InvalidInputError
from .ids import Ids

_NAMED = 5


@attrs.frozen(kw_only=True)
class Survey:
    """
    What reading the ids beforehand told.

    Attributes:
        digests: One for each batch.

        flags: One byte for each id: 1 if it was new, 0 if it had come before.

        total: How many different ids there are.
    """

    digests: Sequence[str]
    flags: bytearray
    total: int


@attrs.frozen(kw_only=True)
class Source:
    """
    The ids of a write.

    Attributes:
        survey: None when the ids can be read only once, or are known to be
            distinct.

        distinct: What finds repeated ids when there was no survey.

        apart_from: Ids that must not come, when there was no survey.
    """

    ids: Ids
    survey: Survey | None = None
    distinct: Distinct | None = None
    apart_from: Distinct | None = None

    @property
    def is_empty(self) -> bool:
        """
        Whether it is known that there are no ids.
        """
        return self.survey is not None and not self.survey.total

    async def batches(self) -> AsyncGenerator[Batch]:
        """
        Hand out the batches, in order.

        Close it when leaving early; see `contextlib.aclosing()`.

        Raises:
            InvalidInputError: An id is none, there are too many, one is both
                added and removed, or they are others than at the first look.
        """
        batcher = Batcher(size=MOST_IDS)

        async with aclosing(self._fresh()) as slices:
            async for ids in slices:
                for batch in batcher.feed(ids):
                    yield self._verified(batch)

        for batch in batcher.flush():
            yield self._verified(batch)

    async def _fresh(self) -> AsyncGenerator[Sequence[str]]:
        position = 0

        async with aclosing(self.ids.slices()) as slices:
            async for ids in slices:
                _refuse_overlap(ids, self.apart_from)

                if self.survey is not None:
                    end = position + len(ids)
                    yield list(compress(ids, self.survey.flags[position:end]))
                elif self.distinct is not None:
                    yield list(compress(ids, self.distinct.flags(ids)))
                else:
                    yield ids

                position += len(ids)

        if self.survey is not None and position != len(self.survey.flags):
            raise _changed()

    def _verified(self, batch: Batch) -> Batch:
        if self.survey is None:
            return batch

        if batch.digest != self.survey.digests[batch.index]:
            raise _changed()

        return batch


async def surveyed(
    ids: Ids, distinct: Distinct, *, apart_from: Distinct | None = None
) -> Source:
    """
    Read ids beforehand, if they can be read again; check each of them.

    Args:
        distinct: Knows the ids afterwards.

        apart_from: Ids that must not be among them.

    Raises:
        InvalidInputError: An id is none, there are too many, or one is both
            added and removed.
    """
    if not ids.again:
        return Source(ids=ids, distinct=distinct, apart_from=apart_from)

    batcher = Batcher(size=MOST_IDS)
    digests: list[str] = []
    flags = bytearray()

    async with aclosing(ids.slices()) as slices:
        async for part in slices:
            _refuse_overlap(part, apart_from)
            new = distinct.flags(part)
            flags += new
            fresh = list(compress(part, new))
            digests += [batch.digest for batch in batcher.feed(fresh)]

    digests += [batch.digest for batch in batcher.flush()]

    return Source(
        ids=ids,
        survey=Survey(digests=digests, flags=flags, total=distinct.count),
    )


async def forget(knowing: Distinct | Diff) -> None:
    """
    Let go of millions of ids without holding the loop.
    """
    for _ in knowing.forget():
        await anyio.lowlevel.checkpoint()


def _refuse_overlap(ids: Sequence[str], apart_from: Distinct | None) -> None:
    both = [] if apart_from is None else apart_from.known(ids)

    if both:
        raise InvalidInputError(
            f"ids are both added and removed, among them {both[:_NAMED]}; "
            f"leave each of them in one of the two"
        )


def _changed() -> InvalidInputError:
    return InvalidInputError(
        "the ids changed while they were being written: a second look found others "
        "than the first; write them again when they keep still"
    )
