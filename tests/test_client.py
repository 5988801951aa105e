"""What the service tells: lists, usage, one cohort; over real sockets."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob, export_cohort
from amplitude_cohorts_async.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidInputError,
    NotFoundError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.events import Event, PartlyUnreadable
from amplitude_cohorts_async.models import IdType, Routes
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.exporting import EXPORT, FILE, LIST, STATUS, USAGE, names_in
from support.fault_server import FaultServer, json_reply, reply

DATA = Path(__file__).parent / "data/vendor"


async def test_the_documented_list(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """The sample of the vendor's page becomes a cohort, with times in UTC."""
    server.on(LIST, reply(200, (DATA / "list.json").read_bytes()))
    (cohort,) = await exporter.list_cohorts()

    assert ("GET", LIST) == (server.seen[0].method, server.seen[0].target)
    assert ("id_12345", "Test Cohort 1", 111) == (cohort.id, cohort.name, cohort.size)
    assert 123456 == cohort.app_id
    assert datetime(2023, 3, 21, 22, 21, 34, tzinfo=UTC) == cohort.last_modified
    assert datetime(2023, 3, 21, 22, 21, 28, tzinfo=UTC) == cohort.created_at
    assert datetime(2023, 3, 21, 23, 10, 33, tzinfo=UTC) == cohort.last_computed
    assert ("demo@amplitude.com",) == tuple(cohort.owners)
    assert (True, True, False) == (cohort.published, cohort.finished, cohort.archived)
    assert {} == cohort.extra
    (sync,) = cohort.syncs
    assert ("braze", "hourly", None) == (sync.target, sync.frequency, sync.last_failure)
    assert datetime(2023, 3, 21, 23, 9, 58, 848454, UTC) == sync.last_successful
    assert {"user_id": "demo@amplitude.com"} == sync.params


async def test_sync_info_is_asked_for(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """
    The parameter is the page's, its value in lower case; without it there is none.
    """
    server.on(LIST, json_reply({"cohorts": []}))

    assert [] == await exporter.list_cohorts(include_sync_info=True)
    assert [] == await exporter.list_cohorts(include_sync_info=False)
    assert [f"{LIST}?includeSyncInfo=true", LIST] == [s.target for s in server.seen]


async def test_the_documented_usage(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """The sample of the vendor's page, whose time has no zone and is in UTC."""
    server.on(USAGE, reply(200, (DATA / "usage.json").read_bytes()))
    usage = await exporter.get_usage()

    assert USAGE == server.seen[0].target
    assert (500, 42, 458) == (usage.limit, usage.used, usage.remaining)
    assert datetime(2026, 6, 1, tzinfo=UTC) == usage.resets_at


@pytest.mark.parametrize(
    ("document", "limit", "used"),
    [
        ({"rest_download": {"limit": None, "usage": 7, "resets_at": None}}, None, 7),
        ({"rest_download": {"usage": 7}}, None, 7),
        ({"rest_download": {"limit": "500", "usage": "7", "new": []}}, 500, 7),
        ({"limit": 500, "usage": 501, "resetsAt": 1780272000}, 500, 501),
    ],
)
async def test_usage_in_other_words(
    server: FaultServer,
    exporter: CohortsClient,
    document: object,
    limit: int | None,
    used: int,
) -> None:
    """A plan without a limit has none; remaining is never negative."""
    server.on(USAGE, json_reply(document))
    usage = await exporter.get_usage()

    assert (limit, used) == (usage.limit, usage.used)
    assert usage.remaining is None or usage.remaining >= 0


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"rest_download": None},
        {"rest_download": {"usage": None}},
        {"rest_download": 7},
    ],
)
async def test_usage_that_is_none(
    server: FaultServer, exporter: CohortsClient, document: object
) -> None:
    """A usage without a count is no usage."""
    server.on(USAGE, json_reply(document))

    with pytest.raises(UnexpectedResponseError, match=r"rest_download"):
        await exporter.get_usage()


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"cohorts": ["example_value"]}, "$.cohorts"),
        ({"cohorts": None}, "$.cohorts"),
        ({"error": {"message": "no"}}, "$.cohorts"),
    ],
)
async def test_a_list_that_cannot_be_read(
    server: FaultServer, exporter: CohortsClient, document: object, path: str
) -> None:
    """What is wrong in a list is named by its path."""
    server.on(LIST, json_reply(document))

    with pytest.raises(UnexpectedResponseError) as caught:
        await exporter.list_cohorts()

    assert path in caught.value.path
    assert caught.value.path in str(caught.value)


async def test_an_odd_cohort_hides_no_other(
    server: FaultServer, clock: FakeClock
) -> None:
    """What can be read is listed; the rest is in `extra`, and in a warning."""
    odd = {"id": "c1", "name": None, "metadata": {"a": 1}, "definition": "text"}
    nameless = {"name": "without an id"}
    server.on(LIST, json_reply({"cohorts": [odd, nameless, {"id": "c3"}]}))
    told: list[Event] = []

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=server.url, clock=clock, hook=told.append
    ) as client:
        first, second = await client.list_cohorts()

    assert ("c1", None, "c3") == (first.id, first.name, second.id)
    assert {"metadata": {"a": 1}, "definition": "text"} == first.extra
    assert [
        PartlyUnreadable(
            operation="list",
            count=3,
            paths=("$.cohorts[0].metadata", "$.cohorts[0].definition", "$.cohorts[1]"),
        )
    ] == [event for event in told if isinstance(event, PartlyUnreadable)]


async def test_a_list_of_nothing_readable_is_none(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """Where no entry has an id, the answer is no list of cohorts."""
    server.on(LIST, json_reply({"cohorts": [{"name": "a"}, 7]}))

    with pytest.raises(UnexpectedResponseError, match="among its 2 entries"):
        await exporter.list_cohorts()


async def test_one_cohort_spends_nothing(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """
    A cohort is found in the list: the only endpoint for one of them costs an export.
    """
    emulator.add_cohort("26umsb5", members=["ann", "bob"])
    emulator.add_cohort("hidden1", members=["eve"], published=False)

    assert 2 == (await client.get_cohort("26umsb5")).size
    for other in ("26UMSB5", "hidden1"):
        with pytest.raises(NotFoundError, match=other):
            await client.get_cohort(other)
    assert 0 == emulator.spent
    assert [] == emulator.violations


@pytest.mark.parametrize("cohort_id", ["", "a b", None, 26])
async def test_one_cohort_without_an_id(
    server: FaultServer, exporter: CohortsClient, cohort_id: str
) -> None:
    """What cannot be an id is not looked for."""
    with pytest.raises(InvalidInputError):
        await exporter.get_cohort(cohort_id)
    assert [] == server.seen


@pytest.mark.parametrize(
    ("api_key", "secret_key", "words"),
    [
        ("other-api-key", SECRET_KEY, "Invalid API Key"),
        (API_KEY, "other-secret-key", "Invalid API/Secret Key combination"),
    ],
)
async def test_wrong_keys(
    emulator: CohortsEmulator,
    clock: FakeClock,
    api_key: str,
    secret_key: str,
    words: str,
) -> None:
    """The service's 403 for wrong keys says which, and names the region as a reason."""
    async with CohortsClient(
        api_key, secret_key, base_url=emulator.base_url, clock=clock
    ) as client:
        with pytest.raises(AuthenticationError, match="region") as caught:
            await client.list_cohorts()

    assert (403, words) == (caught.value.status, caught.value.details)
    assert 1 == emulator.requests("list")


async def test_keys_that_are_lists_apart(server: FaultServer, clock: FakeClock) -> None:
    """The header is Basic over the two keys and one colon, in base64."""
    server.on(LIST, json_reply({"cohorts": []}))

    async with CohortsClient(
        "123456780", "1234567890==", base_url=server.url, clock=clock
    ) as client:
        await client.list_cohorts()

    assert (
        "Basic MTIzNDU2NzgwOjEyMzQ1Njc4OTA9PQ=="
        == (server.seen[0].headers["authorization"])
    )


async def test_html_instead_of_a_list(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """A login page is no empty list."""
    emulator.fail_next("list", faults.html())

    with pytest.raises(UnexpectedResponseError, match="text/html") as caught:
        await client.list_cohorts()
    assert "Please log in" in str(caught.value)


async def test_a_prefix_of_the_base_url(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """A gateway may serve the API below a path of its own."""
    server.on(f"/gate%2Fway{LIST}", json_reply({"cohorts": []}))

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=f"{server.url}/gate%2Fway/", clock=clock
    ) as client:
        assert [] == await client.list_cohorts()


async def test_from_the_environment(
    cohorts_emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """One call exports a cohort, with all it needs from the environment."""
    cohorts_emulator.add_cohort("26umsb5", members=["ann", "bob"])
    clock = cohorts_emulator.clock
    assert isinstance(clock, FakeClock)

    async with CohortsClient.from_env(clock=clock) as client:
        assert ["26umsb5"] == [cohort.id for cohort in await client.list_cohorts()]
        assert cohorts_emulator.base_url in repr(client)
        saved = await client.export("26umsb5", tmp_path / "members.csv")
    assert 1 == cohorts_emulator.spent
    assert ["members.csv"] == names_in(tmp_path)
    assert b"ann" in saved.path.read_bytes()


async def test_one_call_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without keys in the environment the message names the variable."""
    monkeypatch.delenv("AMPLITUDE_API_KEY", raising=False)

    with pytest.raises(ConfigurationError, match="AMPLITUDE_API_KEY"):
        await export_cohort("26umsb5", tmp_path / "members.csv")


async def test_the_documented_job(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """The three steps, with the page's own answers, ask for the page's own paths."""

    def sample(name: str) -> bytes:
        return (DATA / name).read_bytes().replace(b"<cohort_id>", b"26umsb5")

    export = json.loads(sample("export.json"))
    server.on(EXPORT, reply(202, sample("export.json")))
    job = await exporter.request_export("26umsb5")
    status = STATUS.replace(
        "Sf7M9j", job.request_id.replace("<", "%3C").replace(">", "%3E")
    )
    server.on(
        status,
        reply(202, sample("status-running.json")),
        reply(200, sample("status-completed.json")),
    )

    assert export["request_id"] == job.request_id
    assert not (await job.poll()).done
    assert (await job.poll()).done
    assert [EXPORT, status, status] == [seen.target for seen in server.seen]
    assert FILE not in {seen.target for seen in server.seen}


async def test_usage_is_not_described_everywhere(
    server: FaultServer, clock: FakeClock
) -> None:
    """The third-party description has no usage endpoint, and nothing is sent."""
    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=server.url, clock=clock, routes=Routes.OPENAPI
    ) as client:
        with pytest.raises(InvalidInputError, match=r"Routes\.VENDOR"):
            await client.get_usage()
    assert [] == server.seen


def test_a_client_belongs_to_one_event_loop(clock: FakeClock) -> None:
    """Its connections do, so a second `asyncio.run()` is told what to do."""
    kept: list[CohortsClient] = []

    async def first() -> None:
        async with CohortsEmulator(
            api_key=API_KEY, secret_key=SECRET_KEY, clock=clock
        ) as emulator:
            kept.append(
                CohortsClient(
                    API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock
                )
            )
            await kept[0].get_usage()
            await kept[0].list_cohorts()
            kept[0].resume_export("Sf7M9j")
            for session in kept[0]._operations.session.transport._own.values():
                await session.close()

    async def second() -> None:
        client = kept[0]
        job = client.resume_export

        for use in (client.get_usage, client.list_cohorts, lambda: job("Sf7M9j")):
            with pytest.raises(ConfigurationError, match="another event loop"):
                await use()

        await client.aclose()

    asyncio.run(first())
    asyncio.run(second())


def test_a_job_belongs_to_the_loop_of_its_client(clock: FakeClock) -> None:
    """A job that is used on another one says so, too."""

    async def first() -> tuple[CohortsClient, ExportJob]:
        async with FaultServer() as server:
            server.on(USAGE, json_reply({"rest_download": {"limit": 500, "used": 1}}))
            client = CohortsClient(
                API_KEY, SECRET_KEY, base_url=server.url, clock=clock
            )
            await client.get_usage()
            for session in client._operations.session.transport._own.values():
                await session.close()
            return client, client.resume_export("Sf7M9j")

    client, job = asyncio.run(first())

    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(job.poll())

    asyncio.run(client.aclose())


async def test_an_object_of_the_list_goes_wherever_an_id_goes(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """A `Cohort` names itself in every call that takes the id of one."""
    emulator.add_cohort("c1", members=["ann"])
    (cohort,) = await client.list_cohorts()

    assert cohort == await client.get_cohort(cohort)
    assert "c1" == (await client.request_export(cohort)).cohort_id
    assert b"ann" in (await client.export(cohort, tmp_path / "a.csv")).path.read_bytes()
    assert ["c1"] == [
        outcome.cohort_id async for outcome in client.export_many([cohort], tmp_path)
    ]
    assert ["c1"] == [p.cohort_id for p in (await client.plan([cohort])).exports]
    assert "c1" == (await client.update_membership(cohort, add=["bob"])).cohort_id
    assert 2 == (await client.sync_membership(cohort, ["ann", "bob"])).kept
    report = await client.upload_cohort(
        "Spring buyers",
        ["eve", "bob"],
        id_type=IdType.USER_ID,
        app_id=cohort.app_id,
        owner="ann@example.com",
        replace=cohort,
    )
    assert "c1" == report.cohort_id
    assert [] == emulator.violations
