"""
A secret is nowhere: a whole life of a client is searched for the suite's own keys.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

import aiohttp
import attrs
import pytest

from amplitude_cohorts_async import CohortsClient, blocking, errors
from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.events import Event
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.policies import Polling, Retrying
from amplitude_cohorts_async.testing import FakeClock
from support.canary import API_KEY, BASIC, SECRET_KEY, find_secrets
from support.exporting import (
    ACCEPTED,
    COHORT,
    COMPLETED,
    EXPORT,
    FILE,
    LINK,
    LIST,
    OBJECT,
    RUNNING,
    STATUS,
    USAGE,
    cut,
    expire_when_asked,
    rest,
    store_error,
)
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

TESTS = str(Path(__file__).parent)
PAIR = base64.b64encode(f"{API_KEY}:{SECRET_KEY}".encode()).decode().rstrip("=")
ECHO = f"text/html; {API_KEY} {SECRET_KEY} {PAIR}"
QUOTED = f"{API_KEY} {SECRET_KEY} {BASIC} https://s3.example.com/a?{LINK}".encode()


def shown(error: BaseException) -> str:
    """Write down all that a careless program may show of an error."""
    parts = [str(error), repr(error), *map(str, error.args)]
    parts += traceback.format_exception(error)
    parts += [repr(vars(error)), repr(pickle.loads(pickle.dumps(error)))]
    parts += getattr(error, "__notes__", [])
    parts += with_locals(error)

    return "\n".join(parts)


def with_locals(error: BaseException) -> list[str]:
    """Write down a traceback as debuggers and error trackers do, with all locals."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    link: traceback.TracebackException | None = report

    while link is not None:
        # The test's own frames hold what the server was told to quote.
        link.stack[:] = [each for each in link.stack if TESTS not in each.filename]
        link = link.__cause__ or link.__context__

    return list(report.format())


FAILURES: dict[str, dict[str, Reply]] = {
    "export quoted": {EXPORT: reply(400, QUOTED)},
    "export quoted as a success": {EXPORT: reply(200, QUOTED)},
    "export quoted in a long page": {EXPORT: reply(200, QUOTED + b"x" * 99_999)},
    "export quoted in JSON": {
        EXPORT: json_reply({"error": {"metadata": {"details": QUOTED.decode()}}}, 403)
    },
    "export breaks": {EXPORT: reply(500, QUOTED)},
    "export lost": {EXPORT: DROP},
    "export reset": {EXPORT: RESET},
    "export hangs": {EXPORT: HANG},
    "export is noise": {EXPORT: Reply(raw=b"HTTP/1.1 abc " + QUOTED + b"\r\n\r\n")},
    "export redirects": {EXPORT: redirect(f"https://s3.example.com/a?{LINK}")},
    "export echoed": {EXPORT: reply(200, b"<p>", content_type=ECHO)},
    "export refused with an echo": {EXPORT: reply(418, content_type=ECHO)},
    "status echoed": {STATUS: reply(200, b"<p>", content_type=ECHO, etag=ECHO)},
    "file leads to an echo": {FILE: redirect(f"http://s3.example.com/{PAIR}")},
    "file leads to a user's echo": {FILE: redirect(f"https://a@b.c/{SECRET_KEY}")},
    "store leads to an echo": {OBJECT: redirect(f"http://s3.example.com/{PAIR}")},
    "store echoes": {OBJECT: reply(403, QUOTED, content_type=ECHO, etag=ECHO)},
    "status quoted": {STATUS: reply(403, QUOTED)},
    "status is unknown": {STATUS: json_reply({"async_status": QUOTED.decode()})},
    "status failed": {STATUS: json_reply({"async_status": f"FAIL {QUOTED.decode()}"})},
    "status never ends": {STATUS: RUNNING},
    "file quoted": {FILE: reply(404, QUOTED)},
    "file leads to http": {FILE: redirect(f"http://s3.example.com/a?{LINK}")},
    "file leads to a user": {FILE: redirect(f"https://a:b@s3.example.com/?{LINK}")},
    "file leads to no URL": {FILE: redirect(f"https://[s3/?{LINK}")},
    "file leads nowhere": {FILE: redirect(f"http://127.0.0.1:9/a?{LINK}")},
    "store quoted": {OBJECT: reply(403, QUOTED)},
    "store lost": {OBJECT: DROP},
    "store reset": {OBJECT: RESET},
    "store hangs": {OBJECT: HANG},
    "store is noise": {OBJECT: Reply(raw=QUOTED + b"\r\n\r\n", then="close")},
    "store redirects": {OBJECT: redirect(f"http://s3.example.com/b?{LINK}")},
    "store sends a page": {OBJECT: reply(200, b"<p>" + QUOTED)},
    "store refuses": {OBJECT: store_error(403, "AccessDenied")},
}


@pytest.mark.parametrize("name", FAILURES)
async def test_no_failure_shows_a_secret(
    server: FaultServer,
    clock: FakeClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """Nothing that fails, logs, tells or is pickled has a key or a signature in it."""
    heard: list[Event] = []

    for path, answer in FAILURES[name].items():
        server.on(path, answer)

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=server.url,
        clock=clock,
        limits=Limits(release_delay=0.0, exports=()),
        timeout=0.2,
        retrying=Retrying(attempts=2),
        polling=Polling(initial_delay=0.0),
        stall_timeout=0.2,
        hook=heard.append,
    ) as client:
        with (
            caplog.at_level(logging.DEBUG),
            pytest.raises(errors.CohortsError) as caught,
        ):
            await client.export(COHORT, tmp_path / "members.csv", timeout=30)

        records = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
        seen = [shown(caught.value), *map(repr, heard), *records, repr(client)]
        seen += [
            repr(vars(client)),
            repr(client._operations.session.transport),
            str(caught.value.token),
        ]
        seen += [repr(attrs.asdict(event)) for event in heard]

    assert [] == find_secrets("\n".join(seen))
    assert "5ec2e7" not in "\n".join(seen)


async def test_no_success_shows_a_secret(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """Neither does a job that ends well over two links."""
    heard: list[Event] = []
    server.on(OBJECT, cut(7_000), rest(7_000))

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=server.url, clock=clock, hook=heard.append
    ) as client:
        job = await client.request_export(COHORT)
        saved = await job.download(tmp_path / "members.csv")
        shown = [repr(client), repr(job), repr(saved), job.token, *map(repr, heard)]
        shown += [
            repr(client._config),
            repr(client._operations.session),
            repr(vars(job)),
        ]

    assert [] == find_secrets("\n".join(shown))


async def test_a_refused_connection_shows_no_secret(clock: FakeClock) -> None:
    """The message of a refused connection names the address only."""
    with closed_port() as port:
        async with CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=f"http://127.0.0.1:{port}",
            clock=clock,
            retrying=Retrying(attempts=1),
        ) as client:
            with pytest.raises(errors.ConnectionFailedError) as caught:
                await client.get_usage()

    assert f"127.0.0.1:{port}" in str(caught.value)
    assert [] == find_secrets(shown(caught.value))


PASSWORD = SECRET_KEY


@pytest.mark.parametrize("reply_of_proxy", [HANG, DROP, reply(407), Reply(raw=b"?")])
async def test_the_password_of_a_proxy_is_not_shown(
    server: FaultServer, clock: FakeClock, reply_of_proxy: Reply
) -> None:
    """Neither errors nor events of a proxy that fails have its password."""
    heard: list[Event] = []
    server.on(USAGE, reply_of_proxy)
    proxies = [server.url, "http://127.0.0.1:9"]

    for proxy in proxies:
        async with CohortsClient(
            API_KEY,
            "another-key",
            base_url=server.url,
            proxy=proxy.replace("//", f"//user:{PASSWORD}@"),
            clock=clock,
            timeout=0.2,
            retrying=Retrying(attempts=2),
            hook=heard.append,
        ) as client:
            with pytest.raises(errors.CohortsError) as caught:
                await client.get_usage()

            assert [] == find_secrets(shown(caught.value))

    assert [] == find_secrets(repr(heard))


@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("host", ["[::1:80", "127.0.0.1:port"])
async def test_the_proxy_of_a_session_is_not_quoted(
    clock: FakeClock, scheme: str, host: str
) -> None:
    """What a session brings along is not quoted either when it is no URL."""
    async with (
        aiohttp.ClientSession(proxy=f"{scheme}user:{PASSWORD}@{host}") as session,
        CohortsClient(API_KEY, "another-key", session=session, clock=clock) as client,
    ):
        with pytest.raises(errors.ConnectionFailedError) as caught:
            await client.get_usage()

    assert not caught.value.may_have_happened
    assert [] == find_secrets(shown(caught.value))


async def test_no_foreign_error_is_chained(
    server: FaultServer, clock: FakeClock
) -> None:
    """aiohttp's errors hold the request with all its headers."""
    server.on(USAGE, Reply(raw=b"no HTTP\r\n\r\n"))

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=server.url, clock=clock
    ) as client:
        with pytest.raises(errors.ConnectionFailedError) as caught:
            await client.get_usage()

    chain: list[BaseException | None] = [caught.value]
    while (last := chain[-1]) is not None:
        chain.append(last.__cause__ or last.__context__)

    assert [] == [each for each in chain if hasattr(each, "request_info")]


@pytest.mark.parametrize(
    "build",
    [
        lambda: CohortsClient(f"{API_KEY} ", SECRET_KEY),
        lambda: CohortsClient(API_KEY, f"{SECRET_KEY}\n"),
        lambda: CohortsClient(
            API_KEY, SECRET_KEY, base_url=f"https://{API_KEY}:{SECRET_KEY}@example.com"
        ),
    ],
)
def test_a_client_that_cannot_be_shows_no_secret(build: Callable[[], object]) -> None:
    """A key with a typing error is still a key, wherever it was put."""
    with pytest.raises(errors.ConfigurationError) as caught:
        build()

    assert [] == find_secrets(str(caught.value))


async def test_an_answer_that_breaks_inside_shows_no_secret(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """A cut in the middle of Amplitude's own answers is told without their content."""
    cut_off = Reply(raw=ACCEPTED.raw[:-3], then="close")
    server.on(EXPORT, cut_off)
    server.on(STATUS, Reply(raw=COMPLETED.raw[:-3], then="close"))
    job = exporter.resume_export("Sf7M9j")
    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: exporter.request_export(COHORT),
        job.poll,
    ]

    for ask in asks:
        with pytest.raises(errors.ConnectionFailedError) as caught:
            await ask()
        assert [] == find_secrets(shown(caught.value))


def in_escapes(text: str) -> str:
    """Write every character as JSON's escape of it."""
    return "".join(f"\\u{ord(character):04x}" for character in text)


@pytest.mark.parametrize("status", [200, 400, 403, 500])
async def test_a_key_in_escapes_is_a_key(
    server: FaultServer, exporter: CohortsClient, status: int
) -> None:
    """JSON may write any character as an escape, and readers undo that."""
    quoted = in_escapes(QUOTED.decode())
    body = f'{{"async_status": "{quoted}", "message": "{quoted}"}}'.encode()
    server.on(STATUS, reply(status, body))

    with pytest.raises(errors.CohortsError) as caught:
        await exporter.resume_export("Sf7M9j").poll()

    assert [] == find_secrets(shown(caught.value))
    assert "5ec2e7" not in shown(caught.value)


async def test_a_long_page_that_begins_like_a_list_shows_no_secret(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """Only what is a list of cohorts is too long to be searched."""
    server.on(LIST, reply(200, b"{" + QUOTED + b"x" * 99_999))

    with pytest.raises(errors.UnexpectedResponseError) as caught:
        await exporter.list_cohorts()

    assert [] == find_secrets(shown(caught.value))


async def test_the_time_out_of_a_caller_shows_no_secret(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """Its traceback leads through aiohttp, whose frames hold headers and URLs."""
    server.on(USAGE, HANG)
    server.on(OBJECT, HANG)
    job = exporter.resume_export("Sf7M9j")
    waits: dict[str, Callable[[], Awaitable[object]]] = {
        USAGE: exporter.get_usage,
        OBJECT: lambda: job.download(tmp_path / "members.csv"),
    }

    for path, wait in waits.items():
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(None) as limit:
                expiring = asyncio.create_task(expire_when_asked(limit, server, path))
                await wait()
        await expiring
        assert "aiohttp" in "".join(with_locals(caught.value))
        assert [] == find_secrets("".join(with_locals(caught.value)))


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
async def test_the_password_of_a_job_store_is_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Its URL is an argument, a variable of the environment, and a local of drivers."""
    for module in ("redis", "psycopg_pool"):
        pytest.importorskip(module)
    # It reads files, which an asynchronous test may not.
    import_module("amplitude_cohorts_async.contrib.postgres")
    monkeypatch.setenv("AMPLITUDE_API_KEY", API_KEY)
    monkeypatch.setenv("AMPLITUDE_SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("AMPLITUDE_JOBS", f"{scheme}://:{PASSWORD}@127.0.0.1:1")

    async with CohortsClient.from_env() as client:
        with pytest.raises(errors.JobStoreUnavailableError) as caught:
            await client.jobs()

    assert [] == find_secrets("".join(with_locals(caught.value)))


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_gets_its_password(clock: FakeClock, scheme: str) -> None:
    """With a tunnel and without one, although no frame shows it."""
    told = base64.b64encode(f"user:{PASSWORD}".encode()).decode()

    async with (
        FaultServer() as proxy,
        CohortsClient(
            API_KEY,
            "another-key",
            base_url=f"{scheme}://127.0.0.1",
            proxy=proxy.url.replace("//", f"//user:{PASSWORD}@"),
            clock=clock,
            retrying=Retrying(attempts=1),
        ) as client,
    ):
        for path in (f"http://127.0.0.1{USAGE}", "127.0.0.1:443"):
            proxy.on(path, HANG)

        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(None) as time_out:
                call = asyncio.ensure_future(client.get_usage())
                while not proxy.seen:
                    assert not call.done()
                    await asyncio.sleep(0.01)
                time_out.reschedule(0)
                await call

        assert [f"Basic {told}"] == [
            seen.headers["proxy-authorization"] for seen in proxy.seen
        ]

    shown_ = "".join(with_locals(caught.value))
    assert [] == find_secrets(shown_)
    assert told not in shown_


@pytest.mark.parametrize("kind", [CohortsClient, blocking.CohortsClient])
def test_a_key_in_the_environment_is_in_no_frame(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[CohortsClient | blocking.CohortsClient],
) -> None:
    """A client that cannot be made names no key, nor the password of its proxy."""
    monkeypatch.setenv("AMPLITUDE_API_KEY", API_KEY)
    monkeypatch.setenv("AMPLITUDE_SECRET_KEY", SECRET_KEY)

    with pytest.raises(errors.ConfigurationError) as region:
        kind.from_env(region="moon")
    with pytest.raises(errors.ConfigurationError) as proxy:
        kind.from_env(proxy=f"http://user:{SECRET_KEY}@host:port")
    with pytest.raises(errors.ConfigurationError) as made:
        kind(API_KEY, SECRET_KEY, proxy=f"http://user:{SECRET_KEY}@host:port")

    assert [] == find_secrets(shown(region.value))
    assert [] == find_secrets(shown(proxy.value))
    assert [] == find_secrets(shown(made.value))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_a_client_is_not_pickled(
    exporter: CohortsClient, copied: Callable[[object], object]
) -> None:
    """It would carry the keys, used or not."""
    unused = CohortsClient(API_KEY, SECRET_KEY)

    for client in (exporter, unused):
        with pytest.raises(TypeError, match="create one in each process"):
            copied(client)

    with pytest.raises(TypeError, match="create a client in each process"):
        pickle.dumps(vars(unused)["_config"])


async def test_a_talkative_loop_shows_no_secret(
    exporter: CohortsClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In its debug mode asyncio logs each callback and where its task was made."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0

    try:
        with caplog.at_level(logging.DEBUG):
            await exporter.export(COHORT, tmp_path / "members.csv")
            shown_tasks = [repr(task) for task in asyncio.all_tasks()]
    finally:
        loop.set_debug(False)

    records = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]

    assert any("Executing" in record for record in records)
    assert [] == find_secrets("\n".join([*records, *shown_tasks]))


async def test_a_netrc_file_is_neither_used_nor_shown(
    server: FaultServer,
    exporter: CohortsClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its password goes nowhere, and a session that reads it is refused without it."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login ann password {SECRET_KEY}")
    monkeypatch.setenv("NETRC", str(netrc))
    used = base64.b64encode(f"ann:{SECRET_KEY}".encode()).decode()

    await exporter.export(COHORT, tmp_path / "members.csv")
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        CohortsClient(
            API_KEY, "another-key", base_url=server.url, session=session
        ) as client,
    ):
        with pytest.raises(errors.CohortsError) as caught:
            await client.get_usage()

    sent = [value for seen in server.seen for value in seen.headers.values()]
    assert [] == [value for value in sent if used in value]
    assert [] == find_secrets(shown(caught.value))
    assert used not in shown(caught.value)


@pytest.mark.parametrize("variable", ["AMPLITUDE_JOBS", "AMPLITUDE_LIMITER_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql//me:hunter2@host/name",
        "db.internal:5432/hunter2",
        "sqlite:///own.db?hunter2",
        "redis://me:hunter2@localhost:port/0",
        "redis://localhost/hunter2",
        "postgresql://me:hunter2@localhost:port/name",
        "postgresql://me:hunter2/part@localhost/name",
        "postgresql://localhost/name?schema=1hunter2",
        "postgresql://me:p@hunter2@localhost/name",
        "unix://me:hunter2/part@/run/valkey.sock",
    ],
)
def test_no_url_that_is_refused_is_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    """Nor a part of it, in the frames of the checks."""
    for module in ("redis", "psycopg_pool"):
        pytest.importorskip(module, reason=f"the package {module} is not installed")
    monkeypatch.setenv("AMPLITUDE_API_KEY", API_KEY)
    monkeypatch.setenv("AMPLITUDE_SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv(variable, url)

    with pytest.raises(ConfigurationError, match=variable) as caught:
        CohortsClient.from_env()

    assert "hunter2" not in "".join(with_locals(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["Limiter", "JobStore"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hunter2@localhost:port/0",
        "redis://localhost?hunter2=1",
        "unix://me:hunter2/part@/run/valkey.sock",
        "postgresql://me:hunter2/part@localhost/name",
        "postgresql://me:p@hunter2@localhost/name",
    ],
)
def test_no_part_of_a_url_is_shown_by_what_refuses_it(name: str, url: str) -> None:
    """Not in its own frames, either."""
    kind = "Postgres" if url.startswith("postgres") else "Redis"
    module = {"Postgres": "psycopg_pool", "Redis": "redis"}[kind]
    pytest.importorskip(module, reason=f"the package {module} is not installed")
    contrib = import_module(f"amplitude_cohorts_async.contrib.{kind.lower()}")

    for make in (getattr(contrib, kind + name), getattr(contrib, kind + name).from_url):
        with pytest.raises(ConfigurationError) as caught:
            make(url)
        assert "hunter2" not in "".join(with_locals(caught.value))
        assert caught.value.__context__ is None


def test_no_url_that_is_passed_is_shown() -> None:
    """It may be refused as well."""
    urls = ["postgresql//me:hunter2@host/name", "db.internal:5432/hunter2"]

    for url in urls:
        with pytest.raises(ConfigurationError, match="jobs") as caught:
            CohortsClient(API_KEY, SECRET_KEY, jobs=url)
        assert "hunter2" not in "".join(with_locals(caught.value))
