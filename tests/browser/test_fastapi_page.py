"""The script of `docs/howto/fastapi.md` in a browser, with the app of that page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from amplitude_cohorts_async.testing import CohortsEmulator
from support.chromium import Watch
from support.ports import LOOPBACK, await_port, free_ports
from support.processes import TESTS

pytestmark = pytest.mark.slow

DOCUMENT = (TESTS.parent / "docs/howto/fastapi.md").read_text()
BLOCK = re.compile(r"^```(python|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(DOCUMENT)
APP = next(text for language, text in BLOCKS if language == "python")
(SCRIPT,) = (text for language, text in BLOCKS if language == "js")

# What a page of the app has beside the script: a way to start an export.
START = """
async () => {
  const headers = {"Content-Type": "application/json"};
  const body = JSON.stringify({cohort_id: "buyers", format: "csv"});
  return (await fetch("/amplitude/exports", {method: "POST", headers, body})).status;
}
"""
SHOW = "const shown = []; const show = (record) => shown.push(record.state);"
CLOSED = "() => stream.readyState === EventSource.CLOSED"


@pytest.fixture
def host(service: CohortsEmulator, tmp_path: Path) -> Iterator[str]:
    """The app, served as the page says; its name and port."""
    (tmp_path / "app.py").write_text(APP)
    (port,) = free_ports(1)
    options = {"PYTHONPATH": str(TESTS.parent), **service.environment()}
    command = [sys.executable, "-m", "uvicorn", "app:app", f"--port={port}"]
    with subprocess.Popen(command, cwd=tmp_path, env=options) as process:
        try:
            assert await_port(port, alive=lambda: process.poll() is None)
            yield f"{LOOPBACK}:{port}"
        finally:
            process.terminate()


def test_the_script_shows_each_state(
    browser: Browser, host: str, service: CohortsEmulator
) -> None:
    """It hears the states of an export, and closes its stream after the last one."""
    # The app of the page wants a header, which a script cannot have the stream send.
    key = {"Authorization": "Bearer let me in"}
    context = browser.new_context(extra_http_headers=key)
    watch = Watch(context, host)
    page = context.new_page()
    page.goto(f"http://{host}/openapi.json")

    assert 202 == page.evaluate(START)
    page.add_script_tag(content=f"{SHOW}\n{SCRIPT}")
    page.wait_for_function(CLOSED)
    shown = page.evaluate("shown")
    context.close()

    assert ("saved", 1) == (shown[-1], service.spent)
    assert {"queued", "attempted", "requested", "ready", "saved"} >= {*shown}
    assert [] == watch.complaints
