"""Two sets of ids are compared without a service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async import IdType, diff_ids, errors
from amplitude_cohorts_async._writes import compare as compare_module
from amplitude_cohorts_async.models import MembershipDiff
from support.holding import Held

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

    names = ("entering.txt", "existing.txt", "exiting.txt")
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    texts = "".join((tmp_path / name).read_text().strip() for name in names)
    assert ("cba" if moment == "mkdir" else "rqp") == texts


async def test_comparing_on_disk_needs_a_folder():
    """The message names the argument."""
    with pytest.raises(errors.InvalidInputError, match="pass folder="):
        await diff_ids([], [], on_disk=True)
