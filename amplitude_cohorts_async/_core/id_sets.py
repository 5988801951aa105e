"""
Sets of millions of ids that never hold the event loop for long.

One set or dict of two million is copied whole whenever it grows, and freed at
once: the loop would stand still for 50 ms and more each time. So the ids are
spread over 512 small ones, which grow and are freed in no time, and are at their
fullest, and leanest, at two million ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from ..errors import InvalidInputError
from ..models import IdType
from .batching import SLICE
from .writes import USERS

Table = TypeVar("Table", bound="set[bytes] | dict[str, bool]")

_SHARDS = 512


class ShardedSet(list[Table]):
    """The small tables; an id is in ``shards[hash(id_) >> 20 & _SHARDS - 1]``."""

    def __init__(self, table: Callable[[], Table]) -> None:
        super().__init__(table() for _ in range(_SHARDS))

    def release(self) -> Iterator[None]:
        """Free all ids, some thousand at each step."""
        for shard in self:
            shard.clear()
            yield


class SeenIds:
    """
    Knows which ids have come before.

    It keeps 15 bytes of a hash for each, 82 bytes of memory whatever the id's
    length. Two of two million ids are taken for one with a chance of 10^-24.

    Attributes:
        count: How many different ids have come.
    """

    def __init__(self, *, most: int | None = None) -> None:
        self.count = 0
        self._most = most
        self._shards = ShardedSet[set[bytes]](set)

    def add(self, ids: Sequence[str]) -> bytes:
        """
        Add ids, and return a flag for each: 1 if it is new, else 0.

        Raises:
            InvalidInputError: There are more of them than may be.
        """
        shards = self._shards
        blake2b = hashlib.blake2b
        flags = bytearray()

        for id_ in ids:
            digest = blake2b(id_.encode(), digest_size=15).digest()
            shard = shards[hash(digest) >> 20 & _SHARDS - 1]
            known = len(shard)
            shard.add(digest)
            flags.append(len(shard) - known)

        self.count += flags.count(1)

        if self._most is not None and self.count > self._most:
            raise InvalidInputError(
                f"more than {self._most:,} different ids were given, and a cohort "
                f"holds at most {self._most:,} members; split them into cohorts"
            )

        return bytes(flags)

    def among(self, ids: Sequence[str]) -> list[str]:
        """Return those of *ids* that have come before; none is added."""
        shards = self._shards
        found: list[str] = []

        for id_ in ids:
            digest = hashlib.blake2b(id_.encode(), digest_size=15).digest()
            if digest in shards[hash(digest) >> 20 & _SHARDS - 1]:
                found.append(id_)

        return found

    def release(self) -> Iterator[None]:
        """Free all ids step by step; the count stays."""
        return self._shards.release()


class Diff:
    """
    Compares the ids that are wanted with those that are there.

    First `want()` everything, then `see()` everything. Both may be called any
    number of times, and ids may come twice. Ids are compared as they are, not by
    a hash of them.

    For each different id, of either side, it takes the id's own memory and
    about 60 bytes: 0.6 GB for two disjoint sets of two million ids of 36
    characters, half of that for two that are nearly the same.

    Attributes:
        kept: How many different ids are wanted and there.
    """

    def __init__(self) -> None:
        self.kept = 0
        self._wanted = _MarkedIds()
        self._unwanted = _MarkedIds()

    @property
    def wanted(self) -> int:
        """How many different ids are wanted."""
        return len(self._wanted.order)

    def want(self, ids: Sequence[str]) -> None:
        """Add ids that are to be members."""
        for id_ in ids:
            self._wanted.add(id_)

    def see(self, ids: Sequence[str]) -> None:
        """Add ids that are members."""
        for id_ in ids:
            seen = self._wanted.mark(id_)

            if seen is None:
                self._unwanted.add(id_)
            elif not seen:
                self.kept += 1

    def added(self) -> Iterator[list[str]]:
        """Yield what is wanted and not there, in the order it was wanted."""
        return self._wanted.slices(marked=False)

    def unchanged(self) -> Iterator[list[str]]:
        """Yield what is wanted and there, in the order it was wanted."""
        return self._wanted.slices(marked=True)

    def removed(self) -> Iterator[list[str]]:
        """Yield what is there and not wanted, in the order it was seen."""
        return self._unwanted.slices(marked=False)

    def release(self) -> Iterator[None]:
        """Free all ids step by step."""
        yield from self._wanted.release()
        yield from self._unwanted.release()


class _MarkedIds:
    def __init__(self) -> None:
        self.order: list[str] = []
        self._shards = ShardedSet[dict[str, bool]](dict)

    def add(self, id_: str) -> None:
        shard = self._shards[hash(id_) >> 20 & _SHARDS - 1]

        if id_ not in shard:
            shard[id_] = False
            self.order.append(id_)

    def mark(self, id_: str) -> bool | None:
        """Mark an id, and return whether it was marked; None when it is not here."""
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

    def release(self) -> Iterator[None]:
        yield from self._shards.release()

        while self.order:
            del self.order[-SLICE:]
            yield


def id_attribute(id_type: IdType, count_group: str) -> str:
    """Return which attribute of a `Member` is its id."""
    if id_type is IdType.AMPLITUDE_ID:
        return "amplitude_id"

    return "user_id" if count_group == USERS else "group"
