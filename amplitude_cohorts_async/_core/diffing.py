"""
From one set of ids to another: what to add, what to remove, what stays.

Ids are compared as they are, not by a hash of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from ..models import IdType
from .batching import SLICE
from .writes import USERS

_SHARDS = 512


def id_attribute(id_type: IdType, count_group: str) -> str:
    """
    Tell which attribute of a `Member` is its id.
    """
    if id_type is IdType.AMPLITUDE_ID:
        return "amplitude_id"

    return "user_id" if count_group == USERS else "group"


class Diff:
    """
    Compares what is wanted with what is there.

    First `want()` everything, then `see()` everything. Both may be called any
    number of times, and ids may come twice.

    For each different id, of either side, it takes the id's own memory and
    about 60 bytes: 0.6 GB for two disjoint sets of two million ids of 36
    characters, half of that for two that are nearly the same.

    Attributes:
        kept: How many different ids are wanted and there.
    """

    def __init__(self) -> None:
        self.kept = 0
        self._wanted = _Marks()
        self._unwanted = _Marks()

    @property
    def wanted(self) -> int:
        """
        How many different ids are wanted.
        """
        return len(self._wanted.order)

    @property
    def unwanted(self) -> int:
        """
        How many different ids are there that are not wanted.
        """
        return len(self._unwanted.order)

    def want(self, ids: Sequence[str]) -> None:
        """
        Note that *ids* shall be members.
        """
        for id_ in ids:
            self._wanted.note(id_)

    def see(self, ids: Sequence[str]) -> None:
        """
        Note that *ids* are members.
        """
        for id_ in ids:
            seen = self._wanted.mark(id_)

            if seen is None:
                self._unwanted.note(id_)
            elif not seen:
                self.kept += 1

    def entering(self) -> Iterator[list[str]]:
        """
        Hand out what is wanted and not there, in the order it was wanted.
        """
        return self._wanted.slices(marked=False)

    def existing(self) -> Iterator[list[str]]:
        """
        Hand out what is wanted and there, in the order it was wanted.
        """
        return self._wanted.slices(marked=True)

    def exiting(self) -> Iterator[list[str]]:
        """
        Hand out what is there and not wanted, in the order it was seen.
        """
        return self._unwanted.slices(marked=False)

    def forget(self) -> Iterator[None]:
        """
        Let go of all ids, some thousand at each step.
        """
        yield from self._wanted.forget()
        yield from self._unwanted.forget()


class _Marks:
    """
    Ids in the order they came, each with a mark.
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        # One dict of two million is copied whole whenever it grows, and the
        # loop would stand still for 50 ms each time; small ones do not.
        self._shards: list[dict[str, bool]] = [{} for _ in range(_SHARDS)]

    def note(self, id_: str) -> None:
        shard = self._shards[hash(id_) >> 20 & _SHARDS - 1]

        if id_ not in shard:
            shard[id_] = False
            self.order.append(id_)

    def mark(self, id_: str) -> bool | None:
        """
        Mark an id, and tell whether it was; None when it is not here.
        """
        shard = self._shards[hash(id_) >> 20 & _SHARDS - 1]
        marked = shard.get(id_)

        if marked is False:
            shard[id_] = True

        return marked

    def slices(self, *, marked: bool) -> Iterator[list[str]]:
        shards = self._shards
        ids = iter(self.order)

        while part := list(islice(ids, SLICE)):
            yield [
                id_
                for id_ in part
                if shards[hash(id_) >> 20 & _SHARDS - 1][id_] is marked
            ]

    def forget(self) -> Iterator[None]:
        for shard in self._shards:
            shard.clear()
            yield

        while self.order:
            del self.order[-SLICE:]
            yield
