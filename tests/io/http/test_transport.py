"""Two worlds: what Amplitude is told, and what its store may never hear."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import (
    BadRequestError,
    ConfigurationError,
    ConnectionFailedError,
    IncompleteDownloadError,
    InvalidIdsError,
    NotFoundError,
    ServerError,
    TransportError,
)
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.models import IdType
from amplitude_cohorts_async.policies import Retrying
from amplitude_cohorts_async.testing import FakeClock
from support.canary import API_KEY, BASIC, SECRET_KEY, find_secrets
from support.exporting import (
    COMPLETED,
    CSV,
    EXPORT,
    FILE,
    GZIP,
    LINK,
    LIST,
    OBJECT,
    REQUEST,
    STATUS,
    USAGE,
    whole,
)
from support.fault_server import (
    DROP,
    FaultServer,
    Reply,
    closed_port,
    json_reply,
    redirect,
    reply,
)

OURS = {"host", "accept", "accept-encoding", "user-agent"}


@asynccontextmanager
async def client_of(
    server: FaultServer, clock: FakeClock, **options: object
) -> AsyncIterator[CohortsClient]:
    """Make a client of a server, with options of the test's own."""
    keywords = {"base_url": server.url, "limits": UNLIMITED, **options}

    async with CohortsClient(API_KEY, SECRET_KEY, clock=clock, **keywords) as client:  # type: ignore[arg-type]
        yield client


async def test_the_environment_has_no_say(
    server: FaultServer,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither proxies nor a netrc of the environment are consulted."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))

    with closed_port() as port:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")

        async with client_of(server, clock) as client:
            await client.resume_export(REQUEST).download(tmp_path / "members.csv")

    assert f"Basic {BASIC}" == server.requests(FILE)[0].headers["authorization"]
    assert OURS == server.requests(OBJECT)[0].headers.keys()


async def test_a_proxy_of_the_callers_carries_both(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """
    `proxy` is asked for Amplitude and for the store, and learns no more than they do.
    """
    api, store = "http://127.0.0.1:9", "http://localhost:9"
    server.on(f"{api}{STATUS}", COMPLETED)
    server.on(f"{api}{FILE}", redirect(f"{store}{OBJECT}?{LINK}"))
    server.on(f"{store}{OBJECT}", whole())

    async with client_of(server, clock, base_url=api, proxy=server.url) as client:
        job = client.resume_export(REQUEST)
        saved = await job.download(tmp_path / "members.csv")

    assert CSV == saved.path.read_bytes()
    assert f"{store}{OBJECT}?{LINK}" == server.seen[-1].target
    assert "authorization" not in server.seen[-1].headers


async def test_cookies_go_nowhere(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """A cookie that the service sets comes back neither to it nor to the store."""
    cookie = "SERVERID=x; path=/"
    server.on(USAGE, json_reply({"rest_download": {"usage": 1}}, set_cookie=cookie))
    server.on(FILE, reply(302, location=OBJECT, set_cookie=cookie))

    async with client_of(server, clock) as client:
        await client.get_usage()
        await client.get_usage()
        await client.resume_export(REQUEST).download(tmp_path / "members.csv")

    assert [] == [seen for seen in server.seen if "cookie" in seen.headers]


async def test_a_session_of_the_callers(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """
    A given session carries the requests, stays open, and says nothing to the store.
    """
    async with aiohttp.ClientSession(
        base_url="https://elsewhere.example.com",
        headers={"X-Mine": "1", "Authorization": "Bearer mine-and-nobody-elses"},
        cookies={"mine": "1"},
        cookie_jar=aiohttp.CookieJar(unsafe=True),
        raise_for_status=True,
        auto_decompress=False,
    ) as session:
        async with client_of(server, clock, session=session) as client:
            job = client.resume_export(REQUEST)
            saved = await job.download(tmp_path / "members.csv")

        assert not session.closed
        assert CSV == saved.path.read_bytes()
        assert f"Basic {BASIC}" == server.requests(STATUS)[0].headers["authorization"]
        assert "1" == server.requests(FILE)[0].headers["x-mine"]
        assert OURS == server.requests(OBJECT)[0].headers.keys()

        async with session.get(f"{server.url}{OBJECT}") as answer:
            assert 200 == answer.status


async def test_a_session_that_raises_for_status(
    server: FaultServer, clock: FakeClock
) -> None:
    """A session's own `raise_for_status` does not change which error comes."""
    server.on(LIST, reply(501))

    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        client_of(server, clock, session=session) as client,
    ):
        with pytest.raises(ServerError):
            await client.list_cohorts()


async def test_a_session_that_repeats(server: FaultServer, clock: FakeClock) -> None:
    """
    A session's middlewares are not asked: one that repeats would spend two exports.
    """
    server.on(EXPORT, DROP)

    async def twice(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        try:
            return await handler(request)
        except aiohttp.ClientError:
            return await handler(request)

    async with (
        aiohttp.ClientSession(middlewares=(twice,)) as session,
        client_of(server, clock, session=session) as client,
    ):
        with pytest.raises(ConnectionFailedError):
            await client.request_export("26umsb5")

    assert 1 == len(server.seen)


async def test_a_session_with_credentials(clock: FakeClock) -> None:
    """Two credentials cannot be sent in one header: the session is refused at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("a", "b"))

    async with session:
        with pytest.raises(ConfigurationError, match="auth="):
            CohortsClient(API_KEY, SECRET_KEY, session=session)


async def test_a_session_that_is_closed(server: FaultServer, clock: FakeClock) -> None:
    """A session its owner has closed is told as such."""
    session = aiohttp.ClientSession()
    await session.close()

    async with client_of(server, clock, session=session) as client:
        with pytest.raises(ConfigurationError, match="session"):
            await client.get_usage()


async def test_a_job_that_outlives_its_client(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """A job of a closed client says so, and opens no connection that nobody closes."""
    async with client_of(server, clock) as client:
        job = client.resume_export(REQUEST)

    for go_on in (job.poll, lambda: job.download(tmp_path / "x.csv")):
        with pytest.raises(ConfigurationError, match="closed"):
            await go_on()
    with pytest.raises(ConfigurationError, match="closed"):
        await client.get_usage()

    await client.aclose()
    assert [] == server.seen


async def test_closing_under_cancellation(
    server: FaultServer, clock: FakeClock
) -> None:
    """Whoever is cancelled while the client closes leaves no connection open."""
    server.on(USAGE, json_reply({"rest_download": {"usage": 1}}))

    async with client_of(server, clock) as client:
        await client.get_usage()
        with pytest.raises(NotFoundError):
            await client.request_export("none")
        closing = asyncio.ensure_future(client.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])

    # What is left open complains when the test ends.


async def test_what_cannot_be_parsed_is_not_shown(
    server: FaultServer, clock: FakeClock
) -> None:
    """aiohttp quotes what it could not parse; our message does not."""
    server.on(LIST, Reply(raw=b"user-ann\r\n\r\n"))

    async with client_of(server, clock) as client:
        with pytest.raises(ConnectionFailedError) as caught:
            await client.list_cohorts()

    assert "user-ann" not in str(caught.value)


async def test_large_answers_arrive_whole(
    server: FaultServer, clock: FakeClock
) -> None:
    """A list of megabytes is read to its end, compressed or not."""
    cohorts = [{"id": f"{n}", "name": "x" * 500} for n in range(4_000)]
    server.on(LIST, json_reply({"cohorts": cohorts}))

    async with client_of(server, clock) as client:
        assert 4_000 == len(await client.list_cohorts())


async def test_many_downloads_share_nothing(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """Downloads side by side, two of them of one target, all end whole."""
    async with client_of(server, clock) as client:
        job = client.resume_export(REQUEST)
        names = [*(f"{n}.csv" for n in range(6)), "0.csv", "6.csv.gz"]
        saved = await asyncio.gather(*(job.download(tmp_path / n) for n in names))

    assert {CSV, GZIP} == {each.path.read_bytes() for each in saved}


async def test_a_session_that_finds_credentials_of_its_own_is_told(
    server: FaultServer,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A netrc that names the service cannot be sent beside the keys."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password other\n")
    monkeypatch.setenv("NETRC", str(netrc))

    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        client_of(server, clock, session=session) as client,
    ):
        with pytest.raises(ConfigurationError, match="netrc"):
            await client.list_cohorts()

    assert [] == server.seen


async def test_an_error_is_read_in_part(server: FaultServer, clock: FakeClock) -> None:
    """64 KiB tell what was wrong; an error page without end is left unread."""
    server.on(LIST, reply(400, b"?" * 100_000, length=1 << 30, then="hang"))

    async with client_of(server, clock) as client:
        with pytest.raises(BadRequestError) as caught:
            await client.list_cohorts()

    assert 600 > len(str(caught.value))
    assert 600 > len(caught.value.details)


async def test_a_long_list_of_refused_ids_is_a_sample(
    server: FaultServer, clock: FakeClock
) -> None:
    """A strict write whose every id is unknown names the first of them, whole."""
    ids = [f"user-{number:06}" for number in range(50_000)]
    result = {"skipped_ids": ids, "id_type": "BY_NAME", "operation": "ADD"}
    metadata = {"cohort_id": "c", "memberships_result": [result]}
    server.on(
        "/api/3/cohorts/membership",
        json_reply({"error": {"http_code": 400, "metadata": metadata}}, 400),
    )

    async with client_of(server, clock) as client:
        with pytest.raises(InvalidIdsError) as caught:
            await client.update_membership(
                "c", add=ids, id_type=IdType.USER_ID, skip_invalid_ids=False
            )

    sample = list(caught.value.sample)
    assert ids[: len(sample)] == sample
    assert 1_000 < len(sample)


@pytest.mark.parametrize("is_escaped", [True, False])
async def test_no_part_of_a_long_answer_shows_a_key(
    server: FaultServer, clock: FakeClock, is_escaped: bool
) -> None:
    """Anything in an answer may be quoted by an error, however far behind it is."""
    key = "".join(f"\\u{ord(c):04x}" for c in SECRET_KEY) if is_escaped else SECRET_KEY
    error = f'"error":{{"http_code":400,"message":"{key}"}}'
    text = f'{{"pad":"{"x" * 70_000}",{error}}}'
    server.on("/api/3/cohorts/membership", reply(200, text.encode()))

    async with client_of(server, clock) as client:
        with pytest.raises(BadRequestError) as caught:
            await client.update_membership("c", add=["ann"], id_type=IdType.USER_ID)

    assert "[hidden]" in str(caught.value)
    assert [] == find_secrets(f"{caught.value} {vars(caught.value)}")


HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
DRIPS = {
    "header lines": Reply(raw=b"HTTP/1.1 200 OK\r\n", then="drip", more=b"a: b\r\n"),
    "early hints": Reply(then="drip", more=HINT),
}
FLOOD = Reply(raw=HINT * 2_000, then="drip", more=HINT)
HURRIED = {
    "timeout": 0.2,
    "retrying": Retrying(attempts=1),
    "stall_timeout": 5.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize("path", [LIST, STATUS, FILE])
async def test_an_answer_that_drips_is_given_up(
    server: FaultServer, clock: FakeClock, tmp_path: Path, path: str, drip: str
) -> None:
    """The head of an answer has its time, however lively it comes."""
    server.on(path, DRIPS[drip])

    async with client_of(server, clock, **HURRIED) as client:
        calls = {
            LIST: client.list_cohorts,
            STATUS: client.resume_export(REQUEST).poll,
            FILE: lambda: client.resume_export(REQUEST).download(tmp_path / "a.csv"),
        }
        with pytest.raises(TransportError, match=r"not answered in time|interim"):
            await calls[path]()


@pytest.mark.slow
@pytest.mark.parametrize("reply_of_store", [*DRIPS.values(), FLOOD])
async def test_a_store_that_drips_is_given_up(
    server: FaultServer, clock: FakeClock, tmp_path: Path, reply_of_store: Reply
) -> None:
    """So has that of the store's answer; then another link is tried, and no more."""
    server.on(OBJECT, reply_of_store)

    async with client_of(server, clock, **HURRIED) as client:
        with pytest.raises(IncompleteDownloadError):
            await client.resume_export(REQUEST).download(tmp_path / "a.csv")


@pytest.mark.parametrize("path", [LIST, FILE])
async def test_a_flood_of_interim_answers_is_an_error(
    server: FaultServer, clock: FakeClock, tmp_path: Path, path: str
) -> None:
    """Nobody waits for the end of it."""
    server.on(path, FLOOD)
    async with client_of(server, clock, **HURRIED | {"timeout": 30.0}) as client:
        calls = {
            LIST: client.list_cohorts,
            FILE: lambda: client.resume_export(REQUEST).download(tmp_path / "a.csv"),
        }
        with pytest.raises(ConnectionFailedError, match="interim"):
            await calls[path]()


async def test_a_few_interim_answers_do_no_harm(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """What comes before an answer is left out, on connections that are kept, too."""
    redirected = redirect(f"{server.url}{OBJECT}?{LINK}")
    server.on(STATUS, Reply(raw=HINT * 3 + COMPLETED.raw))
    server.on(FILE, Reply(raw=HINT * 3 + redirected.raw))
    server.on(OBJECT, Reply(raw=HINT * 3 + whole().raw))

    async with client_of(server, clock) as client:
        for _ in range(4):
            job = client.resume_export(REQUEST)
            saved = await job.download(tmp_path / "a.csv")
            assert CSV == saved.path.read_bytes()
