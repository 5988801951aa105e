"""What the emulator does not let pass."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from amplitude_cohorts_async.testing import (
    Assumptions,
    CohortsEmulator,
    FakeClock,
    Quotas,
    faults,
)
from emulator.calling import Caller, basic, calling

EXPORT = "/api/5/cohorts/request/c1"


def rules(emulator: CohortsEmulator) -> list[str]:
    """Return the names of the rules that were broken."""
    return [violation.rule for violation in emulator.violations]


@pytest.mark.parametrize(
    ("key", "secret", "details"),
    [
        ("nobody", "any", "Invalid API Key"),
        (None, "any", "Invalid API/Secret Key combination"),
    ],
)
async def test_bad_credentials_are_403(
    caller: Caller,
    emulator: CohortsEmulator,
    key: str | None,
    secret: str,
    details: str,
) -> None:
    """Not 401; the details tell a wrong key from a wrong secret."""
    reply = await caller.get(
        "/api/3/cohorts", auth=basic(key or emulator.api_key, secret)
    )

    assert 403 == reply.status
    assert details == reply.details
    assert {"http_code", "type", "message", "metadata"} == set(reply.json["error"])
    assert 403 == reply.json["error"]["http_code"]


@pytest.mark.parametrize("header", ["Bearer abc", "Basic !!!", "Basic /w=="])
async def test_no_other_scheme(caller: Caller, header: str) -> None:
    """What cannot be read as Basic credentials is an unknown key."""
    assert (
        "Invalid API Key" == (await caller.get("/api/3/cohorts", auth=header)).details
    )


async def test_secrets_are_not_remembered(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """The log knows that credentials came, and nothing more."""
    await caller.get("/api/3/cohorts")
    (record,) = emulator.log

    assert "<hidden>" == record.headers["authorization"]
    assert emulator.secret_key not in repr(emulator.options)


async def test_paths_and_methods(caller: Caller, emulator: CohortsEmulator) -> None:
    """Nothing but the documented paths, each with its method."""
    unknown = await caller.get("/api/4/cohorts")
    wrong = await caller.post("/api/3/cohorts", {})

    assert (404, 405) == (unknown.status, wrong.status)
    assert ["path", "method"] == rules(emulator)


@pytest.mark.parametrize(
    "query",
    [
        "?props=2",
        "?props=true",
        "?props=1&props=1",
        "?props=1&propKeys[]=plan",
        "?props=1&propKeys%5B%5D=plan",
        "?props=1&propKeys=plan,country",
        "?props=1&propkeys=plan",
        "?propKeys=plan",
        "?lastComputed=1",
    ],
)
async def test_queries_are_read_strictly(
    caller: Caller, emulator: CohortsEmulator, query: str
) -> None:
    """`props` is 0 or 1; `propKeys` repeats, without brackets or commas."""
    emulator.add_cohort("c1", members=["ann"])

    assert 400 == (await caller.get(EXPORT + query)).status
    assert ["query"] == rules(emulator)
    assert 0 == emulator.spent


@pytest.mark.parametrize(
    "path",
    [
        "/api/3/cohorts",
        "/api/3/cohorts/usage",
        EXPORT,
        "/api/5/cohorts/request-status/Sf7M9j",
        "/api/5/cohorts/request/Sf7M9j/file",
    ],
)
async def test_no_other_names_in_queries(
    caller: Caller, emulator: CohortsEmulator, path: str
) -> None:
    """A name that the page does not have at this endpoint is 400, and noted."""
    emulator.add_cohort("c1", members=["ann"])
    reply = await caller.get(f"{path}?last_computed=1")

    assert (400, "unknown query parameter last_computed") == (
        reply.status,
        reply.details,
    )
    assert ["query"] == rules(emulator)
    assert 0 == emulator.spent


async def test_what_the_vendors_own_clients_add_is_accepted_on_request() -> None:
    """They name the snapshot that they want, which the page does not document."""
    async with (
        CohortsEmulator(assumptions=Assumptions(last_computed=True)) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])

        assert 202 == (await caller.get(f"{EXPORT}?lastComputed=1")).status
        assert [] == rules(emulator)


@pytest.mark.parametrize("id_", ["ann", "user-1", "a@b.c"])
async def test_an_amplitude_id_is_a_number(
    caller: Caller, emulator: CohortsEmulator, id_: str
) -> None:
    """As the page's examples are; a name in its place is 400, and noted."""
    emulator.add_cohort("c1", members=["ann"])
    entry = {"ids": ["111", id_], "id_type": "BY_ID", "operation": "ADD"}
    reply = await caller.post(
        "/api/3/cohorts/membership", {"cohort_id": "c1", "memberships": [entry]}
    )

    assert (400, ["body"]) == (reply.status, rules(emulator))


async def test_a_groups_id_is_any_text(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """The page says nothing of its form: `BY_ID` is the group's id there."""
    emulator.add_cohort("c1", members=["Acme"], group="company")
    entry = {"ids": ["acme-1"], "id_type": "BY_ID", "operation": "ADD"}
    reply = await caller.post(
        "/api/3/cohorts/membership",
        {"cohort_id": "c1", "count_group": "company", "memberships": [entry]},
    )

    assert 200 == reply.status


async def test_a_property_may_have_a_comma_in_its_name(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """As one of the cohort's own; what it does not have, is two names joined."""
    place = {"City, State": "Kyiv, UA"}
    emulator.add_cohort("c1", members=[("1", "ann", place)])
    job = await caller.export("c1", "?props=1&propKeys=City%2C%20State")
    lines = gzip.decompress((await caller.file(job)).body).decode().splitlines()

    assert '"City, State"' in lines[0]
    assert lines[1].endswith('"Kyiv, UA"')
    assert [] == emulator.violations


async def test_the_sixth_at_once_is_refused() -> None:
    """Five in flight over all endpoints; one more is 429, and noted."""
    clock = FakeClock()

    async with (
        CohortsEmulator(clock=clock, latency=5) as emulator,
        calling(emulator) as caller,
    ):
        replies = await asyncio.gather(
            *[caller.get("/api/3/cohorts") for _ in range(6)]
        )

    statuses = sorted(reply.status for reply in replies)
    (refused,) = [reply for reply in replies if 429 == reply.status]

    assert [200] * 5 + [429] == statuses
    assert "Exceeded concurrent limit" in refused.details
    assert ["concurrency"] == rules(emulator)
    assert 6 == emulator.max_in_flight
    assert 0 == emulator.in_flight


async def test_five_at_a_time_is_no_violation() -> None:
    """Whoever waits for an answer may send the next request at once."""
    slots = asyncio.Semaphore(5)

    async with CohortsEmulator(latency=0.005) as emulator, calling(emulator) as caller:

        async def one() -> int:
            async with slots:
                return (await caller.get("/api/3/cohorts")).status

        statuses = await asyncio.gather(*[one() for _ in range(100)])

    assert {200} == set(statuses)
    assert [] == emulator.violations
    assert 5 == emulator.max_in_flight


async def test_a_request_counts_after_its_client_has_gone() -> None:
    """A client that gives up frees no slot: the service works on."""
    clock = FakeClock(jumps=False)

    async with (
        CohortsEmulator(clock=clock, latency=30) as emulator,
        calling(emulator) as caller,
    ):
        task = asyncio.create_task(caller.get("/api/3/cohorts"))

        while not emulator.in_flight:  # noqa: ASYNC110  it is on other sockets
            await asyncio.sleep(0.005)

        task.cancel()
        await asyncio.sleep(0.05)
        assert 1 == emulator.in_flight

        clock.advance(30)
        await asyncio.sleep(0.05)
        assert 0 == emulator.in_flight


async def test_the_fifth_export_of_a_minute_is_refused(
    caller: Caller, emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """Four in any sixty seconds, counted as they arrive; refused ones cost nothing."""
    emulator.add_cohort("c1", members=["ann"])
    clock.advance(30)
    statuses = [(await caller.get(EXPORT)).status for _ in range(4)]
    fifth = await caller.get(EXPORT)
    clock.advance(59.5)
    too_soon = await caller.get(EXPORT)
    clock.advance(0.5)
    in_time = await caller.get(EXPORT)

    assert [202] * 4 == statuses
    assert (429, 429, 202) == (fifth.status, too_soon.status, in_time.status)
    assert "Exceeded rate limit" in fifth.details
    assert "Retry-After" not in fifth.headers
    assert ["window", "window"] == rules(emulator)
    assert (7, 5) == (emulator.requests("export"), emulator.spent)


async def test_arrivals_count_however_long_the_answer_takes() -> None:
    """A start is stamped when it comes in, not when it is answered."""
    async with (
        CohortsEmulator(clock=FakeClock(), latency=45) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        await asyncio.gather(*[caller.get(EXPORT) for _ in range(4)])
        await emulator.clock.sleep(14)
        too_soon = await caller.get(EXPORT)
        in_time = await caller.get(EXPORT)

    assert (429, 202) == (too_soon.status, in_time.status)


async def test_the_month_is_spent_once() -> None:
    """Beyond the month's exports nothing is granted, until the first."""
    clock = FakeClock()
    quotas = Quotas(windows=(), month=500, used=499)

    async with (
        CohortsEmulator(clock=clock, quotas=quotas) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        statuses = [(await caller.get(EXPORT)).status for _ in range(2)]
        assert 500 == emulator.spent

        clock.advance(31 * 86_400)
        assert 0 == emulator.spent
        statuses.append((await caller.get(EXPORT)).status)

    assert [202, 429, 202] == statuses
    assert ["month"] == rules(emulator)


async def test_an_unlimited_plan() -> None:
    """Its limit is null, and nothing is refused."""
    async with (
        CohortsEmulator(clock=FakeClock(), quotas=Quotas.unlimited()) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        statuses = {(await caller.get(EXPORT)).status for _ in range(70)}
        usage = (await caller.get("/api/3/cohorts/usage")).json["rest_download"]

    assert {202} == statuses
    assert usage["limit"] is None
    assert 70 == usage["usage"]


@pytest.mark.parametrize(("refused_spend", "spent"), [(False, 1), (True, 3)])
async def test_whether_a_refused_export_is_spent(
    refused_spend: bool, spent: int
) -> None:
    """The page counts each request, and does not say whether one that is 429."""
    quotas = Quotas(windows=((1, 60.0),), refused_spend=refused_spend)

    async with (
        CohortsEmulator(clock=FakeClock(), quotas=quotas) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        statuses = [(await caller.get(EXPORT)).status for _ in range(3)]
        usage = (await caller.get("/api/3/cohorts/usage")).json["rest_download"]

    assert [202, 429, 429] == statuses
    assert spent == usage["usage"] == emulator.spent


async def test_only_what_is_discoverable(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """A cohort that is not published is neither listed nor exported."""
    emulator.add_cohort("c1", members=["ann"], published=False)

    assert [] == (await caller.get("/api/3/cohorts")).json["cohorts"]
    assert 404 == (await caller.get(EXPORT)).status
    assert 404 == (await caller.get("/api/5/cohorts/request/nobody")).status
    assert 0 == emulator.spent


@asynccontextmanager
async def requested(
    clock: FakeClock, assumptions: Assumptions, *, job_seconds: float = 0
) -> AsyncIterator[tuple[CohortsEmulator, Caller, str]]:
    """An emulator, its caller, and the id of an export that was requested."""
    async with (
        CohortsEmulator(
            clock=clock, assumptions=assumptions, job_seconds=job_seconds
        ) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        yield emulator, caller, (await caller.get(EXPORT)).json["request_id"]


@pytest.mark.parametrize(
    ("assumptions", "early", "late"),
    [
        (Assumptions(), 404, 410),
        (Assumptions(early_file_status=400, expired_job_status=404), 400, 404),
    ],
)
async def test_the_life_of_a_job(
    assumptions: Assumptions, early: int, late: int
) -> None:
    """
    There is a file when the job is done, for seven days, and never for another id.
    """
    clock = FakeClock()

    async with requested(clock, assumptions, job_seconds=30) as (
        emulator,
        caller,
        request_id,
    ):
        assert early == (await caller.file(request_id)).status

        clock.advance(30)
        assert 200 == (await caller.file(request_id)).status

        clock.advance(7 * 86_400 - 30)
        assert 200 == (await caller.file(request_id)).status

        clock.advance(1)
        assert late == (await caller.file(request_id)).status
        status = await caller.get(f"/api/5/cohorts/request-status/{request_id}")
        assert late == status.status
        assert 404 == (await caller.file("Sf7M9j")).status

    assert ["early file"] == rules(emulator)


async def test_a_job_that_is_known_late() -> None:
    """Its status and its file are 404 until then, and nobody is to blame."""
    clock = FakeClock()

    async with requested(clock, Assumptions(known_after=9)) as (
        emulator,
        caller,
        request_id,
    ):
        status = f"/api/5/cohorts/request-status/{request_id}"
        early = [await caller.get(status), await caller.file(request_id)]
        clock.advance(9)
        late = [await caller.get(status), await caller.file(request_id)]

    assert [404, 404, 200, 200] == [reply.status for reply in (*early, *late)]
    assert [] == rules(emulator)


async def test_a_file_that_comes_after_its_status() -> None:
    """The job is done and has no file yet: nobody is to blame for asking."""
    assumptions = Assumptions(file_delay=9, early_file_status=410)
    clock = FakeClock()

    async with requested(clock, assumptions) as (emulator, caller, request_id):
        done = await caller.get(f"/api/5/cohorts/request-status/{request_id}")
        early = await caller.file(request_id)
        clock.advance(9)
        late = await caller.file(request_id)

    assert [200, 410, 200] == [reply.status for reply in (done, early, late)]
    assert [] == rules(emulator)


def test_steps_and_faults_are_checked() -> None:
    """A fault where it cannot happen is a mistake of the test, and is told at once."""
    emulator = CohortsEmulator()

    with pytest.raises(ValueError, match="the steps are list, usage"):
        emulator.fail_next("download", faults.broken())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only at: file"):
        emulator.fail_next("list", faults.link_expired())
    with pytest.raises(ValueError, match="no faults"):
        emulator.fail_next("list")
    with pytest.raises(ValueError, match="either members or size"):
        emulator.add_cohort("c1")


async def test_latency_may_differ_by_request() -> None:
    """A function tells it, from what is known of the request."""
    clock = FakeClock()
    seconds = {"list": 2.0, "usage": 5.0}

    async with (
        CohortsEmulator(clock=clock, latency=lambda one: seconds[one.step]) as emulator,
        calling(emulator) as caller,
    ):
        await caller.get("/api/3/cohorts")
        await caller.get("/api/3/cohorts/usage")
        took = [record.ended - record.at for record in emulator.log if record.ended]

    assert [2, 5] == took
