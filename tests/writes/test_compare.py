"""Two sets of ids are compared without a service."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async import IdType, diff_ids, errors
from amplitude_cohorts_async._writes import compare as compare_module
from amplitude_cohorts_async.models import MembershipDiff
from support.exporting import names_in
from support.holding import Held
from support.processes import in_child

NAMES = ["entering.txt", "existing.txt", "exiting.txt"]
EXPORT = '"amplitude_id","user_id"\n"1","ann"\n"2",\n"3","bob"\n'


async def test_two_lists_are_compared_in_memory():
    """What is added, what is removed, in the order it was given."""
    found = await diff_ids(["ann", "bob", "ann"], ["zoe", "bob", "yan"])

    assert MembershipDiff(add=["zoe", "yan"], remove=["ann"], kept=1) == found


@pytest.mark.parametrize("on_disk", [False, True])
async def test_a_folder_gets_three_files(tmp_path: Path, on_disk: bool):
    """
    A saved export against a list: the result reads from the files, and counts them.
    """
    export = tmp_path / "members.csv"
    export.write_text(EXPORT)
    found = await diff_ids(export, ["bob", "zoe"], tmp_path, on_disk=on_disk)

    assert (1, 1, 1, 1) == (
        len(found.add),
        len(found.remove),
        found.kept,
        found.unnameable,
    )
    assert (["zoe"], ["ann"]) == (list(found.add), list(found.remove))
    assert "bob\n" == (tmp_path / "existing.txt").read_text()


async def test_members_are_compared_by_the_id_asked_for(tmp_path: Path):
    """An anonymous user has Amplitude's id."""
    export = tmp_path / "members.csv"
    export.write_text(EXPORT)
    found = await diff_ids(export, ["1", "4"], id_type=IdType.AMPLITUDE_ID)

    assert (["4"], ["2", "3"], 0) == (found.add, found.remove, found.unnameable)


async def test_more_ids_than_a_cohort_holds(monkeypatch: pytest.MonkeyPatch):
    """All of them are compared, not only as many as a cohort could have."""
    monkeypatch.setattr(compare_module, "MOST_MEMBERS", 10)
    ids = [f"user-{number}" for number in range(3_000)]
    found = await diff_ids(ids, [*ids, "new"])

    assert (["new"], [], 3_000) == (found.add, found.remove, found.kept)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("moment", ["mkdir", "replace"])
async def test_a_cancelled_comparison_ends_what_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool, moment: str
):
    """The three files are of one comparison, and no folder stays behind."""
    await diff_ids(["a", "b"], ["b", "c"], tmp_path, on_disk=on_disk)
    original, held = getattr(Path, moment), Held()

    def slow(path: Path, *args: Any, **keywords: Any) -> object:
        """Do it, and let the test cancel meanwhile."""
        result = original(path, *args, **keywords)
        held.hold()
        return result

    monkeypatch.setattr(Path, moment, slow)
    ids = (["p", "q"], ["q", "r"])
    task = asyncio.create_task(diff_ids(*ids, tmp_path, on_disk=on_disk))
    await held.cancel_meanwhile(task)

    assert NAMES == names_in(tmp_path)
    texts = "".join((tmp_path / name).read_text().strip() for name in NAMES)
    assert ("cba" if moment == "mkdir" else "rqp") == texts


@pytest.mark.posix
def test_what_a_killed_comparison_left_is_removed(tmp_path: Path):
    """No id stays in a hidden folder: the next comparison there removes it."""

    def killing() -> Iterator[str]:
        """End the process while it reads the second side."""
        yield "ann"
        os.kill(os.getpid(), signal.SIGKILL)

    def compared() -> None:
        """Compare on disk."""
        asyncio.run(diff_ids(killing(), ["bob"], tmp_path, on_disk=True))

    assert -signal.SIGKILL == in_child(compared)
    assert [".comparing-"] == [name[:11] for name in names_in(tmp_path)]

    asyncio.run(diff_ids(["a"], ["b"], tmp_path))

    assert NAMES == names_in(tmp_path)


async def test_a_comparison_that_still_runs_keeps_its_folder(tmp_path: Path):
    """Another one in the same folder removes nothing of it."""

    async def comparing() -> AsyncIterator[str]:
        """Compare something else before the second side is read."""
        await diff_ids(["a"], ["b"], tmp_path, on_disk=True)
        yield "ann"

    found = await diff_ids(comparing(), ["ann", "bob"], tmp_path, on_disk=True)

    assert (["bob"], 1) == (list(found.add), found.kept)
    assert NAMES == names_in(tmp_path)


@pytest.mark.posix
@pytest.mark.parametrize("name", [".comparing-mine", ".comparing-0123456789abcdef"])
async def test_what_is_no_folder_of_a_comparison_stays(tmp_path: Path, name: str):
    """A folder of another name stays; and a link is not followed."""
    place = tmp_path / ".comparing-mine"
    place.mkdir()
    (place / "a.txt").touch()
    if place.name != name:
        (tmp_path / name).symlink_to(place.name)

    await diff_ids(["a"], ["b"], tmp_path)

    assert ["a.txt"] == names_in(tmp_path / name)


async def test_comparing_on_disk_needs_a_folder():
    """The message names the argument."""
    with pytest.raises(errors.InvalidInputError, match="pass folder="):
        await diff_ids([], [], on_disk=True)
