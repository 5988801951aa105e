"""Members in and out, in batches, one request at a time for each cohort."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async import CohortsClient, errors
from amplitude_cohorts_async._writes import batches as batches_module
from amplitude_cohorts_async._writes import id_stream as id_stream_module
from amplitude_cohorts_async._writes import membership as membership_module
from amplitude_cohorts_async._writes import writer as writer_module
from amplitude_cohorts_async.models import (
    IdType,
    MembershipOperation,
    MembershipReport,
    OperationReport,
)
from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import broken, lost_answer, refused, works
from support.fault_server import FaultServer, json_reply
from support.holding import Held

COHORT = "1a2bc3d"


@pytest.fixture
def batches_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ids a request, so that a few ids make many."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 10)
    monkeypatch.setattr(id_stream_module, "MOST_IDS", 10)


def users(start: int, stop: int) -> list[str]:
    """User ids with these numbers."""
    return [f"user-{number}" for number in range(start, stop)]


async def test_ids_are_added_and_removed(
    client: CohortsClient, emulator: CohortsEmulator
):
    """In one request; the report has both, and all that was skipped."""
    emulator.add_cohort(COHORT, members=["ann", "bob"])
    report = await client.update_membership(
        COHORT, add=["eve", "unknown-1", 7, "eve"], remove=["bob", "unknown-2"]
    )

    assert (
        MembershipReport(
            cohort_id=COHORT,
            added=OperationReport(sent=3, skipped_ids=["unknown-1"], batches=1),
            removed=OperationReport(sent=2, skipped_ids=["unknown-2"], batches=1),
        )
        == report
    )
    assert {"ann", "eve", "7"} == emulator.members_of(COHORT)
    assert 1 == emulator.requests("membership")


@pytest.mark.usefixtures("batches_of_ten")
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    before=st.sets(st.integers(0, 50), min_size=1),
    add=st.lists(st.integers(0, 25)),
    remove=st.lists(st.integers(26, 50)),
    one_shot=st.tuples(st.booleans(), st.booleans()),
)
async def test_members_end_as_sets_do(  # noqa: PLR0917 - hypothesis and fixtures fill them
    client: CohortsClient,
    emulator: CohortsEmulator,
    before: set[int],
    add: list[int],
    remove: list[int],
    one_shot: tuple[bool, bool],
):
    """The cohort is what it was, with the one set and without the other."""
    emulator.add_cohort(COHORT, members=[str(number) for number in before])

    if add or remove:
        await client.update_membership(
            COHORT,
            add=iter(add) if one_shot[0] else add,
            remove=iter(remove) if one_shot[1] else remove,
        )

    expected = {str(number) for number in (before | set(add)) - set(remove)}

    assert expected == emulator.members_of(COHORT)
    assert [] == emulator.violations


async def test_amplitude_ids_and_groups(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Ids of either type; groups go by their name and the cohort's count group."""
    emulator.add_cohort("users", members=[("111", "ann")])
    emulator.add_cohort("groups", members=["Acme"], group="company")

    await client.update_membership("users", add=[222], id_type=IdType.AMPLITUDE_ID)
    await client.update_membership(
        "groups", add=["Initech"], remove=["Acme"], count_group="company"
    )

    with pytest.raises(errors.BadRequestError, match="count_group must be company"):
        await client.update_membership("groups", add=["Hooli"])

    assert {"111", "222"} == emulator.members_of("users", by="amplitude_id")
    assert {"Initech"} == emulator.members_of("groups")


@pytest.mark.usefixtures("batches_of_ten")
@pytest.mark.parametrize("one_shot", [(False, False), (True, False)])
async def test_an_overlap_is_refused_before_anything_is_sent(
    client: CohortsClient, emulator: CohortsEmulator, one_shot: tuple[bool, bool]
):
    """Also when it stands in the last batches, and when the adds are a stream."""
    ids = users(0, 30)

    with pytest.raises(errors.InvalidInputError, match=r"both .*'user-29'"):
        await client.update_membership(
            COHORT,
            add=iter(ids) if one_shot[0] else ids,
            remove=users(29, 60),
        )

    assert [] == emulator.log


async def test_an_overlap_of_streams_is_found_when_they_meet(
    client: CohortsClient, emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """Streams too long to look ahead: what is added already is told."""
    monkeypatch.setattr(id_stream_module, "MOST_IDS", 10)
    emulator.add_cohort(COHORT, members=["ann"])

    with pytest.raises(errors.PartialWriteError, match="both added and removed"):
        await client.update_membership(
            COHORT, add=iter(users(0, 30)), remove=iter(users(29, 60))
        )

    assert {"ann", *users(0, 30)} == emulator.members_of(COHORT)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "no ids to add"),
        ({"add": [], "remove": iter(())}, "no ids to add"),
        ({"add": "ann"}, "given as one text"),
        ({"remove": [None]}, "leave out what has no id"),
        ({"add": ["ann"], "count_group": ""}, "count_group must be text"),
        ({"add": ["ann"], "id_type": "BY_NAME"}, "IdType.USER_ID"),
    ],
)
async def test_mistakes_send_nothing(
    client: CohortsClient,
    emulator: CohortsEmulator,
    arguments: dict[str, object],
    reason: str,
):
    """The message says what to give instead."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        await client.update_membership(COHORT, **arguments)  # type: ignore[arg-type]

    assert [] == emulator.log


async def test_more_than_a_cohort_holds_cannot_be_added(
    client: CohortsClient, emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """Removing may name any number."""
    monkeypatch.setattr(membership_module, "MOST_MEMBERS", 3)
    emulator.add_cohort(COHORT, members=["ann"])

    with pytest.raises(errors.InvalidInputError, match="more than 3 different"):
        await client.update_membership(COHORT, add=users(0, 4))

    await client.update_membership(COHORT, remove=users(0, 4))

    assert 1 == emulator.requests("membership")


async def test_unknown_ids_fail_the_update_if_wanted(
    client: CohortsClient, emulator: CohortsEmulator
):
    """The error names them, and nobody was added."""
    emulator.add_cohort(COHORT, members=["ann"])

    with pytest.raises(errors.InvalidIdsError) as raised:
        await client.update_membership(
            COHORT, add=["bob", "unknown-1"], skip_invalid_ids=False
        )

    assert ["unknown-1"] == raised.value.sample
    assert {"ann"} == emulator.members_of(COHORT)


async def test_the_documented_example_goes_out_as_it_is(
    server: FaultServer, exporter: CohortsClient
):
    """
    Byte for byte, in one request: additions and removals by id, additions by name.
    """
    example = (
        b'{"cohort_id":"1a2bc3d","memberships":['
        b'{"ids":["111","222"],"id_type":"BY_ID","operation":"ADD"},'
        b'{"ids":["333","444"],"id_type":"BY_ID","operation":"REMOVE"},'
        b'{"ids":["asd","qwe"],"id_type":"BY_NAME","operation":"ADD"}],'
        b'"skip_invalid_ids":true}'
    )
    server.on("/api/3/cohorts/membership", json_reply({"cohort_id": "1a2bc3d"}))
    await exporter.update_membership(
        "1a2bc3d",
        operations=[
            MembershipOperation("ADD", ["111", "222"], IdType.AMPLITUDE_ID),
            MembershipOperation("REMOVE", ["333", "444"], IdType.AMPLITUDE_ID),
            MembershipOperation("ADD", ["asd", "qwe"]),
        ],
    )

    assert [example] == [seen.body for seen in server.seen]


@pytest.mark.usefixtures("batches_of_ten")
async def test_operations_share_requests(
    client: CohortsClient, emulator: CohortsEmulator
):
    """
    Each begins where the one before it ends; there is a report for each of them.
    """
    emulator.add_cohort(COHORT, members=users(100, 110))
    report = await client.update_membership(
        COHORT,
        operations=[
            MembershipOperation("ADD", [*users(0, 15), "unknown-1"]),
            MembershipOperation("REMOVE", users(100, 110)),
            MembershipOperation("ADD", [111, 222, 333], IdType.AMPLITUDE_ID),
        ],
    )

    assert [10, 10, 9] == [record.ids for record in emulator.log]
    assert (
        OperationReport(sent=16, skipped_ids=["unknown-1"], batches=2),
        OperationReport(sent=10, batches=2, skipped_ids=[]),
        OperationReport(sent=3, batches=1, skipped_ids=[]),
    ) == report.operations
    assert (19, 10) == (report.added.sent, report.removed.sent)
    assert {*users(0, 15), "111", "222", "333"} == emulator.members_of(COHORT)
    assert [] == emulator.violations


@pytest.mark.usefixtures("batches_of_ten")
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    operations=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 25)), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
async def test_any_operations_end_as_sets_do(
    client: CohortsClient,
    emulator: CohortsEmulator,
    operations: list[tuple[bool, list[int], bool]],
):
    """Any number of them, of lists and of streams; no id is sent twice."""
    emulator.add_cohort(COHORT, members=["30", *map(str, range(60, 80))])
    added = {str(i) for adds, ids, _ in operations if adds for i in ids}
    removed = {str(i + 60) for adds, ids, _ in operations if not adds for i in ids}
    sent = sum(record.ids or 0 for record in emulator.log)

    if added or removed:
        await client.update_membership(
            COHORT,
            operations=[
                MembershipOperation("ADD", iter(ids) if streams else ids)
                if adds
                else MembershipOperation("REMOVE", [i + 60 for i in ids])
                for adds, ids, streams in operations
            ],
        )

    expected = ({"30", *map(str, range(60, 80))} | added) - removed
    assert expected == emulator.members_of(COHORT)
    assert len(added) + len(removed) == (
        sum(record.ids or 0 for record in emulator.log) - sent
    )


async def test_a_strict_update_is_one_step(
    client: CohortsClient, emulator: CohortsEmulator
):
    """While it is one request, an unknown id to remove keeps another from being added."""
    emulator.add_cohort(COHORT, members=["ann", "bob"])

    with pytest.raises(errors.InvalidIdsError) as raised:
        await client.update_membership(
            COHORT, add=["a3"], remove=["unknown-1"], skip_invalid_ids=False
        )

    assert ["unknown-1"] == raised.value.sample
    assert {"ann", "bob"} == emulator.members_of(COHORT)


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_longer_strict_update_says_what_stays(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Repeating it would fail in the same way, so the error gives other advice."""
    emulator.add_cohort(COHORT, members=["ann"])
    ids = [*users(0, 10), "unknown-1"]

    with pytest.raises(errors.PartialWriteError) as raised:
        await client.update_membership(COHORT, add=ids, skip_invalid_ids=False)

    assert "1 batches (10 ids) are written" in str(raised.value)
    assert "what earlier ones wrote stays" in str(raised.value)
    assert "repeating" not in str(raised.value)
    assert {"ann", *users(0, 10)} == emulator.members_of(COHORT)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"operations": []}, "no ids to add"),
        ({"operations": [MembershipOperation("ADD", [])]}, "no ids to add"),
        ({"operations": [("ADD", ["ann"])]}, "holds a tuple"),
        (
            {"operations": [MembershipOperation("ADD", ["a"])], "add": ["b"]},
            "put all of them into operations=",
        ),
        (
            {
                "operations": [
                    MembershipOperation("REMOVE", ["ann"]),
                    MembershipOperation("ADD", ["ann"]),
                ]
            },
            "both added and removed",
        ),
        (
            {"operations": [MembershipOperation("ADD", ["a"], IdType.AMPLITUDE_ID)]},
            "'a', and an Amplitude id is a number",
        ),
        (
            {"operations": [MembershipOperation("ADD", ["a"], "BY_ID")]},  # type: ignore[arg-type]
            "IdType.USER_ID",
        ),
    ],
)
async def test_operations_that_cannot_be_sent(
    client: CohortsClient,
    emulator: CohortsEmulator,
    arguments: dict[str, object],
    reason: str,
):
    """They are refused with what to pass instead."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        await client.update_membership(COHORT, **arguments)  # type: ignore[arg-type]

    assert [] == emulator.log


def test_an_operation_adds_or_removes():
    """The page has two words, and no others."""
    with pytest.raises(errors.InvalidInputError, match='"ADD" or "REMOVE"'):
        MembershipOperation("add", ["ann"])  # type: ignore[arg-type]


@pytest.mark.usefixtures("batches_of_ten")
async def test_operations_go_on_from_their_journal(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """What was written is not sent again; another list of operations is refused."""
    journal = tmp_path / "journal"
    emulator.add_cohort(COHORT, members=users(100, 110))
    emulator.fail_next("membership", works(), refused(400, "no"))
    operations = [
        MembershipOperation("ADD", users(0, 5)),
        MembershipOperation("REMOVE", users(100, 110)),
        MembershipOperation("ADD", users(5, 10)),
    ]

    with pytest.raises(errors.PartialWriteError):
        await client.update_membership(COHORT, operations=operations, journal=journal)

    with pytest.raises(errors.InvalidInputError, match="operations="):
        await client.update_membership(
            COHORT, operations=operations[:2], journal=journal
        )

    report = await client.update_membership(
        COHORT, operations=operations, journal=journal
    )

    assert [1, 1, 0] == [operation.resumed for operation in report.operations]
    assert [5, 10, 5] == [operation.sent for operation in report.operations]
    assert 3 == emulator.requests("membership")
    assert set(users(0, 10)) == emulator.members_of(COHORT)


@pytest.mark.usefixtures("batches_of_ten")
async def test_lost_answers_are_asked_for_again(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Sets do not mind being told twice."""
    emulator.add_cohort(COHORT, members=users(100, 115))
    emulator.fail_next(
        "membership", lost_answer(), broken(503), works(), lost_answer(), broken(500)
    )
    report = await client.update_membership(
        COHORT, add=users(0, 15), remove=users(100, 115)
    )

    assert (2, 2) == (report.added.batches, report.removed.batches)
    assert set(users(0, 15)) == emulator.members_of(COHORT)


@pytest.mark.usefixtures("batches_of_ten")
async def test_writers_of_one_cohort_take_turns(
    client: CohortsClient, emulator: CohortsEmulator
):
    """The service refuses concurrent writes to a cohort; it never sees any."""
    emulator.add_cohort(COHORT, members=["ann"])

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            ids = users(100 * number, 100 * number + 25)
            tasks.start_soon(_add, client, ids)

    assert 101 == len(emulator.members_of(COHORT))
    assert [] == emulator.violations


async def _add(client: CohortsClient, ids: list[str]) -> None:
    await client.update_membership(COHORT, add=ids)


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_partial_update_goes_on_from_its_journal(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """What was written is not sent again, neither adds nor removes."""
    journal = tmp_path / "journal"
    emulator.add_cohort(COHORT, members=users(100, 125))
    emulator.fail_next("membership", *[works()] * 4, refused(400, "no"))
    changes = {"add": users(0, 25), "remove": users(100, 125)}

    with pytest.raises(errors.PartialWriteError) as raised:
        await client.update_membership(COHORT, **changes, journal=journal)  # type: ignore[arg-type]

    sent = emulator.requests("membership")
    report = await client.update_membership(COHORT, **changes, journal=journal)  # type: ignore[arg-type]

    # Of five requests, the third one has five ids to add and five to remove.
    assert 5 == raised.value.next_batch
    assert (3, 2) == (report.added.resumed, report.removed.resumed)
    assert (25, 25) == (report.added.sent, report.removed.sent)
    assert 1 == emulator.requests("membership") - sent
    assert set(users(0, 25)) == emulator.members_of(COHORT)


async def test_the_first_failure_is_itself(
    client: CohortsClient, emulator: CohortsEmulator
):
    """While nothing is written there is nothing partial about it."""
    with pytest.raises(errors.NotFoundError):
        await client.update_membership("nowhere", add=["ann"])

    def stream() -> Iterator[str]:
        yield "ann"
        raise KeyError("database")

    with pytest.raises(KeyError):
        await client.update_membership("nowhere", add=stream())


async def test_a_batch_is_recorded_and_told_despite_a_cancellation(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A resumed write does not send it again, so nothing else names what it skipped."""
    emulator.add_cohort("c1", members=["ann"])
    journal, skipped = tmp_path / "journal", list[str]()
    append, held = writer_module._append, Held()

    def slow(file: FileIO, line: bytes) -> None:
        """Append a line, and let the test cancel meanwhile if it is a batch's."""
        if b"digest" in line:
            held.hold()
        append(file, line)

    async def update() -> MembershipReport:
        return await client.update_membership(
            "c1", add=["bob", "unknown-1"], journal=journal, on_skipped=skipped.extend
        )

    monkeypatch.setattr(writer_module, "_append", slow)
    await held.cancel_meanwhile(asyncio.create_task(update()))

    assert ["unknown-1"] == skipped
    assert 1 == (await update()).added.resumed
    assert 1 == emulator.requests("membership")
