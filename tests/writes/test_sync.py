"""A cohort made equal to a set, with as few changes as possible."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async import CohortsClient, errors, read_ids
from amplitude_cohorts_async._io.http.transport import Transport
from amplitude_cohorts_async._writes import batches as batches_module
from amplitude_cohorts_async._writes import compare as compare_module
from amplitude_cohorts_async._writes import sync as sync_module
from amplitude_cohorts_async.events import BatchWritten, Event
from amplitude_cohorts_async.models import IdType, SyncReport
from amplitude_cohorts_async.testing import CohortsEmulator, Quotas
from amplitude_cohorts_async.testing.faults import broken, hang
from support.canary import API_KEY, SECRET_KEY

COHORT = "1a2bc3d"


@pytest.fixture
def batches_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ids a request, so that a few ids make many."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 10)


async def test_a_sync_spends_one_export_and_changes_what_differs(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Who stays is not touched; the report has all of it."""
    emulator.add_cohort(COHORT, members=["ann", "bob", "eve"])
    report = await client.sync_membership(COHORT, ["ann", "bob", "zoe", "unknown-1"])

    assert (["zoe", "unknown-1"], ["eve"]) == (report.add, report.remove)
    assert (2, 0) == (report.kept, report.unnameable)
    assert report.applied is not None
    assert ["unknown-1"] == report.applied.added.skipped_ids
    assert {"ann", "bob", "zoe"} == emulator.members_of(COHORT)
    assert (1, 1) == (emulator.spent, emulator.requests("membership"))


@pytest.mark.slow
@pytest.mark.usefixtures("batches_of_ten")
@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    before=st.sets(st.integers(0, 60), min_size=1),
    wanted=st.lists(st.integers(0, 60), min_size=1),
    on_disk=st.booleans(),
)
async def test_any_set_becomes_any_other(  # noqa: PLR0917 - hypothesis and fixtures fill them
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    before: set[int],
    wanted: list[int],
    on_disk: bool,
):
    """In memory or on disk: the wanted set, and only necessary changes."""
    current = sorted(str(number) for number in before)
    emulator.add_cohort(COHORT, members=current)
    report = await client.sync_membership(
        COHORT,
        iter(wanted),
        current=current,
        max_removed=1.0,
        on_disk=tmp_path / "folder" if on_disk else None,
    )
    want = {str(number) for number in wanted}

    assert want == emulator.members_of(COHORT)
    assert want - set(current) == set(report.add)
    assert set(current) - want == set(report.remove)
    assert len(report.add) == len(set(report.add))
    assert len(want & set(current)) == report.kept
    assert 0 == emulator.spent


async def test_a_dry_run_writes_nothing(
    client: CohortsClient, emulator: CohortsEmulator
):
    """It tells even what the guard would refuse."""
    emulator.add_cohort(COHORT, members=["ann", "bob"])
    report = await client.sync_membership(COHORT, [], dry_run=True)

    assert SyncReport(cohort_id=COHORT, add=[], remove=["ann", "bob"], kept=0) == report
    assert 0 == emulator.requests("membership")


async def test_a_cohort_in_step_is_left_alone(
    client: CohortsClient, emulator: CohortsEmulator
):
    """No difference, no request."""
    emulator.add_cohort(COHORT, members=["ann"])
    report = await client.sync_membership(COHORT, ["ann"])

    assert report.applied is not None
    assert (0, 0) == (report.applied.added.sent, report.applied.removed.sent)
    assert 0 == emulator.requests("membership")


async def test_the_guard_refuses_to_remove_too_many(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Half may go by default; the error has the numbers, and the export's token."""
    emulator.add_cohort(COHORT, members=["ann", "bob", "eve", "zoe"])

    with pytest.raises(errors.RemovalGuardError, match="3 of the 4 members") as raised:
        await client.sync_membership(COHORT, ["ann"])

    assert (3, 4, 0.5) == (
        raised.value.removed,
        raised.value.current,
        raised.value.max_removed,
    )
    assert raised.value.token is not None
    assert client.resume_export(raised.value.token).cohort_id == COHORT
    assert 4 == len(emulator.members_of(COHORT))

    await client.sync_membership(COHORT, ["ann", "bob"])
    await client.sync_membership(COHORT, ["bob"], max_removed=0.5)
    await client.sync_membership(COHORT, [], max_removed=1.0)

    assert set() == emulator.members_of(COHORT)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"ids": []}, "remove every member"),
        ({"ids": ["ann", ""]}, "id number 2 is empty"),
        ({"max_removed": 50}, "from 0.0 to 1.0"),
        ({"max_removed": "half"}, "from 0.0 to 1.0"),
        ({"journal": "journal"}, "sync again instead"),
        ({"journal": "journal", "current": {"ann"}}, r"sorted\(ids\)"),
        ({"cohort_id": ""}, "cohort id"),
        ({"on_disk": __file__}, "give another folder"),
        ({"current": Path("/nowhere")}, "cannot be read"),
    ],
)
async def test_mistakes_spend_no_export(
    client: CohortsClient,
    emulator: CohortsEmulator,
    arguments: dict[str, object],
    reason: str,
):
    """What is wanted is read to its end before the members are asked for."""
    keywords = {"cohort_id": COHORT, "ids": ["ann"], **arguments}

    with pytest.raises(errors.InvalidInputError, match=reason):
        await client.sync_membership(**keywords)  # type: ignore[arg-type]

    assert [] == emulator.log


async def test_more_than_a_cohort_holds_is_refused(
    client: CohortsClient,
    emulator: CohortsEmulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """Different ids count, not repeated ones."""
    monkeypatch.setattr(sync_module, "MOST_MEMBERS", 3)
    monkeypatch.setattr(compare_module, "MOST_MEMBERS", 3)

    for folder in (None, tmp_path):
        with pytest.raises(errors.InvalidInputError, match=r"that many .*Kinesis"):
            await client.sync_membership(COHORT, list("abcdabcd"), on_disk=folder)

    await client.sync_membership(
        COHORT, list("abcabc"), current=["a"], dry_run=True, on_disk=tmp_path
    )

    assert [] == emulator.log


async def test_members_without_the_id_are_counted(
    client: CohortsClient, emulator: CohortsEmulator
):
    """A sync by user id cannot name anonymous members: it says how many."""
    members = [("111", "ann"), ("222", None), ("333", "b\nob"), ("444", "eve")]
    emulator.add_cohort(COHORT, members=members)
    report = await client.sync_membership(COHORT, ["ann", "eve"])

    assert (2, 2, []) == (report.kept, report.unnameable, report.remove)

    report = await client.sync_membership(
        COHORT, [111, 222, 555], id_type=IdType.AMPLITUDE_ID
    )

    assert (2, 0) == (report.kept, report.unnameable)
    assert (["555"], ["333", "444"]) == (report.add, report.remove)


async def test_groups_are_synced_by_name(
    client: CohortsClient, emulator: CohortsEmulator
):
    """The file's TABs are gone before names are compared."""
    emulator.add_cohort(COHORT, members=["Acme", "Hooli"], group="company")
    report = await client.sync_membership(
        COHORT, ["Acme", "Initech"], count_group="company"
    )

    assert (["Initech"], ["Hooli"], 1) == (report.add, report.remove, report.kept)
    assert {"Acme", "Initech"} == emulator.members_of(COHORT)


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_a_saved_export_tells_the_members(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, name: str
):
    """Plain or gzip, it spares the export; a list of ids does so, too."""
    emulator.add_cohort(COHORT, members=["ann", "bob", ("333", None)])
    await client.export(COHORT, tmp_path / name)
    ids = tmp_path / "ids.txt"
    ids.write_text("ann\r\nbob\r\n")
    reports = [
        await client.sync_membership(
            COHORT, ["ann", "zoe"], current=known, dry_run=True
        )
        for known in (tmp_path / name, ids, read_ids(ids), ["ann", "bob"])
    ]

    assert [(["zoe"], ["bob"])] * 4 == [(each.add, each.remove) for each in reports]
    assert [1, 0, 0, 0] == [each.unnameable for each in reports]
    assert 1 == emulator.spent


async def test_a_malformed_file_of_members_is_refused(
    client: CohortsClient, tmp_path: Path
):
    """The message says where it broke."""
    file = tmp_path / "members.csv"
    file.write_text('"amplitude_id","user_id"\n"1"\n')

    with pytest.raises(errors.InvalidInputError, match="line 2"):
        await client.sync_membership(COHORT, ["ann"], current=file)


async def test_a_full_cohort_makes_room_first(
    emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """Adding first would overflow it; otherwise adding comes first."""
    heard: list[Event] = []
    monkeypatch.setattr(sync_module, "MOST_MEMBERS", 3)

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, hook=heard.append
    ) as watched:
        for members, wanted in (("ab", "bc"), ("abc", "bcd")):
            emulator.add_cohort(COHORT, members=list(members))
            await watched.sync_membership(COHORT, list(wanted), current=list(members))

    order = [event.operation for event in heard if isinstance(event, BatchWritten)]

    assert ["add", "remove", "remove", "add"] == order


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_known_start_can_be_resumed_from_a_journal(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """With *current* given, the same call does only what is left."""
    journal = tmp_path / "journal"
    emulator.add_cohort(COHORT, members=["ann"])
    wanted = ["ann", *map(str, range(25))]
    emulator.fail_next("membership", *[broken(501)])

    with pytest.raises(errors.ServerError):
        await client.sync_membership(COHORT, wanted, current=["ann"], journal=journal)

    for resumed in (0, 3):
        report = await client.sync_membership(
            COHORT, wanted, current=["ann"], journal=journal
        )
        assert report.applied is not None
        assert resumed == report.applied.added.resumed

    assert set(wanted) == emulator.members_of(COHORT)


class Killed(BaseException):
    """The end of the process, as far as our code can tell."""


async def crash_until_in_step(
    monkeypatch: pytest.MonkeyPatch, current: list[str], wanted: list[str], kills: int
) -> int:
    """Sync, killed at random moments and begun again; count accepted requests."""
    chance = random.Random(4)
    send = Transport.send
    accepted, left = 0, kills

    async def mortal(self: Transport, request: object) -> object:
        nonlocal accepted, left
        fate = chance.choice(["before", "after", "never"]) if left else "never"
        left -= fate != "never"
        if fate == "before":
            raise Killed
        response = await send(self, request)  # type: ignore[arg-type]
        accepted += 1
        if fate == "after":
            raise Killed
        return response

    monkeypatch.setattr(Transport, "send", mortal)

    async with (
        CohortsEmulator(
            api_key=API_KEY, secret_key=SECRET_KEY, quotas=Quotas.unlimited()
        ) as emulator,
        CohortsClient(API_KEY, SECRET_KEY, base_url=emulator.base_url) as client,
    ):
        emulator.add_cohort(COHORT, members=current)
        members = current

        while True:
            try:
                await client.sync_membership(COHORT, wanted, current=members)
                break
            except Killed:
                members = list(emulator.members_of(COHORT))

        assert set(wanted) == emulator.members_of(COHORT)
        assert not left

    return accepted


@pytest.mark.slow
@pytest.mark.usefixtures("batches_of_ten")
async def test_crashes_converge_with_minimal_operations(
    monkeypatch: pytest.MonkeyPatch,
):
    """
    Killed before or after random requests, it ends in the wanted set, and no
    change is made twice.
    """
    current = [f"user-{number}" for number in range(1_000)]
    wanted = current[200:] + [f"new-{number}" for number in range(200)]

    assert 40 == await crash_until_in_step(monkeypatch, current, wanted, kills=25)


@pytest.mark.big
async def test_crashes_of_a_million_converge_with_minimal_operations(
    monkeypatch: pytest.MonkeyPatch,
):
    """The same at the size that matters: two requests of adds, two of removes."""
    current = [f"user-{number}" for number in range(1_000_000)]
    wanted = current[200_000:] + [f"new-{number}" for number in range(200_000)]

    assert 4 == await crash_until_in_step(monkeypatch, current, wanted, kills=2)


async def test_a_cancelled_sync_has_the_token_of_its_export(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Also while it writes: the members need not be exported again."""
    emulator.add_cohort("c1", members=["ann", "bob"])
    emulator.fail_next("membership", hang())
    task = asyncio.create_task(client.sync_membership("c1", ["ann", "zoe"]))

    while not emulator.requests("membership"):  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    (note,) = caught.value.__notes__
    token = note.partition(": ")[2]
    assert "c1" == client.resume_export(token).cohort_id
    assert 1 == emulator.spent
