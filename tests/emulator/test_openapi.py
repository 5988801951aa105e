"""The routes of the third-party description."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from emulator.calling import Caller, basic

REQUEST = "/api/5/cohorts/request/c1"


@pytest.fixture
async def emulator(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """Run an emulator that follows it."""
    async with CohortsEmulator(
        clock=clock, routes="openapi", job_seconds=10
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"], owner="o@example.com")
        yield emulator


async def test_the_list(caller: Caller) -> None:
    """An owner instead of owners, and ISO times."""
    assert {
        "cohorts": [
            {
                "id": "c1",
                "name": "Cohort c1",
                "description": "",
                "size": 1,
                "lastComputed": "2026-06-15T11:59:00Z",
                "archived": False,
                "owner": "o@example.com",
                "appId": 153957,
            }
        ]
    } == (await caller.get("/api/3/cohorts")).json


async def test_an_export_by_cohort_id(caller: Caller, clock: FakeClock) -> None:
    """200 all the way; the state is a word; there are no links."""
    asked = await caller.get(REQUEST)
    names = []

    for _ in range(3):
        reply = await caller.get(f"{REQUEST}/status")
        names.append((reply.status, reply.json["status"]))
        clock.advance(5)

    file = await caller.get(f"{REQUEST}/file")

    assert 200 == asked.status
    assert "c1" == asked.json["cohort_id"]
    assert [(200, "queued"), (200, "computing"), (200, "complete")] == names
    assert 200 == file.status
    assert gzip.decompress(file.body).startswith(b'"amplitude_id","user_id"\n')


async def test_what_is_not_there(caller: Caller, emulator: CohortsEmulator) -> None:
    """No job, no file yet, no such endpoint: 404; a failed job says so."""
    replies = [await caller.get(f"{REQUEST}/status")]
    emulator.fail_next("export", faults.job_failed())
    await caller.get(REQUEST)
    failed = await caller.get(f"{REQUEST}/status")
    replies.append(await caller.get(f"{REQUEST}/file"))
    replies.append(await caller.get("/api/3/cohorts/usage"))

    assert [404, 404, 404] == [reply.status for reply in replies]
    assert "failed" == failed.json["status"]


async def test_bad_credentials_are_401(caller: Caller) -> None:
    """Here they are."""
    assert 401 == (await caller.get("/api/3/cohorts", auth=basic("no", "no"))).status


async def test_an_upload(caller: Caller, emulator: CohortsEmulator) -> None:
    """A name and ids are enough; the answer has `cohort_id`."""
    reply = await caller.post("/api/3/cohorts/upload", {"name": "n", "ids": ["ann"]})

    assert 200 == reply.status
    assert {"ann"} == emulator.members_of(reply.json["cohort_id"])


def test_unknown_routes_are_refused() -> None:
    """The error names those there are."""
    with pytest.raises(ValueError, match="'v9'; pass one of vendor, openapi"):
        CohortsEmulator(routes="v9")  # type: ignore[arg-type]
