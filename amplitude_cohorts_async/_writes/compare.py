"""
Compares two sets of ids that are read as streams, in memory or on disk.

On disk, a checksum of each id chooses its partition, a small file, so that equal
ids of both sides are in partitions of the same number; these are compared one pair
after another. Nothing here asks Amplitude.
"""

from __future__ import annotations

import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import ExitStack, aclosing, asynccontextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Literal, TextIO, TypeAlias, TypeVar, TypeVarTuple
from zlib import crc32

import anyio.lowlevel
import attrs

from .._core.batching import IDS_AT_ONCE, MOST_MEMBERS, checked_member_ids
from .._core.id_sets import Diff
from .._core.writes import USERS, Membership, id_attribute
from .._id_source import IdSource
from .._io.cancellation import in_thread
from .._io.sinks.part_lock import new_folder, remove_abandoned_folders, remove_folder
from ..errors import InvalidInputError
from ..models import IdType, Member, MembershipDiff
from .batches import release
from .id_stream import IdFile, ids_of, is_members_file, members_of_file

Slices: TypeAlias = AsyncGenerator[list[str]]
Check: TypeAlias = Callable[[int], None]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_ENTERING, _EXITING, _EXISTING = "entering.txt", "exiting.txt", "existing.txt"
_DIFF_FILES = (_ENTERING, _EXITING, _EXISTING)
_HIDDEN = ".comparing-"

_PARTITIONS = 128
"""
Partitions of each side: of two million ids each has 16,000, which compare in a
few milliseconds, and all of one side's can be open at once.
"""


async def diff_ids(
    before: IdSource,
    after: IdSource,
    folder: str | os.PathLike[str] | None = None,
    *,
    id_type: IdType = IdType.USER_ID,
    count_group: str = USERS,
    on_disk: bool = False,
) -> MembershipDiff:
    """
    Return what makes one set of ids into another, of any size; asks no service.

    Args:
        before: Ids, or the path of a file that an export wrote.
        after: The same.
        folder: Where the files ``entering.txt`` (only in *after*), ``exiting.txt``
            (only in *before*) and ``existing.txt`` are written; None for none.
        id_type: Which id of an exported member is compared.
        count_group: "User", or the name of a group; then groups are compared.
        on_disk: Compare in *folder*, with memory that does not grow with the
            number of ids; in memory, the files keep the order of the ids.

    Raises:
        InvalidInputError: An id is invalid, or a file cannot be read or written.
    """
    if on_disk and folder is None:
        raise InvalidInputError("on_disk=True compares in a folder; pass folder=")

    membership = Membership(id_type=id_type, count_group=count_group)
    of_before, of_after = MemberIds(membership), MemberIds(membership)
    wanted, current = of_after.of_source(after), of_before.of_source(before)
    # Files may hold more ids than a cohort.
    diff = await compare(
        wanted, current, lambda _: None, folder=folder, on_disk=on_disk
    )

    return attrs.evolve(
        diff,
        unnameable=of_before.unnameable + of_after.unnameable,
        unnameable_before=of_before.unnameable,
        unnameable_after=of_after.unnameable,
    )


class MemberIds:
    """Reads the ids of one type; `unnameable` counts the members without one."""

    def __init__(self, membership: Membership) -> None:
        self.unnameable = 0
        self._id_of: attrgetter[str | None] = attrgetter(
            id_attribute(membership.id_type, membership.count_group)
        )

    async def of_source(self, source: IdSource) -> Slices:
        """Yield ids, or the ids in a file of members."""
        if isinstance(source, IdFile) and source.column is None:
            source = source.path

        if isinstance(source, os.PathLike) and await is_members_file(Path(source)):
            slices = self.of_members(members_of_file(Path(source)))
        else:
            slices = ids_of(source).slices()

        async with aclosing(slices):
            async for ids in slices:
                yield ids

    async def of_members(self, batches: AsyncIterator[Sequence[Member]]) -> Slices:
        """Yield the ids of members, at most `IDS_AT_ONCE` at a time."""
        async for batch in batches:
            for start in range(0, len(batch), IDS_AT_ONCE):
                members = batch[start : start + IDS_AT_ONCE]
                ids = _valid([i for i in map(self._id_of, members) if i is not None])
                self.unnameable += len(members) - len(ids)
                yield ids
                await anyio.lowlevel.checkpoint()


def _valid(ids: list[str]) -> list[str]:
    try:
        return checked_member_ids(ids)
    except InvalidInputError:
        middle = len(ids) // 2

        return [*_valid(ids[:middle]), *_valid(ids[middle:])] if middle else []


async def compare(
    wanted: Slices,
    current: Slices,
    check: Check,
    *,
    folder: str | os.PathLike[str] | None,
    on_disk: bool,
) -> MembershipDiff:
    """
    Compare in memory, or in *folder*; see `diff_ids()` for the files there.

    Args:
        check: Called with the number of different ids that are wanted, before
            *current* is read, and whenever it is more than a cohort holds; may raise.
    """
    async with aclosing(wanted), aclosing(current):
        if folder is not None and on_disk:
            return await _compare_on_disk(wanted, current, check, Path(folder))

        diff = Diff()

        async for ids in wanted:
            diff.want(ids)
            # At once: an endless stream would fill the memory.
            if diff.wanted > MOST_MEMBERS:
                check(diff.wanted)

        check(diff.wanted)

        async for ids in current:
            diff.see(ids)

    result = await (
        _in_lists(diff) if folder is None else _in_files(diff, Path(folder))
    )
    await release(diff)

    return result


async def _in_lists(diff: Diff) -> MembershipDiff:
    return MembershipDiff(
        add=await _joined(diff.added()),
        remove=await _joined(diff.removed()),
        kept=diff.kept,
    )


async def _joined(slices: Iterator[list[str]]) -> list[str]:
    ids: list[str] = []

    for part in slices:
        ids += part
        await anyio.lowlevel.checkpoint()

    return ids


async def _compare_on_disk(
    wanted: Slices, current: Slices, check: Check, place: Path
) -> MembershipDiff:
    async with _workspace(place) as workspace:
        await _partition(wanted, workspace, "wanted")
        check(await _in_thread(place, _count_distinct, workspace))
        await _partition(current, workspace, "current")

        async with _id_files(workspace, _DIFF_FILES) as files:
            for index in range(_PARTITIONS):
                await _in_thread(place, _compare_partition, workspace, index, files)

            return await _published(files, place)


async def _in_files(diff: Diff, place: Path) -> MembershipDiff:
    contents = zip(
        _DIFF_FILES, (diff.added(), diff.removed(), diff.unchanged()), strict=True
    )

    async with (
        _workspace(place) as workspace,
        _id_files(workspace, _DIFF_FILES) as files,
    ):
        for name, slices in contents:
            for ids in slices:
                await _in_thread(place, files.add, name, ids)

        return await _published(files, place)


async def _partition(slices: Slices, workspace: Path, side: str) -> None:
    names = [f"{side}.{index}" for index in range(_PARTITIONS)]

    async with _id_files(workspace, names) as files:
        async for ids in slices:
            await _in_thread(workspace.parent, files.partition, ids)


async def _published(files: _IdFiles, folder: Path) -> MembershipDiff:
    added, removed, kept = await _in_thread(folder, files.publish, folder)

    return MembershipDiff(
        add=_CountedIdFile(folder / _ENTERING, added),
        remove=_CountedIdFile(folder / _EXITING, removed),
        kept=kept,
    )


class _CountedIdFile(IdFile):
    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self._count = count

    def __len__(self) -> int:
        return self._count


@asynccontextmanager
async def _workspace(folder: Path) -> AsyncGenerator[Path]:
    stack = ExitStack()

    def make() -> Path:
        """Make a hidden folder, and remove those of comparisons that were killed."""
        remove_abandoned_folders(folder, _HIDDEN)
        workspace, lock = new_folder(folder, _HIDDEN)
        stack.callback(remove_folder, workspace, lock)
        return workspace

    try:
        yield await _in_thread(folder, make)
    finally:
        await _in_thread(folder, stack.close)


@asynccontextmanager
async def _id_files(workspace: Path, names: Sequence[str]) -> AsyncGenerator[_IdFiles]:
    files = _IdFiles(workspace, names)

    try:
        await _in_thread(workspace.parent, files.open)
        yield files
    finally:
        await _in_thread(workspace.parent, files.close)


async def _in_thread(folder: Path, work: Callable[[*Ts], T], *args: *Ts) -> T:
    try:
        return await in_thread(partial(work, *args))
    except OSError as error:
        raise InvalidInputError(
            f"{folder} cannot be used to compare ids: {error}; give another folder"
        ) from error


class _IdFiles:
    """Files of ids, one a line, open for writing; to be used in a thread."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._counts = dict.fromkeys(names, 0)
        self._files: dict[str, TextIO] = {}

    def open(self) -> None:
        for name in self._counts:
            file = _text(self._folder / name, "w")
            self._files[name] = self._stack.enter_context(file)

    def add(self, name: str, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._files[name].write(f"{id_}\n")
            self._counts[name] += 1

    def partition(self, ids: Iterable[str]) -> None:
        files = list(self._files.values())

        for id_ in ids:
            files[crc32(id_.encode()) % len(files)].write(f"{id_}\n")

    def publish(self, folder: Path) -> list[int]:
        """Move the files, now whole, to *folder*; return how many ids each has."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

        self.close()

        for name in self._files:
            (self._folder / name).replace(folder / name)

        return list(self._counts.values())

    def close(self) -> None:
        self._stack.close()


def _count_distinct(workspace: Path) -> int:
    return sum(len(_ids(workspace / f"wanted.{i}")) for i in range(_PARTITIONS))


def _compare_partition(workspace: Path, index: int, files: _IdFiles) -> None:
    wanted = _ids(workspace / f"wanted.{index}")
    current = _ids(workspace / f"current.{index}")

    files.add(_ENTERING, (id_ for id_ in wanted if id_ not in current))
    files.add(_EXITING, (id_ for id_ in current if id_ not in wanted))
    files.add(_EXISTING, (id_ for id_ in wanted if id_ in current))


def _ids(path: Path) -> dict[str, None]:
    with _text(path, "r") as file:
        return dict.fromkeys(file.read().split("\n")[:-1])


def _text(path: Path, mode: Literal["r", "w"]) -> TextIO:
    # No translation: nothing but a newline ends an id.
    return path.open(mode, encoding="utf-8", newline="\n")
