"""One of the month's exports: what is sent for it, and that it is sent once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.events import Event, ExportRequested, RetryScheduled
from amplitude_cohorts_async.limits import UNLIMITED, Limits
from amplitude_cohorts_async.policies import Retrying
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, BASIC, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import ACCEPTED, COHORT, EXPORT, REQUEST, whole
from support.fault_server import (
    DROP,
    HANG,
    RESET,
    FaultServer,
    Reply,
    closed_port,
    json_reply,
    redirect,
    reply,
)


async def test_the_documented_request(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """The request is that of the vendor's page, and the keys are in one header."""
    job = await exporter.request_export(COHORT)
    (seen,) = server.seen

    assert ("GET", f"/api/5/cohorts/request/{COHORT}") == (seen.method, seen.target)
    assert f"Basic {BASIC}" == seen.headers["authorization"]
    assert f"127.0.0.1:{server.port}" == seen.headers["host"]
    assert "content-type" not in seen.headers
    assert "cookie" not in seen.headers
    assert (REQUEST, COHORT) == (job.request_id, job.cohort_id)


@pytest.mark.parametrize(
    ("properties", "query"),
    [
        (False, ""),
        ([], ""),
        (True, "?props=1"),
        (
            ["Property1", "Property2"],
            "?props=1&propKeys=Property1&propKeys=Property2",
        ),
        (("one", "one"), "?props=1&propKeys=one"),
        (
            ["gp:a b", "x&y=z", "ü+~/?"],
            "?props=1&propKeys=gp%3Aa%20b&propKeys=x%26y%3Dz&propKeys=%C3%BC%2B~%2F%3F",
        ),
    ],
)
async def test_properties_on_the_wire(
    server: FaultServer,
    exporter: CohortsClient,
    properties: bool | Sequence[str],
    query: str,
) -> None:
    """Each property is a propKeys of its own, quoted, and comes with props=1."""
    await exporter.request_export(COHORT, properties=properties)

    assert f"{EXPORT}{query}" == server.seen[0].target


async def test_an_id_is_one_segment_of_the_path(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """An id that would be another path is quoted."""
    with pytest.raises(NotFoundError):
        await exporter.request_export("a/../usage?x=1#y%2F")

    assert "/api/5/cohorts/request/a%2F..%2Fusage%3Fx%3D1%23y%252F" == (
        server.seen[0].target
    )


async def test_an_export_with_an_odd_name_is_followed(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """The service may call an export what it likes: the name is percent-encoded."""
    server.on(EXPORT, json_reply({"request_id": "a b/\n"}, 202))
    path = "/api/5/cohorts/request-status/a%20b%2F%0A"
    server.on(path, json_reply({"request_id": "a b/\n"}))
    server.on("/api/5/cohorts/request/a%20b%2F%0A/file", whole())

    saved = await exporter.export(COHORT, tmp_path / "c1.csv")

    assert 1 == len(server.requests(path))
    assert "a b/\n" == exporter.resume_export(saved.token).request_id


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("name", ["request_id", "requestId"])
async def test_any_success_with_a_request_id(
    server: FaultServer, exporter: CohortsClient, status: int, name: str
) -> None:
    """The page says 202, a gateway may say 200; both spellings are read."""
    server.on(EXPORT, json_reply({name: 500123, "new": None}, status))

    assert "500123" == (await exporter.request_export(COHORT)).request_id


@pytest.mark.parametrize(
    "loss", [DROP, RESET, HANG, Reply(raw=ACCEPTED.raw[:-5], then="close")]
)
async def test_a_lost_answer_is_not_asked_for_again(
    server: FaultServer, clock: FakeClock, loss: Reply
) -> None:
    """Nobody knows whether the export was spent, so it is not requested twice."""
    server.on(EXPORT, loss, ACCEPTED)
    limits = Limits(exports=(), release_delay=0.0)

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=server.url,
        clock=clock,
        limits=limits,
        timeout=0.3,
    ) as client:
        with pytest.raises((ConnectionFailedError, RequestTimeoutError)) as caught:
            await client.request_export(COHORT)

    assert caught.value.may_have_happened is True
    assert caught.value.token is None
    assert 1 == len(server.requests(EXPORT))


@pytest.mark.parametrize("given", [False, True])
async def test_a_stale_connection_spends_nothing_twice(
    server: FaultServer, clock: FakeClock, given: bool
) -> None:
    """
    A kept connection that dies under an export is not silently replaced.

    aiohttp would send a GET once more, also through a session of the caller's.
    """
    server.on(EXPORT, ACCEPTED, DROP, ACCEPTED)
    session = aiohttp.ClientSession() if given else None

    async with unlimited_client(
        server.url,
        clock,
        session=session,
    ) as client:
        await client.request_export(COHORT)
        with pytest.raises(ConnectionFailedError) as caught:
            await client.request_export(COHORT)

    if session:
        await session.close()
    assert caught.value.may_have_happened is True
    assert 2 == len(server.requests(EXPORT))


async def test_each_export_has_a_connection_of_its_own(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """What must not happen twice does not go out on a connection that may be dead."""
    await exporter.request_export(COHORT)
    await exporter.request_export(COHORT)

    assert [1, 2] == [seen.connection for seen in server.seen]


async def test_a_refused_connection_is_tried_again(clock: FakeClock) -> None:
    """Nothing was sent to a port that nobody listens on, so trying again is safe."""
    heard: list[Event] = []

    with closed_port() as port:
        async with CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=f"http://127.0.0.1:{port}",
            clock=clock,
            hook=heard.append,
            retrying=Retrying(attempts=3),
            limits=UNLIMITED,
        ) as client:
            with pytest.raises(ConnectionFailedError) as caught:
                await client.request_export(COHORT)

    assert caught.value.may_have_happened is False
    assert [1, 2] == [
        event.attempt for event in heard if isinstance(event, RetryScheduled)
    ]


@pytest.mark.parametrize(
    ("status", "requests"), [(429, 6), (503, 6), (500, 1), (502, 1), (504, 1)]
)
async def test_which_refusals_are_safe_to_repeat(
    server: FaultServer, exporter: CohortsClient, status: int, requests: int
) -> None:
    """429 and 503 say that nothing was done; after another 5xx nobody knows."""
    server.on(EXPORT, reply(status))

    with pytest.raises((RateLimitedError, ServerError)) as caught:
        await exporter.request_export(COHORT)

    assert status == caught.value.status
    assert requests == len(server.requests(EXPORT))


async def test_a_refusal_that_passes(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """A storm that ends within the retries ends well."""
    server.on(EXPORT, reply(503), reply(429), reply(503, retry_after="7"), ACCEPTED)

    assert REQUEST == (await exporter.request_export(COHORT)).request_id
    assert 4 == len(server.requests(EXPORT))


def refusal(status: int, details: str) -> Reply:
    """Write the vendor's error envelope."""
    error = {
        "http_code": status,
        "type": "unspecified",
        "message": "Unspecified Error",
        "metadata": {"details": details},
    }

    return json_reply({"error": error}, status)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (refusal(403, "Invalid API Key"), AuthenticationError, "region"),
        (
            refusal(403, "Invalid API/Secret Key combination"),
            AuthenticationError,
            "combination",
        ),
        (refusal(401, "Unauthorized"), AuthenticationError, "both keys"),
        (refusal(403, "Not on your plan"), PermissionDeniedError, "plan"),
        (refusal(404, "Cohort not found"), NotFoundError, "Cohort not found"),
        (refusal(410, "Gone"), NotFoundError, "410"),
        (refusal(400, "props must be 0 or 1"), BadRequestError, "props must be"),
        (reply(400, b"<h1>Bad\nRequest</h1>"), BadRequestError, "Bad Request"),
        (json_reply({"error": "plain words"}, 400), BadRequestError, "plain words"),
        (json_reply([1, 2], 400), BadRequestError, "400"),
        (reply(413), BadRequestError, "413"),
        (reply(501), ServerError, "501"),
        (
            reply(200, b"<!DOCTYPE html>\n<p>Log in</p>", content_type="text/html"),
            UnexpectedResponseError,
            "text/html",
        ),
        (reply(200, b""), UnexpectedResponseError, "JSON object"),
        (reply(202, b"[" * 100_000), UnexpectedResponseError, "JSON object"),
        (json_reply({"cohort_id": COHORT}, 202), UnexpectedResponseError, "get_usage"),
        (json_reply({"request_id": None}, 202), UnexpectedResponseError, "get_usage"),
        (json_reply({"request_id": True}, 202), UnexpectedResponseError, "get_usage"),
        (json_reply({"request_id": ".."}, 202), UnexpectedResponseError, "get_usage"),
        (redirect("/login"), UnexpectedResponseError, "base URL"),
    ],
)
async def test_every_refusal_has_its_error(
    server: FaultServer,
    exporter: CohortsClient,
    answer: Reply,
    error: type[Exception],
    text: str,
) -> None:
    """An answer that is not a job becomes one error that says why; no retry."""
    server.on(EXPORT, answer)

    with pytest.raises(error, match=text) as caught:
        await exporter.request_export(COHORT)

    assert error is type(caught.value)
    assert 1 == len(server.seen)


@pytest.mark.parametrize(
    "answer",
    [
        reply(202, b"accepted"),
        json_reply({"cohort_id": COHORT}, 202),
        json_reply({"request_id": ".."}, 202),
    ],
)
async def test_a_job_without_a_name_may_have_been_spent(
    server: FaultServer, exporter: CohortsClient, answer: Reply
) -> None:
    """Accepted is spent, even if nobody can read what was made."""
    server.on(EXPORT, answer)

    with pytest.raises(UnexpectedResponseError) as caught:
        await exporter.request_export(COHORT)

    assert caught.value.may_have_happened
    assert 1 == len(server.seen)


async def test_keys_that_an_answer_quotes_are_hidden(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """A page that shows what it was sent does not bring the keys into a message."""
    page = f"<p>{API_KEY} {SECRET_KEY} Authorization: Basic {BASIC}</p>".encode()

    for status in (200, 400, 403, 500):
        server.on(EXPORT, reply(status, page))

        with pytest.raises(Exception, match=r"\[hidden\]"):
            await exporter.request_export(COHORT)


@pytest.mark.parametrize(
    ("cohort_id", "properties"),
    [
        ("", False),
        (" ", False),
        ("..", False),
        ("a\nb", False),
        ("x" * 257, False),
        (26, False),
        (None, False),
        (COHORT, "plan"),
        (COHORT, b"plan"),
        (COHORT, [""]),
        (COHORT, [7]),
        (COHORT, None),
        (COHORT, {"plan": 1}),
    ],
)
async def test_bad_input_sends_nothing(
    server: FaultServer,
    exporter: CohortsClient,
    cohort_id: str,
    properties: bool | Sequence[str],
) -> None:
    """What cannot be a cohort or a property is refused before the first byte."""
    with pytest.raises(InvalidInputError):
        await exporter.request_export(cohort_id, properties=properties)

    assert [] == server.seen


async def test_the_hook_hears_of_a_spent_export(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """Whoever cancels an export knows from the hook how to go on with it."""
    emulator.add_cohort(COHORT, members=["ann"])
    heard: list[Event] = []

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock, hook=heard.append
    ) as client:
        job = await client.request_export(COHORT)

    assert [ExportRequested(cohort_id=COHORT, request_id=job.request_id)] == [
        event for event in heard if isinstance(event, ExportRequested)
    ]


async def test_an_answer_the_emulator_loses(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """
    The emulator did what it was asked and said nothing: one export is spent, not two.
    """
    emulator.add_cohort(COHORT, members=["ann"])
    emulator.fail_next("export", faults.lost_answer())

    with pytest.raises(ConnectionFailedError) as caught:
        await client.request_export(COHORT)

    assert caught.value.may_have_happened is True
    assert 1 == emulator.spent


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999",
        "Mon, 01 Jan 2026 00:00:00",
        "yesterday",
    ],
)
async def test_a_date_that_is_none_costs_no_export(
    server: FaultServer, exporter: CohortsClient, date: str
) -> None:
    """The job is there, whatever else its answer says."""
    refused = json_reply({}, 429, retry_after=date)
    job = {"request_id": REQUEST}
    server.on(EXPORT, refused, json_reply(job, 202, date=date))

    assert REQUEST == (await exporter.request_export(COHORT)).request_id
