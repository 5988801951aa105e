"""The command `serve`: a process, its address, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import attrs
import pytest

from amplitude_cohorts_async.testing import CohortsEmulator
from support.canary import API_KEY, SECRET_KEY
from support.ports import LOOPBACK, free_ports
from support.processes import TESTS
from support.web import COHORT, IDS, Browser

typer = pytest.importorskip("typer", reason="the extra cli is not installed")

from amplitude_cohorts_async.cli.serve import _origin  # noqa: E402

pytestmark = pytest.mark.slow

TOKEN = "a token of some length"


@attrs.frozen
class Command:
    """Runs the command in a folder."""

    folder: Path
    environment: dict[str, str]

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """Start it."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "amplitude_cohorts_async", "serve", *words),
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def refused(self, *words: str) -> tuple[int, str]:
        """Return how it ended, and what it said."""
        process = await self.start(*words)
        _, said = await process.communicate()

        return process.returncode or 0, " ".join(said.decode().split())

    @asynccontextmanager
    async def running(self, *words: str) -> AsyncIterator[Served]:
        """Run it meanwhile."""
        process = await self.start(*words)
        assert process.stdout

        try:
            line = (await process.stdout.readline()).decode().strip()
            async with aiohttp.ClientSession() as session:
                yield Served(process, line, session)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@attrs.frozen
class Served:
    """A page that is served, and the line that says where."""

    process: asyncio.subprocess.Process
    line: str
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        """The page's origin."""
        return urlsplit(self.line)._replace(fragment="", path="").geturl()

    async def signed_in(self, token: str) -> Browser:
        """Return a browser that has exchanged a token."""
        headers = {"Origin": self.url}
        browser = Browser(self.url, self.session)
        answer = await browser.ask(
            "POST", "/session", data={"token": token}, headers=headers
        )
        assert 204 == answer.status
        cookie = answer.headers["set-cookie"].partition(";")[0]
        self.session.headers.update({"Cookie": cookie, "Origin": self.url})

        return browser

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return how it ended, and what it had to say."""
        self.process.send_signal(number)
        _, said = await self.process.communicate()

        return self.process.returncode or 0, said.decode()


@pytest.fixture
async def service() -> AsyncIterator[CohortsEmulator]:
    """The emulator, whose exports take a second."""
    async with CohortsEmulator(api_key=API_KEY, secret_key=SECRET_KEY) as emulator:
        emulator.add_cohort(COHORT, members=IDS)
        yield emulator


@pytest.fixture
def command(service: CohortsEmulator, tmp_path: Path) -> Command:
    """The command, with a home of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        **service.environment(),
    }

    return Command(tmp_path, environment)


async def test_an_export_by_the_printed_address(
    command: Command, service: CohortsEmulator
) -> None:
    """The token in the fragment lets in; the file comes to `--directory`."""
    async with command.running("--port=0", "--directory=files") as served:
        token = urlsplit(served.line).fragment.removeprefix("token=")
        browser = await served.signed_in(token)
        page = (await browser.get("/")).body.decode()
        form = {"cohort_id": COHORT, "key": "0123456789abcdef"}
        await browser.ask("POST", "/exports", data=form)
        shown = [event async for event in browser.fragments("/events")]
        status, said = await served.end()

    assert "LIVE: spends exports" in page
    assert LOOPBACK in page
    assert "Download" in shown[-1]
    assert 1 == len([*(command.folder / "files").glob("*.csv")])
    assert (0, "") == (status, said)
    assert 1 == service.spent


async def test_it_ends_with_an_open_stream_and_goes_on_later(
    command: Command, service: CohortsEmulator
) -> None:
    """Ctrl-C ends it with exit code 0; the next one brings the file, for the same cookie."""
    command.environment["AMPLITUDE_SERVE_TOKEN"] = TOKEN
    form = {"cohort_id": COHORT, "key": "0123456789abcdef"}

    async with command.running("--port=0") as served:
        browser = await served.signed_in(TOKEN)
        await browser.ask("POST", "/exports", data=form)
        async with served.session.get(f"{served.url}/events") as stream:
            await stream.content.readline()
            status, said = await served.end(signal.SIGINT)
        cookie = served.session.headers["Cookie"]

    async with command.running("--port=0") as served:
        served.session.headers.update({"Cookie": cookie})
        browser = Browser(served.url, served.session)
        shown = [event async for event in browser.fragments("/events")]

    assert (0, "") == (status, said)
    assert "#" not in served.line
    assert "Download" in shown[-1]
    assert 1 == service.spent


async def test_a_port_in_use(command: Command) -> None:
    """The message names the option that takes another one."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        status, said = await command.refused(f"--port={port}")

    assert 2 == status
    assert f"port {port} of {LOOPBACK} is in use" in said
    assert "pass another --port, or 0 for a free one" in said


async def test_as_json(command: Command) -> None:
    """The address for a program."""
    async with command.running("--port=0", "--json") as served:
        document = json.loads(served.line)

    assert document["serve"]["url"].startswith(f"http://{LOOPBACK}:")


async def test_token_of_a_file(command: Command) -> None:
    """It is read from the first line, and never printed."""
    file = command.folder / "token"
    file.write_text(f"{TOKEN}\n")

    async with command.running("--port=0", f"--token-file={file}") as served:
        await served.signed_in(TOKEN)

    assert TOKEN not in served.line


async def test_demo_needs_no_account(command: Command) -> None:
    """An emulator, a store and a folder of its own, of which nothing stays."""
    for name in [*command.environment]:
        if name.startswith("AMPLITUDE_"):
            del command.environment[name]

    async with command.running("--port=0", "--demo") as served:
        token = urlsplit(served.line).fragment.removeprefix("token=")
        browser = await served.signed_in(token)
        page = await browser.get("/")
        cohorts = await browser.get("/fragments/cohorts")
        status, said = await served.end()

    assert b"DEMO: spends nothing" in page.body
    assert b"Spring buyers" in cohorts.body
    assert b"2,000,000" in cohorts.body
    assert (0, "") == (status, said)
    assert [] == [*command.folder.iterdir()]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--host=0.0.0.0"], "can be reached from other machines"),
        (["--host=0.0.0.0", "--behind-proxy=http://a.example"], "no origin of a proxy"),
        (["--behind-proxy=https://a.example/path"], "no origin of a proxy"),
        (["--behind-proxy=https://a.example:99999"], "no origin of a proxy"),
        (["--behind-proxy=https://me:hushhush@a.example"], "no origin of a proxy"),
        (["--directory=s3://me:hushhush@bucket/exports"], "credentials"),
        (["--host=0.0.0.0", "--certificate=short"], "no address that a browser"),
        (["--certificate=missing"], "missing"),
        (["--certificate=short"], "short"),
        (
            ["--certificate=short", "--behind-proxy=https://a.example"],
            "either --certificate or --behind-proxy",
        ),
        (["--private-key=short"], "--private-key needs --certificate"),
        (["--demo", "--directory=files"], "--demo does not go with --directory"),
        (["--demo", "--keep=0"], "--demo does not go with --keep"),
        (["--demo", "--profile=a", "--jobs=b"], "with --profile, --jobs"),
        (["--demo", "--region=eu"], "--demo does not go with --region"),
        (["--demo", "--no-jobs"], "--demo does not go with --no-jobs"),
        (["--token-file=short"], "has 5 characters"),
        (["--token-file=long"], "has 201 characters"),
        (["--token-file=binary"], "no text in UTF-8"),
        (["--token-file=missing"], "missing"),
    ],
)
async def test_what_is_not_safe_is_refused(
    command: Command, words: list[str], reason: str
) -> None:
    """Before anything listens, and without a traceback."""
    (command.folder / "short").write_text("short")
    (command.folder / "long").write_text("x" * 201)
    (command.folder / "binary").write_bytes(b"\xff" * 32)
    status, said = await command.refused("--port=0", *words)

    assert status in {1, 2}
    assert reason in said
    assert "Traceback" not in said
    assert "hushhush" not in said


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://Exports.Example.com/", "https://exports.example.com"),
        ("https://exports.example.com:443", "https://exports.example.com"),
        ("https://exports.example.com:8443", "https://exports.example.com:8443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_origin_of_a_proxy(given: str, origin: str) -> None:
    """It is what a browser says."""
    assert origin == _origin(LOOPBACK, given, None)


@pytest.mark.parametrize(
    "given",
    [
        "https://exports.example.com?x",
        "https://exports.example.com#x",
        "https://exports.example.com:0",
        "https://exports.example.com:port",
        "https://me:hushhush@exports.example.com",
        "https://b\xfccher.example",
        "https://a b.example",
        "https://[::1",
        "other.example",
    ],
)
def test_no_origin_of_a_proxy(given: str) -> None:
    """What no browser says is refused, and not repeated."""
    with pytest.raises(typer.BadParameter, match="no origin") as refused:
        _origin(LOOPBACK, given, None)

    assert given not in str(refused.value)


async def test_directory_in_a_bucket(command: Command) -> None:
    """The address of a bucket makes no folder here."""
    address = "s3://bucket/exports"
    async with command.running("--port=0", "--json", f"--directory={address}") as it:
        document = json.loads(it.line)

    assert address == document["serve"]["directory"]
    assert not (command.folder / "s3:").exists()


async def test_port_that_is_in_use(command: Command) -> None:
    """It names the port, and another way."""
    (port,) = free_ports(1)
    async with command.running(f"--port={port}"):
        status, said = await command.refused(f"--port={port}")

    assert 2 == status
    assert f"port {port}" in said
    assert "0 for a free one" in said


async def test_without_keys(command: Command) -> None:
    """What is missing is told before a browser comes."""
    del command.environment["AMPLITUDE_API_KEY"]
    status, said = await command.refused("--port=0")

    assert 2 == status
    assert "AMPLITUDE_API_KEY" in said
    assert "Traceback" not in said


async def test_behind_a_proxy(command: Command) -> None:
    """The page answers to the proxy's name alone, with a cookie for https."""
    (port,) = free_ports(1)
    origin = "https://exports.example.com"
    command.environment["AMPLITUDE_SERVE_TOKEN"] = TOKEN
    words = [f"--port={port}", f"--behind-proxy={origin}"]

    async with command.running(*words) as served:
        direct = Browser(f"http://{LOOPBACK}:{port}", served.session)
        refused = await direct.get("/")
        admitted = await direct.ask(
            "POST",
            "/session",
            data={"token": TOKEN},
            headers={"Host": "exports.example.com", "Origin": origin},
        )

    assert origin == served.line
    assert 403 == refused.status
    assert 204 == admitted.status
    assert "secure" in admitted.headers["set-cookie"].lower()


async def test_with_a_certificate(
    command: Command, certificates: tuple[Path, Path], trust: ssl.SSLContext
) -> None:
    """It speaks TLS, and its cookie is for https alone."""
    words = ["--port=0", f"--certificate={certificates[0]}"]

    async with command.running(*words) as served:
        token = urlsplit(served.line).fragment.removeprefix("token=")
        connector = aiohttp.TCPConnector(ssl=trust)
        async with aiohttp.ClientSession(connector=connector) as session:
            answer = await Browser(served.url, session).ask(
                "POST",
                "/session",
                data={"token": token},
                headers={"Origin": served.url},
            )
        status, said = await served.end()

    assert served.url.startswith(f"https://{LOOPBACK}:")
    assert 204 == answer.status
    assert "secure" in answer.headers["set-cookie"].lower()
    assert (0, "") == (status, said)
