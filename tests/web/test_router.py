"""The routes of a mounted router, from the list to the file."""

from __future__ import annotations

from pathlib import Path

from amplitude_cohorts_async.testing import CohortsEmulator
from support.web import COHORT, IDS, Browser


async def test_cohorts_are_listed(browser: Browser) -> None:
    """The list has ids, names and sizes."""
    (cohort,) = (await browser.get("/api/cohorts")).json

    assert (COHORT, 50) == (cohort["id"], cohort["size"])


async def test_an_export_comes_to_its_file(
    browser: Browser, emulator: CohortsEmulator, folder: Path
) -> None:
    """A start is answered at once; its address leads to the state and to the file."""
    started = await browser.start()
    location = started.headers["location"]
    state = await browser.until_over(location)
    file = await browser.get(state["file"])

    assert 202 == started.status
    assert f"/api/exports/{started.json['id']}" == location
    assert "saved" == state["state"]
    assert file.body == (folder / f"{state['id']}.csv").read_bytes()
    assert all(name.encode() in file.body for name in IDS)
    assert 1 == emulator.spent
