"""A browser, and the command `serve` with an emulator behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from amplitude_cohorts_async.testing import CohortsEmulator
from support.canary import API_KEY, SECRET_KEY
from support.ports import LOOPBACK, free_ports
from support.processes import TESTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

HERE = Path(__file__).parent
HOSTILE = "<img src=x onerror=alert(1)>"

# `nox -s browser` installs what drives a browser; no other session does.
collect_ignore = [
    path.name
    for path in HERE.glob("test_*.py")
    if not all(map(find_spec, ("playwright", "axe_playwright_python", "PIL", "typer")))
]


@attrs.define
class Serving:
    """The command, which a test may kill and start again."""

    folder: Path
    environment: dict[str, str]
    port: int
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """The address that lets in."""
        token = self.environment["AMPLITUDE_SERVE_TOKEN"]

        return f"http://{self.host}/#token={token}"

    @property
    def host(self) -> str:
        """Its name and port."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "amplitude_cohorts_async", "serve"),
                *(f"--port={self.port}", "--directory=files"),
            ],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return how it ended."""
        assert self.process
        self.process.send_signal(number)
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

        return self.process.returncode


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    from support.chromium import chromium  # noqa: PLC0415  optional

    with chromium() as browser:
        yield browser


@pytest.fixture
def service() -> Iterator[CohortsEmulator]:
    """The emulator, whose exports take two seconds."""
    emulator = CohortsEmulator(api_key=API_KEY, secret_key=SECRET_KEY, job_seconds=2.0)
    with emulator:
        emulator.add_cohort("buyers", members=["ann", "bob"], name="Spring buyers")
        emulator.add_cohort("active", size=2_000, name="Active last week")
        emulator.add_cohort("evil", members=["eve"], name=HOSTILE)
        yield emulator


@pytest.fixture
def serving(service: CohortsEmulator, tmp_path: Path) -> Iterator[Serving]:
    """The page of the command, with a home of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "AMPLITUDE_SERVE_TOKEN": "a token of some length",
        **service.environment(),
    }
    (port,) = free_ports(1)
    serving = Serving(tmp_path, environment, port)
    serving.start()
    yield serving
    serving.end(signal.SIGKILL)


@pytest.fixture
def options() -> dict[str, Any]:
    """How the browser looks at the page."""
    return {"viewport": {"width": 1280, "height": 900}}


@pytest.fixture
def context(
    browser: Browser, serving: Serving, options: dict[str, Any]
) -> Iterator[BrowserContext]:
    """A profile of the browser that has seen nothing, and must ask nobody else."""
    from support.chromium import Watch  # noqa: PLC0415  optional

    context = browser.new_context(**options)
    watch = Watch(context, serving.host)
    yield context
    context.close()

    assert [] == watch.complaints
