"""Uploads and memberships, taken strictly."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async.testing import (
    Assumptions,
    CohortsEmulator,
    FakeClock,
    Quotas,
)
from amplitude_cohorts_async.testing.cohorts import ListedMembers, amplitude_id_of
from emulator.calling import Caller, Reply, calling

UPLOAD = "/api/3/cohorts/upload"
MEMBERSHIP = "/api/3/cohorts/membership"


def upload(**changes: object) -> dict[str, object]:
    """Return the body of a good upload, but for these changes; None leaves out."""
    body: dict[str, object] = {
        "name": "New Cohort",
        "app_id": 153957,
        "id_type": "BY_USER_ID",
        "ids": ["ann", "bob"],
        "owner": "datamonster@amplitude.com",
        "published": True,
    } | changes

    return {name: value for name, value in body.items() if value is not None}


def change(operation: str, *ids: object, id_type: str = "BY_NAME") -> dict[str, object]:
    """Return one entry of an update."""
    return {"ids": list(ids), "id_type": id_type, "operation": operation}


async def update(caller: Caller, *entries: object, **more: object) -> Reply:
    """Update the memberships of cohort c1."""
    body = {"cohort_id": "c1", "memberships": list(entries), **more}

    return await caller.post(MEMBERSHIP, body)


async def test_an_upload_is_a_cohort(caller: Caller, emulator: CohortsEmulator) -> None:
    """It is listed, exported and written to like any other."""
    made = (await caller.post(UPLOAD, upload())).json["cohortId"]
    (listed,) = (await caller.get("/api/3/cohorts")).json["cohorts"]
    file = await caller.file(await caller.export(made))

    assert (made, "New Cohort", 2) == (listed["id"], listed["name"], listed["size"])
    assert "manual_upload" == listed["type"]
    assert ["datamonster@amplitude.com"] == listed["owners"]
    assert listed["createdAt"] == listed["lastMod"] == listed["lastComputed"]
    assert b'"ann"\n' in gzip.decompress(file.body)
    assert 2 == emulator.log[0].ids


@pytest.mark.parametrize(
    ("changes", "details"),
    [
        ({"name": None}, "missing required field name"),
        ({"app_id": None}, "missing required field app_id"),
        ({"id_type": None}, "missing required field id_type"),
        ({"ids": None}, "missing required field ids"),
        ({"owner": None}, "missing required field owner"),
        ({"published": None}, "missing required field published"),
        ({"name": ""}, "name is empty"),
        ({"name": 7}, "name must be a JSON string"),
        ({"app_id": "153957"}, "app_id must be a JSON integer"),
        ({"app_id": True}, "app_id must be a JSON integer"),
        ({"app_id": 1}, "app_id 1 is not the project"),
        ({"published": 1}, "published must be a JSON boolean"),
        ({"published": "true"}, "published must be a JSON boolean"),
        ({"id_type": "BY_ID"}, "BY_USER_ID, BY_AMP_ID, not BY_ID"),
        ({"id_type": "BY_NAME"}, "not BY_NAME"),
        ({"ids": []}, "ids is empty"),
        ({"ids": "ann"}, "ids must be a JSON array"),
        ({"ids": ["ann", 7]}, "ids must be a JSON array of strings"),
        ({"ids": ["unknown-1"]}, "No valid ids"),
        ({"group": "company"}, "unknown field group"),
        ({"cg": 3}, "cg must be a JSON string"),
        ({"skip_save": "yes"}, "skip_save must be a JSON boolean"),
    ],
)
async def test_bad_uploads(
    caller: Caller, emulator: CohortsEmulator, changes: dict[str, object], details: str
) -> None:
    """Every field has its type; nothing is made of a bad one."""
    reply = await caller.post(UPLOAD, upload(**changes))

    assert 400 == reply.status
    assert details in reply.details
    assert [] == emulator.cohort_ids


@pytest.mark.parametrize(
    ("body", "kind", "details"),
    [
        (b"{", "application/json", "not JSON"),
        (b"[]", "application/json", "not a JSON object"),
        (b"{}", "text/plain", "Content-Type must be application/json"),
    ],
)
async def test_bad_bodies(
    caller: Caller, emulator: CohortsEmulator, body: bytes, kind: str, details: str
) -> None:
    """A body is a JSON object, and says so."""
    reply = await caller.send(
        "POST",
        emulator.base_url + UPLOAD,
        headers={"Authorization": caller.auth, "Content-Type": kind},
        body=body,
    )

    assert 400 == reply.status
    assert details in reply.details
    assert "body" == emulator.violations[0].rule


@pytest.mark.parametrize("path", [UPLOAD, MEMBERSHIP])
async def test_a_hundred_thousand_at_most(
    caller: Caller, emulator: CohortsEmulator, path: str
) -> None:
    """More identifiers in one request are 413, over all entries together."""
    emulator.add_cohort("c1", members=["zed"])
    ids = [f"u{number}" for number in range(100_000)]

    def body(count: int) -> object:
        if path == UPLOAD:
            return upload(ids=ids[:count] + ["one more"] * (count > len(ids)))
        half = count // 2
        entries = [change("ADD", *ids[:half]), change("ADD", *ids[: count - half])]
        return {"cohort_id": "c1", "memberships": entries}

    assert 200 == (await caller.post(path, body(100_000))).status
    too_many = await caller.post(path, body(100_001))

    assert 413 == too_many.status
    assert "100001 identifiers" in too_many.details
    assert ["ids"] == [violation.rule for violation in emulator.violations]


async def test_unknown_ids_are_skipped(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """They are counted and sampled, and not made."""
    unknown = [f"unknown-{number}" for number in range(20)]
    reply = await caller.post(UPLOAD, upload(ids=["ann", *unknown]))

    assert {
        "matched": 1,
        "totals": 21,
        "invalid_ids_sample": unknown[:10],
    } == reply.json["metadata"]
    assert {"ann"} == emulator.members_of(reply.json["cohortId"])


async def test_or_they_end_the_upload(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """With `skip_invalid_ids` false, one is enough, and the error names it."""
    body = upload(ids=["ann", "unknown-1"], skip_invalid_ids=False)
    reply = await caller.post(UPLOAD, body)

    assert 400 == reply.status
    assert ["unknown-1"] == reply.json["error"]["metadata"]["invalid_ids_sample"]
    assert [] == emulator.cohort_ids


@pytest.mark.parametrize("known", [{"ann"}, lambda name: name == "ann"])
async def test_who_is_known_can_be_told(known: Any) -> None:
    """By a set or by a function."""
    async with (
        CohortsEmulator(clock=FakeClock(), known_users=known) as emulator,
        calling(emulator) as caller,
    ):
        reply = await caller.post(UPLOAD, upload())

    assert ["bob"] == reply.json["metadata"]["invalid_ids_sample"]


@pytest.mark.parametrize("named", [True, False])
async def test_validate_only(named: bool) -> None:
    """`skip_save` makes nothing; nobody knows whether it answers a cohort id."""
    assumptions = Assumptions(validation_names_cohort=named)

    async with (
        CohortsEmulator(clock=FakeClock(), assumptions=assumptions) as emulator,
        calling(emulator) as caller,
    ):
        reply = await caller.post(UPLOAD, upload(skip_save=True))

    assert 2 == reply.json["metadata"]["matched"]
    assert ({"cohortId": None} if named else {}).items() <= reply.json.items()
    assert [] == emulator.cohort_ids


async def test_the_undocumented_key() -> None:
    """`cohortsById` is there when it is switched on."""
    assumptions = Assumptions(cohorts_by_id=True)

    async with (
        CohortsEmulator(clock=FakeClock(), assumptions=assumptions) as emulator,
        calling(emulator) as caller,
    ):
        answer = (await caller.post(UPLOAD, upload())).json

    assert 2 == answer["cohortsById"][answer["cohortId"]]["size"]


async def test_a_replacing_upload(caller: Caller, emulator: CohortsEmulator) -> None:
    """Its ids are the cohort's, and no others; its id stays."""
    made = (await caller.post(UPLOAD, upload())).json["cohortId"]
    body = upload(ids=["bob", "eve"], existing_cohort_id=made)
    again = await caller.post(UPLOAD, body)
    nobody = await caller.post(UPLOAD, upload(existing_cohort_id="1a2bc3d"))

    assert made == again.json["cohortId"]
    assert {"bob", "eve"} == emulator.members_of(made)
    assert [made] == emulator.cohort_ids
    assert 404 == nobody.status


@pytest.mark.parametrize("moves", [True, False])
async def test_whether_a_write_moves_the_times(moves: bool) -> None:
    """Nobody knows; a cohort that a write made is of that moment in any case."""
    assumptions = Assumptions(writes_move_times=moves)
    clock = FakeClock()

    async with (
        CohortsEmulator(clock=clock, assumptions=assumptions) as emulator,
        calling(emulator) as caller,
    ):
        made = (await caller.post(UPLOAD, upload())).json["cohortId"]
        emulator.add_cohort("c1", members=["ann"])
        before = await times_of(caller, made, "c1")
        clock.advance(60)
        await update(caller, change("ADD", "eve"))
        await caller.post(UPLOAD, upload(ids=["bob"], existing_cohort_id=made))
        after = await times_of(caller, made, "c1")

    assert before[0] == [int(clock.utcnow().timestamp()) - 60] * 2
    assert moves == all(old < new for old, new in zip(before, after, strict=True))
    assert (not moves) == (before == after)


async def times_of(caller: Caller, *cohort_ids: str) -> list[list[int]]:
    """Return when each cohort was changed and computed, as listed."""
    cohorts = (await caller.get("/api/3/cohorts")).json["cohorts"]
    listed = {each["id"]: [each["lastMod"], each["lastComputed"]] for each in cohorts}

    return [listed[cohort_id] for cohort_id in cohort_ids]


@pytest.mark.parametrize(("manual_only", "status"), [(True, 400), (False, 200)])
async def test_only_uploaded_cohorts(manual_only: bool, status: int) -> None:
    """A behavioral cohort is not written to, unless that is switched off."""
    assumptions = Assumptions(manual_only=manual_only)

    async with (
        CohortsEmulator(clock=FakeClock(), assumptions=assumptions) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", size=10)
        reply = await update(caller, change("ADD", "ann"))
        replaced = await caller.post(UPLOAD, upload(existing_cohort_id="c1"))

    assert (status, status) == (reply.status, replaced.status)


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({"memberships": [change("ADD", "a")]}, "missing required field cohort_id"),
        ({"cohort_id": "c1"}, "missing required field memberships"),
        ({"cohort_id": "c1", "memberships": []}, "memberships is empty"),
        ({"cohort_id": "c1", "memberships": ["a"]}, "array of objects"),
        ({"cohort_id": "c1", "memberships": [change("ADD")]}, "ids is empty"),
        ({"cohort_id": "c1", "memberships": [change("add", "a")]}, "ADD, REMOVE"),
        (
            {
                "cohort_id": "c1",
                "memberships": [change("ADD", "a", id_type="BY_USER_ID")],
            },
            "BY_NAME, BY_ID, not BY_USER_ID",
        ),
        (
            {
                "cohort_id": "c1",
                "memberships": [change("ADD", "a", id_type="BY_AMP_ID")],
            },
            "not BY_AMP_ID",
        ),
        ({"cohort_id": "c1", "memberships": [change("ADD", 7)]}, "array of strings"),
        (
            {"cohort_id": "c1", "memberships": [{**change("ADD", "a"), "x": 1}]},
            "unknown field x",
        ),
        (
            {"cohort_id": "c1", "memberships": [change("ADD", "a")], "cg": "User"},
            "unknown field cg",
        ),
    ],
)
async def test_bad_updates(
    caller: Caller, emulator: CohortsEmulator, body: object, details: str
) -> None:
    """The words of this endpoint are not those of the upload."""
    emulator.add_cohort("c1", members=["ann"])
    reply = await caller.post(MEMBERSHIP, body)

    assert 400 == reply.status
    assert details in reply.details
    assert {"ann"} == emulator.members_of("c1")


async def test_updates_by_either_kind_of_id(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """An Amplitude id names the same member as the user id it belongs to."""
    emulator.add_cohort("c1", members=[("42", "ann"), ("43", None), "bob"])
    by_id = "BY_ID"
    await update(caller, change("ADD", "42", "44", id_type=by_id))
    assert {"ann", "43", "44", "bob"} == emulator.members_of("c1")

    gone = ["42", "43", amplitude_id_of("bob")]
    await update(caller, change("REMOVE", *gone, id_type=by_id))
    assert {"44"} == emulator.members_of("c1")
    assert {"44"} == emulator.members_of("c1", by="amplitude_id")


async def test_skipped_ids_are_told_entry_by_entry(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """The valid ones are applied; the others come back."""
    emulator.add_cohort("c1", members=["ann"])
    reply = await update(
        caller, change("ADD", "unknown-1", "bob"), change("REMOVE", "unknown-2", "ann")
    )

    assert [["unknown-1"], ["unknown-2"]] == [
        entry["skipped_ids"] for entry in reply.json["memberships_result"]
    ]
    assert {"bob"} == emulator.members_of("c1")


async def test_or_they_end_the_update(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """400, and the metadata has what the answer would have had; nothing is changed."""
    emulator.add_cohort("c1", members=["ann"])
    entries = [change("ADD", "bob"), change("REMOVE", "unknown-2", "ann")]
    reply = await update(caller, *entries, skip_invalid_ids=False)
    metadata = reply.json["error"]["metadata"]

    assert 400 == reply.status
    assert "c1" == metadata["cohort_id"]
    assert [[], ["unknown-2"]] == [
        entry["skipped_ids"] for entry in metadata["memberships_result"]
    ]
    assert {"ann"} == emulator.members_of("c1")


@pytest.mark.parametrize(
    ("group", "count_group", "status"),
    [
        (None, "User", 200),
        (None, None, 200),
        (None, "company", 400),
        ("company", "company", 200),
        ("company", None, 400),
    ],
)
async def test_the_count_group_must_match(
    caller: Caller,
    emulator: CohortsEmulator,
    group: str | None,
    count_group: str | None,
    status: int,
) -> None:
    """It defaults to User, and has to be the cohort's own."""
    emulator.add_cohort("c1", members=["Acme"], group=group)
    more = {} if count_group is None else {"count_group": count_group}
    reply = await update(caller, change("ADD", "Globex"), **more)

    assert status == reply.status


async def test_an_upload_of_groups(caller: Caller, emulator: CohortsEmulator) -> None:
    """`cg` makes a cohort of groups; a replacing upload has to name it again."""
    made = (await caller.post(UPLOAD, upload(cg="company"))).json["cohortId"]
    file = await caller.file(await caller.export(made))
    without = await caller.post(UPLOAD, upload(existing_cohort_id=made))

    assert b'"\tgroup_value"\n"\tann"\n"\tbob"\n' == gzip.decompress(file.body)
    assert 400 == without.status


async def test_one_writer_at_a_time() -> None:
    """Two writes to one cohort at once: one of them is 429. To two cohorts: none."""
    async with (
        CohortsEmulator(clock=FakeClock(), latency=1) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        both = await asyncio.gather(
            update(caller, change("ADD", "x")), update(caller, change("REMOVE", "x"))
        )
        afterwards = await update(caller, change("ADD", "y"))
        apart = await asyncio.gather(
            update(caller, change("ADD", "z")), caller.post(UPLOAD, upload())
        )

    (refused,) = [reply for reply in both if 429 == reply.status]

    assert "concurrent access to cohort c1" in refused.details
    assert [200, 200, 200] == [reply.status for reply in (afterwards, *apart)]
    assert ["concurrent write"] == [each.rule for each in emulator.violations]


async def test_no_cohort_is_too_large(clock: FakeClock) -> None:
    """Beyond the most members, nothing of a request is applied."""
    async with (
        CohortsEmulator(clock=clock, quotas=Quotas(members=3)) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["a", "b"])
        too_many = await update(caller, change("ADD", "c", "d"))
        swapped = await update(
            caller, change("REMOVE", "a", "b"), change("ADD", "c", "d", "e")
        )
        uploaded = await caller.post(UPLOAD, upload(ids=["a", "b", "c", "d"]))

    assert 400 == too_many.status == uploaded.status
    assert 200 == swapped.status
    assert {"c", "d", "e"} == emulator.members_of("c1")


@pytest.mark.big
async def test_two_million_by_uploads() -> None:
    """Twenty requests make a cohort of two million, in seconds."""
    async with (
        CohortsEmulator(clock=FakeClock()) as emulator,
        calling(emulator) as caller,
    ):
        body = upload(ids=[f"u{number:07}" for number in range(100_000)])
        made = (await caller.post(UPLOAD, body)).json["cohortId"]

        for start in range(100_000, 2_000_000, 100_000):
            ids = [f"u{number:07}" for number in range(start, start + 100_000)]
            entry = change("ADD", *ids)
            reply = await caller.post(
                MEMBERSHIP, {"cohort_id": made, "memberships": [entry]}
            )
            assert 200 == reply.status

        (listed,) = (await caller.get("/api/3/cohorts")).json["cohorts"]

    assert 2_000_000 == listed["size"]
    assert 20 == len([record for record in emulator.log if record.ids])


IDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=4)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), IDS), max_size=8))
def test_members_are_a_set(changes: list[tuple[bool, bool, list[str]]]) -> None:
    """Whatever is added and removed, by either kind of id, the end is that of a set."""
    members = ListedMembers()
    wanted: set[str] = set()

    for adds, by_name, names in changes:
        # Whom only an Amplitude id names may be somebody else: use known ones.
        ids = [amplitude_id_of(name) for name in names]
        known = [each for each, name in zip(ids, names, strict=True) if name in wanted]

        match adds, by_name:
            case True, True:
                members.add_names(names)
                wanted |= set(names)
            case True, False:
                members.add_ids(known)
            case False, True:
                members.remove_names(names)
                wanted -= set(names)
            case False, False:
                members.remove_ids(ids)
                wanted -= set(names)

    assert wanted == {row[1] for row in members.rows()}
    assert len(wanted) == len(members)
