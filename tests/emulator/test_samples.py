"""The emulator says what the vendor's page says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas
from emulator.calling import Caller, calling

Sample = Callable[[str], Any]


async def test_the_list(
    caller: Caller, emulator: CohortsEmulator, sample: Sample
) -> None:
    """A listed cohort has every documented key, with the documented value."""
    (documented,) = sample("list")["cohorts"]
    emulator.add_cohort(
        documented["id"],
        name=documented["name"],
        size=documented["size"],
        description=documented["description"],
        owner=documented["owners"][0],
        syncs=documented["syncMetadata"],
        overrides={
            key: documented[key]
            for key in ("appId", "lastMod", "createdAt", "lastComputed")
        },
    )

    reply = await caller.get("/api/3/cohorts?includeSyncInfo=true")
    (listed,) = reply.json["cohorts"]

    assert 200 == reply.status
    assert documented == {key: listed[key] for key in documented}
    assert list(documented) == [key for key in listed if key in documented]
    assert reply.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert reply.headers["ETag"].startswith('W/"')
    assert reply.headers["Set-Cookie"].startswith("SERVERID=;")


async def test_an_export(
    caller: Caller, emulator: CohortsEmulator, sample: Sample
) -> None:
    """202 until the job is done, then 200, in the documented words."""
    emulator.add_cohort("26umsb5", members=["ann"])
    asked = await caller.get("/api/5/cohorts/request/26umsb5")
    names = {"request_id": asked.json["request_id"], "cohort_id": "26umsb5"}
    path = f"/api/5/cohorts/request-status/{names['request_id']}"

    assert 202 == asked.status
    assert sample("export") | names == asked.json

    running = await caller.get(path)
    await emulator.clock.sleep(emulator.options.job_seconds)
    completed = await caller.get(path)

    assert 202 == running.status
    assert sample("status-running") | names == running.json
    assert 200 == completed.status
    assert sample("status-completed") | names == completed.json


async def test_usage(sample: Sample) -> None:
    """The reset is the first of next month, UTC, written without a zone."""
    clock = FakeClock(utc=datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC))

    async with (
        CohortsEmulator(clock=clock, quotas=Quotas(used=42)) as emulator,
        calling(emulator) as caller,
    ):
        assert sample("usage") == (await caller.get("/api/3/cohorts/usage")).json

        clock.advance(1)
        new_month = (await caller.get("/api/3/cohorts/usage")).json["rest_download"]

    assert 0 == new_month["usage"]
    assert "2026-07-01T00:00:00" == new_month["resets_at"]


async def test_the_year_ends(sample: Sample) -> None:
    """After December comes January of the next year."""
    clock = FakeClock(utc=datetime(2026, 12, 3, tzinfo=UTC))

    async with CohortsEmulator(clock=clock) as emulator, calling(emulator) as caller:
        usage = await caller.get("/api/3/cohorts/usage")

    assert "2027-01-01T00:00:00" == usage.json["rest_download"]["resets_at"]


async def test_an_upload(
    caller: Caller, emulator: CohortsEmulator, sample: Sample
) -> None:
    """The documented request is taken, and answered with the documented keys."""
    reply = await caller.post("/api/3/cohorts/upload", sample("upload-request"))
    metadata = {"matched": 2, "totals": 2, "invalid_ids_sample": []}

    assert 200 == reply.status
    assert list(sample("upload")) == list(reply.json)
    assert metadata == reply.json["metadata"]
    assert set(sample("upload-request")["ids"]) == emulator.members_of(
        reply.json["cohortId"]
    )


async def test_an_update_of_memberships(
    caller: Caller, emulator: CohortsEmulator, sample: Sample
) -> None:
    """The documented request is taken entry by entry, and answered so."""
    request = sample("membership-request")
    emulator.add_cohort("1a2bc3d", members=[("333", None), ("555", None), "zed"])
    reply = await caller.post("/api/3/cohorts/membership", request)

    assert 200 == reply.status
    assert {
        "cohort_id": "1a2bc3d",
        "memberships_result": [
            {"skipped_ids": [], "id_type": "BY_ID", "operation": "ADD"},
            {"skipped_ids": [], "id_type": "BY_ID", "operation": "REMOVE"},
            {"skipped_ids": [], "id_type": "BY_NAME", "operation": "ADD"},
        ],
    } == reply.json
    assert {"111", "222", "555", "zed", "asd", "qwe"} == emulator.members_of("1a2bc3d")
