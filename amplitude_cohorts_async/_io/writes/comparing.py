"""
What is wanted against what is there, as streams: in memory or on disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..._core.batching import MOST_MEMBERS
from ..._core.diffing import Diff
from ...errors import InvalidInputError
from ...models import MembershipDiff
from .ids import IdFile
from .piles import PILES, Piles, ThreeFiles, compare_piles, count_piles

Slices: TypeAlias = AsyncGenerator[list[str]]

T = TypeVar("T")


class CountedIdFile(IdFile):
    """
    An `IdFile` that knows how many ids it holds.
    """

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
        check: Told how many different ids are wanted, before *current* is
            looked at; may raise.
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

    async with aclosing(wanted), aclosing(current), _workshop(place) as workshop:
        await _deal(wanted, workshop, "wanted")
        check(await _in_thread(partial(count_piles, workshop, "wanted"), place))
        await _deal(current, workshop, "current")
        files = await _in_thread(partial(ThreeFiles, workshop), place)

        try:
            for pile in range(PILES):
                await _in_thread(partial(compare_piles, workshop, pile, files), place)

            counts = await _in_thread(partial(files.publish, place), place)
        finally:
            files.close()

    return _diff_of(place, counts)


async def write_files(diff: Diff, folder: str | os.PathLike[str]) -> MembershipDiff:
    """
    Write what was compared in memory as the same three files, in its order.
    """
    place = Path(folder)

    async with _workshop(place) as workshop:
        files = await _in_thread(partial(ThreeFiles, workshop), place)

        try:
            for word, slices in (
                ("entering", diff.entering()),
                ("exiting", diff.exiting()),
                ("existing", diff.existing()),
            ):
                for ids in slices:
                    await _in_thread(partial(files.add, word, ids), place)

            counts = await _in_thread(partial(files.publish, place), place)
        finally:
            files.close()

    return _diff_of(place, counts)


async def in_lists(diff: Diff) -> MembershipDiff:
    """
    Make lists of what was compared in memory, without holding the loop.
    """
    return MembershipDiff(
        add=await _joined(diff.entering()),
        remove=await _joined(diff.exiting()),
        kept=diff.kept,
    )


async def _joined(slices: Iterator[list[str]]) -> list[str]:
    ids: list[str] = []

    for part in slices:
        ids += part
        await anyio.lowlevel.checkpoint()

    return ids


async def _deal(slices: Slices, workshop: Path, side: str) -> None:
    piles = await _in_thread(partial(Piles, workshop, side), workshop.parent)

    try:
        async for ids in slices:
            await _in_thread(partial(piles.add, ids), workshop.parent)
    finally:
        with anyio.CancelScope(shield=True):
            await _in_thread(piles.close, workshop.parent)


def _diff_of(folder: Path, counts: Mapping[str, int]) -> MembershipDiff:
    return MembershipDiff(
        add=CountedIdFile(folder / "entering.txt", counts["entering"]),
        remove=CountedIdFile(folder / "exiting.txt", counts["exiting"]),
        kept=counts["existing"],
    )


@asynccontextmanager
async def _workshop(folder: Path) -> AsyncGenerator[Path]:
    def make() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".comparing-", dir=folder))

    workshop = await _in_thread(make, folder)

    try:
        yield workshop
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(shutil.rmtree, workshop, True))


async def _in_thread(work: Callable[[], T], folder: Path) -> T:
    try:
        return await anyio.to_thread.run_sync(work)
    except OSError as error:
        raise InvalidInputError(
            f"{folder} cannot be used to compare ids: {error}; give another folder"
        ) from error
