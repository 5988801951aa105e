"""
Sets of millions of ids that never hold the event loop for long.

One set or dict of two million ids is copied as a whole whenever it grows, and freed
at once: the loop would stand still for 50 ms and more each time. So the ids are
spread over 512 small tables, which grow and are freed in no time, and which are at
their fullest, and leanest, at two million ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from ..errors import InvalidInputError
from .batching import IDS_AT_ONCE, LARGER_COHORTS

Table = TypeVar("Table", bound="set[bytes] | dict[str, bool]")

_SHARDS = 512


class ShardedSet(list[Table]):
    """Small tables of ids; `shards[hash(id_) >> 20 & _SHARDS - 1]` is that of an id."""

    def __init__(self, table: Callable[[], Table]) -> None:
        super().__init__(table() for _ in range(_SHARDS))

    def release(self) -> Iterator[None]:
        """Free all ids, some thousand at each step; few take none."""
        freed = 0

        for shard in self:
            freed += len(shard)
            shard.clear()
            if freed >= IDS_AT_ONCE:
                freed = 0
                yield


class SeenIds:
    """
    A record of the ids that have come before; `count` is the number of different ones.

    It keeps 15 bytes of a hash of each id, which take 82 bytes of memory whatever the
    id's length. The chance that two of two million ids collide is 10^-24.
    """

    def __init__(self, *, most: int | None = None) -> None:
        self.count = 0
        self._most = most
        self._shards = ShardedSet[set[bytes]](set)

    def add(self, ids: Sequence[str]) -> bytes:
        """
        Add ids and return a flag for each: 1 if it is new, else 0.

        Raises `InvalidInputError` if there are more different ids than *most*.
        """
        shards = self._shards
        blake2b = hashlib.blake2b
        flags = bytearray()

        for id_ in ids:
            digest = blake2b(id_.encode(), digest_size=15).digest()
            shard = shards[hash(digest) >> 20 & _SHARDS - 1]
            before = len(shard)
            shard.add(digest)
            flags.append(len(shard) - before)

        self.count += flags.count(1)

        if self._most is not None and self.count > self._most:
            raise InvalidInputError(
                f"more than {self._most:,} different ids were given, and a cohort "
                f"holds at most {self._most:,} members; {LARGER_COHORTS}"
            )

        return bytes(flags)

    def among(self, ids: Sequence[str]) -> list[str]:
        """Return those of *ids* that have come before; add none."""
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
    A comparison of the wanted ids with the current ones.

    First `want()` all wanted ids, then `see()` all current ones, in any number of calls
    and with repetitions; `kept` counts the different ids that are both. Ids are
    compared as they are, not by a hash.

    Each different id takes its own memory and about 60 bytes: 0.6 GB for two disjoint
    sets of two million ids of 36 characters, half of that for two nearly equal ones.
    """

    def __init__(self) -> None:
        self.kept = 0
        self._wanted = _MarkedIds()
        self._unwanted = _MarkedIds()

    @property
    def wanted(self) -> int:
        """The number of different wanted ids."""
        return len(self._wanted.order)

    def want(self, ids: Sequence[str]) -> None:
        """Add wanted ids."""
        for id_ in ids:
            self._wanted.add(id_)

    def see(self, ids: Sequence[str]) -> None:
        """Add current ids."""
        for id_ in ids:
            was_marked = self._wanted.mark(id_)

            if was_marked is None:
                self._unwanted.add(id_)
            elif not was_marked:
                self.kept += 1

    def added(self) -> Iterator[list[str]]:
        """Yield the wanted ids that are not current, in the order of `want()`."""
        return self._wanted.slices(marked=False)

    def unchanged(self) -> Iterator[list[str]]:
        """Yield the wanted ids that are current, in the order of `want()`."""
        return self._wanted.slices(marked=True)

    def removed(self) -> Iterator[list[str]]:
        """Yield the current ids that are not wanted, in the order of `see()`."""
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
        """Mark an id and return whether it was marked; None if it is unknown."""
        shard = self._shards[hash(id_) >> 20 & _SHARDS - 1]
        marked = shard.get(id_)

        if marked is False:
            shard[id_] = True

        return marked

    def slices(self, *, marked: bool) -> Iterator[list[str]]:
        shards = self._shards
        ids = iter(self.order)

        while part := list(islice(ids, IDS_AT_ONCE)):
            yield [
                id_
                for id_ in part
                if shards[hash(id_) >> 20 & _SHARDS - 1][id_] is marked
            ]

    def release(self) -> Iterator[None]:
        yield from self._shards.release()

        while self.order:
            del self.order[-IDS_AT_ONCE:]
            yield
