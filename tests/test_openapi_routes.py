"""In front of a gateway or a mock that follows the third-party description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, IdType
from amplitude_cohorts_async._core.polling import KNOWN_AFTER
from amplitude_cohorts_async.errors import (
    AuthenticationError,
    ExportExpiredError,
    ExportFailedError,
    InvalidInputError,
    MalformedFileError,
    NotFoundError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.events import Event, PartlyUnreadable
from amplitude_cohorts_async.models import Routes
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.exporting import COHORT, EXPORT, LIST
from support.fault_server import FaultServer, json_reply, reply


@pytest.fixture
async def gateway(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """An emulator that speaks the other description."""
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, routes="openapi"
    ) as emulator:
        emulator.add_cohort(COHORT, members=["ann", "bob"], job_seconds=40)
        yield emulator


@pytest.fixture
async def through(
    gateway: CohortsEmulator, clock: FakeClock
) -> AsyncIterator[CohortsClient]:
    """A client that knows of it."""
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=gateway.base_url,
        clock=clock,
        routes=Routes.OPENAPI,
    ) as client:
        yield client


async def test_an_export_through_a_gateway(
    gateway: CohortsEmulator, through: CohortsClient, tmp_path: Path
) -> None:
    """The three steps name the job by its cohort, and words decide."""
    saved = await through.export(COHORT, tmp_path / "members.csv")
    paths = list(dict.fromkeys(record.target for record in gateway.log))

    assert [EXPORT, f"{EXPORT}/status", f"{EXPORT}/file"] == paths
    assert b"ann" in saved.path.read_bytes()
    assert [] == gateway.violations


async def test_members_through_a_gateway(through: CohortsClient) -> None:
    """A stream of members works as well."""
    job = await through.request_export(COHORT, properties=True)

    async with job.members() as stream:
        assert ["ann", "bob"] == [member.user_id async for member in stream]


async def test_a_job_is_resumed_from_its_token(
    gateway: CohortsEmulator, through: CohortsClient, tmp_path: Path
) -> None:
    """
    A token knows the cohort; a bare request id does not, and nothing is sent for it.
    """
    job = await through.request_export(COHORT)
    await through.resume_export(job.token).download(tmp_path / "members.csv.gz")
    sent = len(gateway.log)

    with pytest.raises(InvalidInputError, match="token"):
        await through.resume_export(job.request_id).wait()
    assert sent == len(gateway.log)
    assert 1 == gateway.requests("export")


async def test_a_list_of_a_gateway(through: CohortsClient) -> None:
    """The description's own spelling of a cohort is read."""
    (cohort,) = await through.list_cohorts()
    assert (COHORT, 2) == (cohort.id, cohort.size)
    assert cohort.last_computed == datetime(2026, 6, 15, 11, 59, tzinfo=UTC)
    assert 1 == len(cohort.owners)


async def test_an_upload_through_a_gateway(
    gateway: CohortsEmulator, through: CohortsClient
) -> None:
    """The upload of that description needs a name and ids, and answers `cohort_id`."""
    report = await through.upload_cohort(
        "Spring buyers", ["ann", "eve"], id_type=IdType.USER_ID
    )

    assert report.cohort_id in gateway.cohort_ids
    assert {"ann", "eve"} == gateway.members_of(str(report.cohort_id))


async def test_a_gateway_refuses(
    gateway: CohortsEmulator, through: CohortsClient, clock: FakeClock
) -> None:
    """401 and 404 are its words for wrong keys and unknown cohorts."""
    with pytest.raises(NotFoundError):
        await through.request_export("unknown")

    async with CohortsClient(
        API_KEY, "other", base_url=gateway.base_url, routes=Routes.OPENAPI, clock=clock
    ) as other:
        with pytest.raises(AuthenticationError):
            await other.list_cohorts()


async def test_a_job_that_fails_there(
    gateway: CohortsEmulator, through: CohortsClient, tmp_path: Path
) -> None:
    """The description has a word for a failed job."""
    gateway.fail_next("export", faults.job_failed())

    with pytest.raises(ExportFailedError, match="failed"):
        await through.export(COHORT, tmp_path / "members.csv")


async def test_a_job_nobody_requested(
    through: CohortsClient,
) -> None:
    """A cohort without a job is 404 there: the export is unknown."""
    token = f'{{"version":1,"request_id":"a","cohort_id":"{COHORT}"}}'

    with pytest.raises(ExportExpiredError):
        await through.resume_export(token).poll()


@pytest.mark.parametrize("body", [b"{}", b'{"user_ids": ["ann"]}'])
async def test_a_file_that_is_an_object(
    server: FaultServer, clock: FakeClock, tmp_path: Path, body: bytes
) -> None:
    """
    A mock made of the description sends a JSON object as the file, which is no file of
    members, whatever its name: an error, which keeps the token.
    """
    server.on(f"{EXPORT}/status", json_reply({"status": "complete"}))
    server.on(f"{EXPORT}/file", reply(200, body, content_type="application/json"))

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=server.url, clock=clock, routes=Routes.OPENAPI
    ) as client:
        with pytest.raises(MalformedFileError, match="JSON, not members") as caught:
            await client.export(COHORT, tmp_path / "members.csv")

    assert caught.value.token is not None
    assert [] == [*tmp_path.iterdir()]


async def test_what_is_not_described_is_not_sent(
    gateway: CohortsEmulator, through: CohortsClient
) -> None:
    """Neither names of properties nor information about syncs; nothing is spent."""
    with pytest.raises(InvalidInputError, match="no information about syncs"):
        await through.list_cohorts(include_sync_info=True)

    with pytest.raises(InvalidInputError, match="properties=True"):
        await through.request_export(COHORT, properties=["plan"])

    await through.request_export(COHORT, properties=[])

    assert ["export"] == [record.step for record in gateway.log]


async def test_the_example_of_a_list(server: FaultServer, clock: FakeClock) -> None:
    """A word in place of a cohort is left out, and told."""
    server.on(LIST, json_reply({"cohorts": ["example_value"]}))
    told: list[Event] = []

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=server.url,
        clock=clock,
        routes=Routes.OPENAPI,
        hook=told.append,
    ) as client:
        assert [] == await client.list_cohorts()

    assert ["$.cohorts[0]"] == [
        path
        for event in told
        if isinstance(event, PartlyUnreadable)
        for path in event.paths
    ]


async def test_the_wrong_routes(
    gateway: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """
    A client of the vendor's page at such a gateway is told so, once the job cannot be one
    that is not known yet.
    """
    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=gateway.base_url, clock=clock
    ) as client:
        with pytest.raises((ExportExpiredError, UnexpectedResponseError)) as caught:
            await client.export(COHORT, tmp_path / "members.csv")

    assert caught.value.token is not None
    assert clock.now() < KNOWN_AFTER + 10
