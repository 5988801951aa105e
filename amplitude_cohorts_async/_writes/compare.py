"""Two sets of ids compared as streams, in memory or on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs

from .._core.batching import MOST_MEMBERS, SLICE, checked_ids
from .._core.id_sets import Diff
from .._core.writes import USERS, Membership, id_attribute
from ..errors import InvalidInputError
from ..models import IdType, Member, MembershipDiff
from .batches import release
from .id_stream import IdFile, IdSource, ids_of, is_members_file, members_of_file
from .partitions import (
    PARTITIONS,
    DiffFiles,
    Partitions,
    compare_partition,
    count_distinct,
)

Slices: TypeAlias = AsyncGenerator[list[str]]

T = TypeVar("T")


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

        id_type: Which id of an exported member counts.

        count_group: "User", or the name of a group; then groups are compared.

        on_disk: Compare in *folder*, with memory that does not grow with the
            number of ids; in memory, the files keep the order of the ids.

    Raises:
        InvalidInputError: An id cannot be one, or a file cannot be read or written.
    """
    if on_disk and folder is None:
        raise InvalidInputError("on_disk=True compares in a folder; pass folder=")

    reader = MemberIds(Membership(id_type=id_type, count_group=count_group))
    wanted, current = reader.of_source(after), reader.of_source(before)

    if folder is not None and on_disk:
        found = await compare_on_disk(wanted, current, _any_number, folder)
    else:
        diff = await compare(wanted, current, _any_number)
        found = await (in_lists(diff) if folder is None else write_files(diff, folder))
        await release(diff)

    return attrs.evolve(found, unnameable=reader.unnameable)


class MemberIds:
    """
    Reads the ids of one type out of members.

    Attributes:
        unnameable: How many members had no id of that type that could be sent.
    """

    def __init__(self, membership: Membership) -> None:
        self.unnameable = 0
        self._id_of: attrgetter[str | None] = attrgetter(
            id_attribute(membership.id_type, membership.count_group)
        )

    async def of_source(self, source: IdSource) -> Slices:
        """Yield ids, or the ids in a file of members."""
        if isinstance(source, IdFile):
            source = source.path

        if isinstance(source, os.PathLike) and await is_members_file(Path(source)):
            slices = self.of_members(members_of_file(Path(source)))
        else:
            slices = ids_of(source).slices()

        async with aclosing(slices):
            async for ids in slices:
                yield ids

    async def of_members(self, batches: AsyncIterator[Sequence[Member]]) -> Slices:
        """Yield the ids of members, at most `SLICE` at a time."""
        async for batch in batches:
            for start in range(0, len(batch), SLICE):
                members = batch[start : start + SLICE]
                found = map(self._id_of, members)
                ids = _sendable([id_ for id_ in found if id_ is not None])
                self.unnameable += len(members) - len(ids)
                yield ids
                await anyio.lowlevel.checkpoint()


def _sendable(ids: list[str]) -> list[str]:
    try:
        return checked_ids(ids)
    except InvalidInputError:
        return [id_ for id_ in ids if _is_sendable(id_)]


def _is_sendable(id_: str) -> bool:
    try:
        return bool(checked_ids([id_]))
    except InvalidInputError:
        return False


class CountedIdFile(IdFile):
    """An `IdFile` that knows how many ids it holds."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self._count = count

    def __len__(self) -> int:
        return self._count


async def compare(
    wanted: Slices, current: Slices, check: Callable[[int], None]
) -> Diff:
    """
    Compare in memory; see `Diff` for how much of it.

    Args:
        check: Called with the number of different ids that are wanted, before
            *current* is read; may raise.
    """
    diff = Diff()

    async with aclosing(wanted), aclosing(current):
        async for ids in wanted:
            diff.want(ids)
            if diff.wanted > MOST_MEMBERS:
                break

        check(diff.wanted)

        async for ids in current:
            diff.see(ids)

    return diff


async def compare_on_disk(
    wanted: Slices,
    current: Slices,
    check: Callable[[int], None],
    folder: str | os.PathLike[str],
) -> MembershipDiff:
    """
    Compare with memory that does not grow with the number of ids.

    Args:
        check: As in `compare()`.

        folder: Where the work is done and the files ``entering.txt``,
            ``exiting.txt`` and ``existing.txt`` go; it is made if need be.

    Raises:
        InvalidInputError: It cannot be written to.
    """
    place = Path(folder)

    async with aclosing(wanted), aclosing(current), _workspace(place) as workspace:
        await _partition(wanted, workspace, "wanted")
        check(await _in_thread(partial(count_distinct, workspace, "wanted"), place))
        await _partition(current, workspace, "current")

        async with _diff_files(workspace) as files:
            for index in range(PARTITIONS):
                work = partial(compare_partition, workspace, index, files)
                await _in_thread(work, place)

            return await _published(files, place)


async def write_files(diff: Diff, folder: str | os.PathLike[str]) -> MembershipDiff:
    """Write what was compared in memory as the same three files, in its order."""
    place = Path(folder)

    async with _workspace(place) as workspace, _diff_files(workspace) as files:
        for name, slices in (
            ("entering", diff.added()),
            ("exiting", diff.removed()),
            ("existing", diff.unchanged()),
        ):
            for ids in slices:
                await _in_thread(partial(files.add, name, ids), place)

        return await _published(files, place)


async def in_lists(diff: Diff) -> MembershipDiff:
    """Return lists of what was compared in memory, without holding the loop."""
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


def _any_number(_wanted: int) -> None:
    # Files may hold more ids than a cohort.
    pass


async def _partition(slices: Slices, workspace: Path, side: str) -> None:
    folder = workspace.parent
    partitions = await _in_thread(partial(Partitions, workspace, side), folder)

    try:
        async for ids in slices:
            await _in_thread(partial(partitions.add, ids), folder)
    finally:
        with anyio.CancelScope(shield=True):
            await _in_thread(partitions.close, folder)


@asynccontextmanager
async def _diff_files(workspace: Path) -> AsyncGenerator[DiffFiles]:
    files = await _in_thread(partial(DiffFiles, workspace), workspace.parent)

    try:
        yield files
    finally:
        files.close()


async def _published(files: DiffFiles, folder: Path) -> MembershipDiff:
    counts = await _in_thread(partial(files.publish, folder), folder)

    return MembershipDiff(
        add=CountedIdFile(folder / "entering.txt", counts["entering"]),
        remove=CountedIdFile(folder / "exiting.txt", counts["exiting"]),
        kept=counts["existing"],
    )


@asynccontextmanager
async def _workspace(folder: Path) -> AsyncGenerator[Path]:
    def make() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".comparing-", dir=folder))

    workspace = await _in_thread(make, folder)

    try:
        yield workspace
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(shutil.rmtree, workspace, True))


async def _in_thread(work: Callable[[], T], folder: Path) -> T:
    try:
        return await anyio.to_thread.run_sync(work)
    except OSError as error:
        raise InvalidInputError(
            f"{folder} cannot be used to compare ids: {error}; give another folder"
        ) from error
