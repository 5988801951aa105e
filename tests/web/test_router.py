"""The routes of a mounted router, from the list to the file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException

from amplitude_cohorts_async import CohortsClient, errors
from amplitude_cohorts_async.contrib.fastapi import CohortExports, install_problems
from amplitude_cohorts_async.contrib.fastapi.records import ExportRoot, key_occurrence
from amplitude_cohorts_async.contrib.fastapi.schemas import ExportOrder
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import until
from support.web import COHORT, HOSTILE, IDS, Browser, mounted, served

Make = Callable[[], CohortsClient]


class Bucket:
    """A destination of a user's own."""

    location = "s3://bucket/exports/members.csv"

    async def write(
        self,
        blocks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        suffix: str = "",
    ) -> str | None:
        """See `Destination`."""
        raise NotImplementedError

    async def tag(self) -> str | None:
        """See `Destination`."""
        raise NotImplementedError


@asynccontextmanager
async def silent_at(
    step: faults.Step, clock: FakeClock, folder: Path, **options: float
) -> AsyncIterator[tuple[Browser, CohortsEmulator, Callable[[], None]]]:
    """Serve exports of a service that answers one request only when it is told to."""
    still = FakeClock(jumps=False)

    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=still, **options
    ) as emulator:
        emulator.add_cohort(COHORT, members=IDS)
        emulator.fail_next(step, faults.hang(9.0))
        client = unlimited_client(
            emulator.base_url, clock, jobs=str(folder / "exports.db")
        )

        async with mounted(
            folder / "files", client=lambda: client, clock=clock
        ) as browser:
            yield browser, emulator, partial(still.advance, 9.0)


async def test_cohorts_are_listed(browser: Browser) -> None:
    """The list has ids, names and sizes."""
    (cohort,) = (await browser.get("/api/cohorts")).json

    assert (COHORT, 50) == (cohort["id"], cohort["size"])


async def test_plan_says_the_price(browser: Browser, emulator: CohortsEmulator) -> None:
    """A plan tells what would be spent and left, and spends nothing."""
    plan = (await browser.get(f"/api/plan?cohort_id={COHORT}&cohort_id=zzz")).json

    assert (1, 499, ["zzz"]) == (plan["needed"], plan["left_after"], plan["unknown"])
    assert 0 == emulator.spent


async def test_usage_is_told(browser: Browser) -> None:
    """The month's exports are those that were spent."""
    started = await browser.start()
    await browser.until_over(started.headers["location"])

    usage = (await browser.get("/api/usage")).json
    assert (500, 1, 499) == (usage["limit"], usage["used"], usage["remaining"])


async def test_an_export_comes_to_its_file(
    browser: Browser, emulator: CohortsEmulator, folder: Path
) -> None:
    """A start is answered at once; its address leads to the state and to the file."""
    started = await browser.start()
    location = started.headers["location"]
    state = await browser.until_over(location)
    file = await browser.get(state["file"])

    assert (202, "requested") == (started.status, started.json["state"])
    assert f"/api/exports/{started.json['id']}" == location
    assert "saved" == state["state"]
    assert file.body == (folder / f"{state['id']}.csv").read_bytes()
    assert all(name.encode() in file.body for name in IDS)
    assert 1 == emulator.spent


async def test_formats_and_properties(browser: Browser) -> None:
    """The order names the file's format, and the properties in it."""
    order = {"format": "csv.gz", "properties": ["country"]}
    started = await browser.start(**order)
    state = await browser.until_over(started.headers["location"])
    file = await browser.get(state["file"])

    assert ("csv.gz", ["country"]) == (state["format"], state["properties"])
    assert b"\x1f\x8b" == file.body[:2]
    assert "application/gzip" == file.headers["content-type"]


async def test_a_property_named_twice(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """It is in the file once, and the export comes to its file."""
    started = await browser.start(properties=["country", "plan", "country"])
    state = await browser.until_over(started.headers["location"])

    assert ("saved", ["country", "plan"]) == (state["state"], state["properties"])
    assert 1 == emulator.spent


async def test_part_of_a_file(browser: Browser) -> None:
    """A browser whose download was cut asks for the rest."""
    started = await browser.start()
    state = await browser.until_over(started.headers["location"])

    file = await browser.get(state["file"], headers={"Range": "bytes=10-19"})
    assert (206, 10) == (file.status, len(file.body))


@pytest.mark.parametrize("key", ["monday", None])
async def test_twice_is_one_export(
    browser: Browser, emulator: CohortsEmulator, key: str | None
) -> None:
    """The same request again is the same export: by its key, or while it is not over."""
    first = await browser.start(key=key)
    second = await browser.start(key=key)
    await browser.until_over(first.headers["location"])

    assert first.headers["location"] == second.headers["location"]
    assert 1 == emulator.spent


async def test_another_format_is_another_export(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """Also without a key, and whether or not the first one is over."""
    names = set()
    for suffix in ("csv", "csv.gz", "csv", "csv.gz"):
        started = await browser.start(format=suffix)
        assert (202, suffix) == (started.status, started.json["format"])
        names.add(started.headers["location"])
    for name in names:
        assert "saved" == (await browser.until_over(name))["state"]

    assert 2 == len(names) == emulator.spent


async def test_twice_does_not_wait_for_the_file(
    clock: FakeClock, tmp_path: Path
) -> None:
    """The same order is answered while its file is on the way."""
    async with silent_at("file", clock, tmp_path, job_seconds=0.0) as silent:
        browser, emulator, speak = silent
        first = await browser.start(key="monday")
        await until(lambda: emulator.requests("file") == 1)
        second = await browser.start(key="monday")
        asked = emulator.requests("file")
        speak()
        await browser.until_over(first.headers["location"])

    assert (202, 1) == (second.status, asked)
    assert first.headers["location"] == second.headers["location"]
    assert 1 == emulator.spent


async def test_twice_tries_again(
    make_client: Make, emulator: CohortsEmulator, clock: FakeClock, folder: Path
) -> None:
    """A step that failed is made again for the same order, before it is due."""
    emulator.fail_next("file", faults.refused(403, "no"))
    # Nothing is due by itself.
    still = FakeClock(jumps=False)

    async with mounted(folder, client=make_client, clock=still) as browser:
        for _ in range(9):
            again = await browser.start(key="monday")
            clock.advance(30.0)
            if again.status == 202 and again.json["state"] == "saved":
                break

    assert (202, "saved") == (again.status, again.json["state"])
    assert 2 == emulator.requests("file")
    assert 1 == emulator.spent


async def test_a_key_is_good_after_the_end(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """A form that is sent again by "back" and "reload" spends nothing."""
    first = await browser.start(key="form 1")
    await browser.until_over(first.headers["location"])
    second = await browser.start(key="form 1")

    assert (202, "saved") == (second.status, second.json["state"])
    assert 1 == emulator.spent


async def test_without_a_key_the_next_one_is_new(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """Once an export is over, the next request without a key spends another one."""
    for _ in range(2):
        started = await browser.start()
        await browser.until_over(started.headers["location"])

    assert 2 == emulator.spent
    assert 2 == len((await browser.get("/api/exports")).json)


async def test_key_of_another_export(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """A key is refused for another order."""
    await browser.start(key="monday")
    other = await browser.start(key="monday", format="csv.gz")

    assert (422, "application/problem+json") == (
        other.status,
        other.headers["content-type"],
    )
    assert "Idempotency-Key" in other.json["detail"]
    assert 1 >= emulator.spent


async def test_key_of_two_exports_at_once(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """Of two orders with one key one is begun, and its key stays good for it."""
    emulator.add_cohort("c2", members=IDS)
    orders = [COHORT, "c2"]
    both = await asyncio.gather(*[browser.start(each, key="same") for each in orders])
    again = [await browser.start(each, key="same") for each in orders]

    assert [202, 422] == sorted(answer.status for answer in both)
    assert [each.status for each in both] == [each.status for each in again]
    assert 1 == emulator.spent


async def test_key_of_two_exports_of_two_workers(
    make_client: Make, clock: FakeClock, folder: Path, emulator: CohortsEmulator
) -> None:
    """Where two workers have begun both, each order goes on with its own."""
    root = ExportRoot(str(folder))
    emulator.add_cohort("c2", members=IDS)
    async with make_client() as client:
        for each in (COHORT, "c2"):
            order = ExportOrder(cohort_id=each)
            record = root.record(order, key_occurrence("same"))
            folder.mkdir(exist_ok=True)
            while (tick := await client.tick(record)).record.state != "requested":
                assert tick.last_error is None

    async with mounted(folder, client=make_client, clock=clock) as browser:
        answers = [await browser.start(each, key="same") for each in (COHORT, "c2")]
        third = await browser.start(COHORT, key="same", format="csv.gz")

    assert [202, 202, 422] == [answer.status for answer in (*answers, third)]
    assert 2 == emulator.spent


async def test_a_folder_that_is_away_for_a_moment(
    browser: Browser, emulator: CohortsEmulator, folder: Path
) -> None:
    """A spent export is not over: it goes on when the folder is back."""
    started = await browser.start()
    folder.rename(folder.with_name("away"))
    location = started.headers["location"]
    problems: list[dict[str, object]] = []
    last: dict[str, object] = {}
    async for event in browser.events(f"{location}/events"):
        if event.name == "export" and event.data["problem"] and not problems:
            problems.append(event.data)
            folder.with_name("away").rename(folder)
        last = event.data or last

    assert [False] == [each["is_over"] for each in problems]
    assert "saved" == last["state"]
    assert 1 == emulator.spent


async def test_cancel_parks(browser: Browser, emulator: CohortsEmulator) -> None:
    """A spent export is put aside with its token; no worker goes on with it."""
    started = await browser.start()
    location = started.headers["location"]
    async for event in browser.events(f"{location}/events"):
        if event.data["state"] == "requested":
            break

    cancelled = await browser.ask("DELETE", location)
    again = await browser.ask("DELETE", location)
    state = (await browser.get(location)).json

    assert (200, "parked") == (cancelled.status, cancelled.json["state"])
    assert (200, "parked") == (again.status, again.json["state"])
    assert state["token"]
    assert state["is_over"]
    assert 1 == emulator.spent


async def test_cancel_waits_for_the_answer(clock: FakeClock, tmp_path: Path) -> None:
    """A request that is under way is not cut: its export is put aside with its token."""
    async with silent_at("export", clock, tmp_path) as (browser, emulator, speak):
        start = asyncio.create_task(browser.start())
        await until(lambda: emulator.requests("export") == 1)
        (state,) = (await browser.get("/api/exports")).json
        location = f"/api/exports/{state['id']}"
        cancel = asyncio.create_task(browser.ask("DELETE", location))
        await browser.get(location)
        speak()
        started, cancelled = await asyncio.gather(start, cancel)

    assert "attempted" == state["state"]
    assert (200, "parked") == (cancelled.status, cancelled.json["state"])
    assert cancelled.json["token"]
    assert 202 == started.status
    assert 1 == emulator.spent


async def test_cancel_in_the_queue(
    make_client: Make, clock: FakeClock, folder: Path, emulator: CohortsEmulator
) -> None:
    """An export that waits for its window is taken out of the queue, and costs nothing."""
    for number in range(5):
        emulator.add_cohort(f"c{number}", members=IDS)
    # Time stands still, so the fifth has to wait.
    still = FakeClock(jumps=False)

    async with mounted(folder, client=make_client, clock=still) as browser:
        starts = [await browser.start(f"c{number}") for number in range(5)]
        location = starts[-1].headers["location"]
        before = (await browser.get(location)).json
        cancelled = await browser.ask("DELETE", location)
        after = await browser.get(location)

    assert ("queued", "cancelled") == (before["state"], cancelled.json["state"])
    assert 404 == after.status
    assert 4 >= emulator.spent


async def test_cancel_after_the_end(browser: Browser) -> None:
    """What is saved cannot be cancelled."""
    started = await browser.start()
    await browser.until_over(started.headers["location"])
    late = await browser.ask("DELETE", started.headers["location"])

    assert 409 == late.status
    assert "saved" in late.json["detail"]


async def test_auth_is_asked_by_every_route(
    make_client: Make, clock: FakeClock, folder: Path, emulator: CohortsEmulator
) -> None:
    """Whom the dependency refuses sees nothing, spends nothing, and is told so."""

    def signed_in(authorization: Annotated[str, Header()] = "") -> None:
        if authorization != "Bearer friend":
            raise HTTPException(
                401, "sign in first", headers={"WWW-Authenticate": "Bearer"}
            )

    options = {"client": make_client, "clock": clock}
    async with mounted(folder, auth=signed_in, **options) as browser:
        answers = [
            await browser.ask(method, f"/api{path}")
            for method, path in [
                ("GET", "/cohorts"),
                ("GET", "/usage"),
                ("GET", "/plan?cohort_id=1"),
                ("GET", "/exports"),
                ("POST", "/exports"),
                ("GET", "/exports/events"),
                ("GET", "/exports/1"),
                ("DELETE", "/exports/1"),
                ("GET", "/exports/1/events"),
                ("GET", "/exports/1/file"),
            ]
        ]
        friend = {"Authorization": "Bearer friend"}
        welcome = await browser.get("/api/cohorts", headers=friend)
        schema = (await browser.get("/openapi.json")).json

    assert {401} == {answer.status for answer in answers}
    assert {"Bearer"} == {answer.headers["www-authenticate"] for answer in answers}
    assert "sign in first" == answers[0].json["detail"]
    assert 200 == welcome.status
    assert 10 == sum(len(methods) for methods in schema["paths"].values())
    assert 0 == emulator.spent


async def test_auth_with_a_status_of_its_own(make_client: Make, folder: Path) -> None:
    """A status that HTTP does not know is answered as it was raised."""

    def expired() -> None:
        raise HTTPException(419, "the session has expired")

    async with mounted(folder, auth=expired, client=make_client) as browser:
        answer = await browser.get("/api/exports")

    assert (419, 419) == (answer.status, answer.json["status"])
    assert "the session has expired" == answer.json["detail"]


async def test_auth_has_to_be_written() -> None:
    """Nobody opens the router by leaving a word out."""
    with pytest.raises(TypeError, match="auth"):
        CohortExports("files").router()  # type: ignore[call-arg]


async def test_client_in_routes_of_ones_own(
    make_client: Make, clock: FakeClock, folder: Path
) -> None:
    """The dependency is the client of the lifespan; errors are problems there, too."""
    exports = CohortExports(folder, client=make_client, clock=clock)
    app = FastAPI(lifespan=exports.lifespan)
    install_problems(app)

    dependency = Depends(exports.client)

    async def size(cohort_id: str, client: CohortsClient = dependency) -> int | None:
        return (await client.get_cohort(cohort_id)).size

    app.get("/size/{cohort_id}")(size)

    async with served(app, stop=exports.stop) as browser:
        found = await browser.get(f"/size/{COHORT}")
        missing = await browser.get("/size/zzz")

    assert 50 == found.json
    assert (404, "NotFoundError") == (missing.status, missing.json["error"])


async def test_without_its_lifespan(folder: Path) -> None:
    """An app that forgot the lifespan is told how to pass it."""
    app = FastAPI()
    app.include_router(CohortExports(folder).router(auth=None))

    async with served(app) as browser:
        answer = await browser.get("/exports")

    assert 500 == answer.status
    assert "lifespan=exports.lifespan" in answer.json["detail"]


async def test_exports_of_others_are_shown(
    browser: Browser, make_client: Make, tmp_path: Path
) -> None:
    """What a script has exported to a file of its own is listed, and not served."""
    async with make_client() as client:
        await client.export(COHORT, tmp_path / "mine.csv")

    (state,) = (await browser.get("/api/exports")).json
    file = await browser.get(f"/api/exports/{state['id']}/file")

    assert ("saved", False, None) == (state["state"], state["has_file"], state["file"])
    assert (409, True) == (file.status, "does not serve" in file.json["detail"])


async def test_exports_of_others_are_left_alone(
    browser: Browser, make_client: Make
) -> None:
    """One that another program waits for is not put aside; who that is, is told."""
    async with make_client() as client:
        await client.request_export(COHORT)
        (before,) = await client.jobs()
        (state,) = (await browser.get("/api/exports")).json
        refused = await browser.ask("DELETE", f"/api/exports/{state['id']}")
        (after,) = await client.jobs()

    assert ("requested", False) == (state["state"], state["is_own"])
    assert 409 == refused.status
    assert str(before.label) in refused.json["detail"]
    assert "amplitude-cohorts jobs park" in refused.json["detail"]
    assert before == after


async def test_an_export_of_two_services_is_left_alone(
    make_client: Make, clock: FakeClock, tmp_path: Path
) -> None:
    """With one key and two folders they share it: neither takes the other's file."""
    still = FakeClock(jumps=False)

    async with (
        mounted(tmp_path / "a", client=make_client, clock=still) as first,
        mounted(tmp_path / "b", client=make_client, clock=still) as second,
    ):
        await first.start(key="monday")
        started = await second.start(key="monday")
        refused = await second.ask("DELETE", started.headers["location"])

    assert (202, "requested") == (started.status, started.json["state"])
    assert 409 == refused.status
    assert "not by this service alone" in refused.json["detail"]


async def test_exports_left_in_the_store_are_taken_up(
    make_client: Make, clock: FakeClock, folder: Path, emulator: CohortsEmulator
) -> None:
    """A worker that starts goes on with what one that is gone has begun."""
    options = {"client": make_client, "clock": clock}
    async with mounted(folder, **options) as browser:
        started = await browser.start()

    async with mounted(folder, **options) as browser:
        state = await browser.until_over(started.headers["location"])
        file = await browser.get(state["file"])

    assert 200 == file.status
    assert 1 == emulator.spent


async def test_hostile_names(
    emulator: CohortsEmulator, browser: Browser, make_client: Make
) -> None:
    """A name is data in JSON, and no part of a header or of a path."""
    emulator.add_cohort("<x>", members=IDS, name=HOSTILE)
    listed = await browser.get("/api/cohorts")
    unknown = await browser.start(HOSTILE.replace(" ", ""))
    started = await browser.start("<x>")
    state = await browser.until_over(started.headers["location"])
    file = await browser.get(state["file"])

    assert HOSTILE in {cohort["name"] for cohort in listed.json}
    assert "application/json" == listed.headers["content-type"]
    assert "application/problem+json" == unknown.headers["content-type"]
    assert 'attachment; filename="_x_.csv"' == file.headers["content-disposition"]
    assert {"nosniff"} == {
        answer.headers["x-content-type-options"]
        for answer in (listed, unknown, started, file)
    }


async def test_no_path_from_outside(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """The name of a cohort leads to no file but its own."""
    started = await browser.start("../../etc/passwd")
    other = await browser.get("/api/exports/..%2f..%2fetc%2fpasswd/file")

    assert 404 == started.status
    assert 404 == other.status
    assert 0 == emulator.spent


async def test_environment_has_to_name_a_store(
    emulator: CohortsEmulator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports that end with the process are refused when the app starts."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    exports = CohortExports(folder)

    with pytest.raises(errors.ConfigurationError, match="AMPLITUDE_JOBS"):
        async with exports.lifespan(FastAPI()):
            pass

    monkeypatch.setenv("AMPLITUDE_JOBS", str(folder / "exports.db"))
    async with exports.lifespan(FastAPI()):
        assert [] == await (await exports.client()).jobs()


@pytest.mark.parametrize(
    ("to", "options"),
    [
        ("files", {"keep_files": -1.0}),
        ("files", {"keep_files": float("nan")}),
        ("s3://key:secret@bucket/exports", {}),
        ("https://bucket.example/exports?X-Amz-Signature=1", {}),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    to: str, options: dict[str, float]
) -> None:
    """Where the app is made, before anything is served; no credentials are repeated."""
    with pytest.raises(errors.CohortsError) as refused:
        CohortExports(to, **options)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("to", [b"files", Bucket(), None])
def test_only_what_a_record_can_carry(to: Any) -> None:
    """An object of one process is no place for exports that any worker goes on with."""
    with pytest.raises(errors.InvalidInputError, match="address of a bucket"):
        CohortExports(to)
