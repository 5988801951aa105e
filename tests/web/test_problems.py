"""Every error as `application/problem+json`, with when to try again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI, HTTPException

from amplitude_cohorts_async import CohortsClient, errors
from amplitude_cohorts_async.contrib.fastapi import CohortExports, install_problems
from amplitude_cohorts_async.contrib.fastapi.problems import problem_of
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas, faults
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.scripted_store import ScriptedStore
from support.web import COHORT, IDS, Browser, mounted, served

IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("error", "status", "retries"),
    [
        (errors.InvalidInputError("no"), 422, False),
        (errors.QuotaWaitError("no", seconds=12.2), 429, True),
        (
            errors.MonthlyQuotaError("no", limit=500, used=500, resets_at=IN_AN_HOUR),
            *(429, True),
        ),
        (
            errors.MonthlyQuotaError("no", limit=500, used=500, resets_at=None),
            *(429, False),
        ),
        (errors.RateLimitedError("no", status=429, retry_after=7), 429, True),
        (errors.LimiterUnavailableError("no"), 503, True),
        (errors.JobStoreUnavailableError("no"), 503, True),
        (errors.ConnectionFailedError("no", may_have_happened=False), 502, True),
        (errors.RequestTimeoutError("no", may_have_happened=True), 504, True),
        (errors.AuthenticationError("no", status=403), 502, False),
        (errors.PermissionDeniedError("no", status=403), 502, False),
        (errors.NotFoundError("no", status=404), 404, False),
        (errors.ServerError("no", status=500), 502, True),
        (errors.UnexpectedResponseError("no"), 502, False),
        (errors.ExportFailedError("no", request_id="r", token="t"), 502, False),
        (errors.ExportExpiredError("no", request_id="r", token="t"), 410, False),
        (errors.StorageError("no", request_id="r"), 507, False),
        (
            errors.AmbiguousExportError("no", cohort_id="c", attempted_at=IN_AN_HOUR),
            *(409, False),
        ),
        (errors.ConfigurationError("no"), 500, False),
    ],
)
def test_each_error_has_a_status(
    error: errors.CohortsError, status: int, retries: bool
) -> None:
    """Keys that are refused are no fault of the caller; waits are told in seconds."""
    problem = problem_of(error)

    assert (status, retries) == (problem.status, problem.retry_after is not None)
    assert (type(error).__name__, error.token) == (problem.error, problem.token)


def test_seconds_are_rounded_up() -> None:
    """Who asks at the second that is named is not refused again."""
    assert 13 == problem_of(errors.QuotaWaitError("no", seconds=12.2)).retry_after


async def test_no_endpoint_of_the_service_is_named(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """Which address of Amplitude's was asked is no help to who asks this server."""
    emulator.fail_next("export", faults.lost_answer())
    started = await browser.start()
    unknown = await browser.start("nobody")
    details = [started.json["problem"]["detail"], unknown.json["detail"]]

    assert 404 == unknown.status
    assert "Cohort not found: nobody" in details[1]
    assert not any("/api/" in each or "get_usage" in each for each in details)


async def test_what_to_do_is_said_in_requests(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """An export without a file, and a request that is refused, name no call of ours."""
    emulator.fail_next("export", faults.job_failed())
    started = await browser.start(key="k")
    await browser.until_over(started.headers["location"])
    failed = (await browser.start(key="k")).json["detail"]
    emulator.fail_next("usage", faults.refused(400, "no such thing"))
    refused = (await browser.get("/api/usage")).json["detail"]

    assert "start a new one, with another Idempotency-Key" in failed
    assert "no such thing" in refused
    assert not any(
        word in failed + refused for word in ("forget_job", ".details", ".metadata")
    )


async def test_month_is_over(clock: FakeClock, folder: Path) -> None:
    """The last of the month's exports is spent: 429, until the first of the next."""
    emulator = CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, quotas=Quotas(used=500)
    )
    async with emulator:
        emulator.add_cohort(COHORT, members=IDS)

        def make() -> CohortsClient:
            return CohortsClient(
                API_KEY,
                SECRET_KEY,
                base_url=emulator.base_url,
                clock=clock,
                jobs=str(folder.with_suffix(".db")),
            )

        async with mounted(folder, client=make, clock=clock) as browser:
            refused = await browser.start()
            left = (await browser.get("/api/exports")).json

    assert (429, "MonthlyQuotaError") == (refused.status, refused.json["error"])
    assert int(refused.headers["retry-after"]) == refused.json["retry_after"]
    assert [] == left
    assert 500 == emulator.spent


async def test_what_is_refused_in_the_queue_says_why(
    make_client: Callable[[], CohortsClient],
    clock: FakeClock,
    folder: Path,
    emulator: CohortsEmulator,
) -> None:
    """An export that left the queue for good is told with its reason."""
    async with mounted(folder, client=make_client, clock=clock) as browser:
        emulator.fail_next("export", faults.throttled(retry_after=30))
        started = await browser.start("nobody")
        state = await browser.until_over(started.headers["location"])

    assert (202, "queued") == (started.status, started.json["state"])
    assert ("refused", 404) == (state["state"], state["problem"]["status"])
    assert 0 == emulator.spent


async def test_why_it_was_refused_at_another_worker(
    make_client: Callable[[], CohortsClient],
    clock: FakeClock,
    folder: Path,
    emulator: CohortsEmulator,
) -> None:
    """The store keeps nothing of it; the other worker says which request tells why."""
    options = {"client": make_client, "clock": clock}

    async with mounted(folder, **options) as one:
        emulator.fail_next("export", faults.throttled(retry_after=30))
        started = await one.start("nobody", key="k")
        location = started.headers["location"]
        state = await one.until_over(location)

    async with mounted(folder, **options) as other:
        unknown = await other.get(location)
        again = await other.start("nobody", key="k")

    assert ("queued", "refused") == (started.json["state"], state["state"])
    assert (404, True) == (unknown.status, "Idempotency-Key" in unknown.json["detail"])
    assert (404, "NotFoundError") == (again.status, again.json["error"])
    assert 0 == emulator.spent


async def test_keys_are_refused(
    emulator: CohortsEmulator, clock: FakeClock, folder: Path
) -> None:
    """It is the server's fault, and no key is in the answer."""

    def make() -> CohortsClient:
        return CohortsClient(
            "wrong", "wronger", base_url=emulator.base_url, clock=clock
        )

    async with mounted(folder, client=make, clock=clock) as browser:
        answer = await browser.get("/api/cohorts")

    assert (502, "AuthenticationError") == (answer.status, answer.json["error"])
    assert b"wronger" not in answer.body


async def test_store_is_away(
    emulator: CohortsEmulator, clock: FakeClock, folder: Path
) -> None:
    """While nothing can be recorded, nothing is spent, and the caller may come again."""
    emulator.add_cohort(COHORT, members=IDS)
    store = ScriptedStore()
    store.die()

    def make() -> CohortsClient:
        return unlimited_client(emulator.base_url, clock, jobs=store)

    async with mounted(folder, client=make, clock=clock) as browser:
        answer = await browser.start()

    assert (503, "5") == (answer.status, answer.headers["retry-after"])
    assert 0 == emulator.spent


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"cohort_id": ""}',
        b'{"cohort_id": "a", "format": "/etc/passwd"}',
        b'{"cohort_id": "a", "format": "https://elsewhere"}',
        b'{"cohort_id": "a", "properties": [""]}',
        b'{"cohort_id": "%s"}' % (b"a" * 2000),
    ],
)
async def test_invalid_orders(
    browser: Browser, emulator: CohortsEmulator, body: bytes
) -> None:
    """What is no order is refused with the name of the field, and not repeated."""
    answer = await browser.ask(
        "POST",
        "/api/exports",
        data=body,
        headers={"Content-Type": "application/json"},
    )

    assert 422 == answer.status
    assert "application/problem+json" == answer.headers["content-type"]
    assert answer.json["detail"].startswith("body")
    assert len(answer.body) < 500
    assert 0 == emulator.spent


async def test_unknown_exports(browser: Browser) -> None:
    """Each address of an export that nobody knows is a 404 that says where it looked."""
    answers = [
        await browser.ask(method, f"/api/exports/nobody{path}")
        for method, path in [
            *(("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/file"))
        ]
    ]

    assert [404] * 4 == [answer.status for answer in answers]
    assert all("seven days" in answer.json["detail"] for answer in answers)


async def test_lost_answer_is_told_and_not_spent_again(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """Nobody knows the id of what may be spent: the export stays as it is, with why."""
    emulator.fail_next("export", faults.lost_answer())
    started = await browser.start(key="k")
    location = started.headers["location"]
    state = await browser.until_over(location)
    again = await browser.start(key="k")
    other = await browser.start(key="another")
    cancelled = await browser.ask("DELETE", location)

    assert ("attempted", 409) == (state["state"], state["problem"]["status"])
    assert "AmbiguousExportError" == state["problem"]["error"] == again.json["error"]
    assert (409, 409) == (again.status, cancelled.status)
    # It is for who sends requests: no argument of the client helps there.
    assert "on_unknown" not in state["problem"]["detail"]
    assert "another Idempotency-Key" in state["problem"]["detail"]
    assert 202 == other.status
    assert emulator.spent <= 2


async def test_job_that_failed(browser: Browser, emulator: CohortsEmulator) -> None:
    """An export without a file is over, and its problem has the token."""
    emulator.fail_next("export", faults.job_failed())
    started = await browser.start()
    state = await browser.until_over(started.headers["location"])
    file = await browser.get(f"{started.headers['location']}/file")

    assert ("failed", "ExportFailedError") == (
        state["state"],
        state["problem"]["error"],
    )
    assert state["token"] == state["problem"]["token"]
    assert (409, True) == (file.status, "has no file" in file.json["detail"])


@pytest.fixture
async def app_with_problems(
    make_client: Callable[[], CohortsClient], clock: FakeClock, folder: Path
) -> AsyncIterator[Browser]:
    """An app with routes of its own that fail in all ways."""
    exports = CohortExports(folder, client=make_client, clock=clock)
    app = FastAPI(lifespan=exports.lifespan)
    app.include_router(exports.router(auth=None), prefix="/api")
    install_problems(app)

    @app.get("/raise/{what}")
    async def fail(what: str, number: int = 0) -> int:
        failures = {
            "ours": errors.QuotaWaitError("wait a little", seconds=12),
            "refused": HTTPException(503, "closed", {"Retry-After": "7"}),
            "unusual": HTTPException(499, "gone away"),
            "nothing": HTTPException(304, headers={"ETag": "1"}),
            "unforeseen": ZeroDivisionError("a secret of the app"),
        }
        if what in failures:
            raise failures[what]
        return number

    async with served(app, stop=exports.stop) as browser:
        yield browser


@pytest.mark.parametrize(
    ("method", "path", "status", "header"),
    [
        ("PUT", "/api/exports", 405, ("allow", "GET")),
        ("GET", "/api/nope", 404, None),
        ("GET", "/raise/ours", 429, ("retry-after", "12")),
        ("GET", "/raise/refused", 503, ("retry-after", "7")),
        ("GET", "/raise/unusual", 499, None),
        ("GET", "/raise/it?number=many", 422, None),
        ("GET", "/raise/unforeseen", 500, None),
    ],
)
async def test_every_error_of_an_app_is_a_problem(
    app_with_problems: Browser,
    method: str,
    path: str,
    status: int,
    header: tuple[str, str] | None,
) -> None:
    """Also where no route of ours is asked; headers are kept."""
    answer = await app_with_problems.ask(method, path)

    assert (status, "application/problem+json") == (
        answer.status,
        answer.headers["content-type"],
    )
    assert status == answer.json["status"]
    assert answer.json["title"]
    assert answer.json["detail"]
    assert "secret" not in answer.body.decode()
    if header is not None:
        assert header[1] in answer.headers[header[0]]


async def test_answers_without_a_body_stay_so(app_with_problems: Browser) -> None:
    """Where HTTP allows no body, there is none, and the headers are kept."""
    answer = await app_with_problems.get("/raise/nothing")

    assert (304, b"", "1") == (answer.status, answer.body, answer.headers["etag"])
