"""The files of exports: where they are not, and how long they are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.fastapi.files import Files
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.exporting import names_in, until
from support.web import COHORT, Browser, mounted

if TYPE_CHECKING:
    from support.buckets import Bucket

Make = Callable[[], CohortsClient]
DAY = 86400.0


def make_older(path: Path, days: float) -> None:
    """Let a file be so old."""
    then = time.time() - days * DAY
    os.utime(path, (then, then))


async def test_no_file_yet(browser: Browser, emulator: CohortsEmulator) -> None:
    """The file of an export that runs is a 409 that says how far it is."""
    started = await browser.start()
    early = await browser.get(f"{started.headers['location']}/file")

    assert 409 == early.status
    assert "not there yet" in early.json["detail"]


async def test_file_of_another_folder(
    browser: Browser, make_client: Make, clock: FakeClock, tmp_path: Path
) -> None:
    """A worker that has another folder does not serve the file, and says so."""
    started = await browser.start()
    state = await browser.until_over(started.headers["location"])

    async with mounted(tmp_path / "other", client=make_client, clock=clock) as other:
        listed = (await other.get("/api/exports")).json
        answer = await other.get(f"/api/exports/{listed[0]['id']}/file")

    assert "saved" == state["state"]
    assert [False] == [each["has_file"] for each in listed]
    assert 409 == answer.status


async def test_file_that_was_moved(browser: Browser, folder: Path) -> None:
    """A young file that is gone is no old one: the folder may not be shared."""
    started = await browser.start()
    state = await browser.until_over(started.headers["location"])
    (folder / f"{state['id']}.csv").unlink()
    answer = await browser.get(state["file"])

    assert 409 == answer.status
    assert "share" in answer.json["detail"]


async def test_files_are_deleted_when_they_are_old(
    make_client: Make, clock: FakeClock, folder: Path
) -> None:
    """After `keep_files` a file goes, and nothing that is not of the router."""
    options = {"client": make_client, "clock": clock}
    async with mounted(folder, **options) as browser:
        started = await browser.start()
        state = await browser.until_over(started.headers["location"])

    mine, part = folder / f"{state['id']}.csv", f".{'0' * 32}.csv.1a2b.part"
    for name in ("notes.csv", part):
        (folder / name).touch()
        make_older(folder / name, 8)
    make_older(mine, 6)
    async with mounted(folder, **options):
        await until(lambda: part not in names_in(folder))
    kept = names_in(folder)
    make_older(mine, 8)
    async with mounted(folder, **options):
        await until(lambda: mine.name not in names_in(folder))

    assert sorted([mine.name, "notes.csv"]) == kept
    assert ["notes.csv"] == names_in(folder)


async def test_what_cannot_be_deleted_stops_nothing(
    make_client: Make,
    clock: FakeClock,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, the other old files go, and exports come to their files."""
    odd, old = folder / f"{'0' * 32}.csv", folder / f"{'1' * 32}.csv"
    odd.mkdir(parents=True)
    old.touch()
    for path in (odd, old):
        make_older(path, 8)

    async with mounted(folder, client=make_client, clock=clock) as browser:
        started = await browser.start()
        state = await browser.until_over(started.headers["location"])

    assert "saved" == state["state"]
    assert old.name not in names_in(folder)
    assert odd.name in caplog.text


async def test_a_look_without_the_folder_stops_nothing(
    make_client: Make,
    clock: FakeClock,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A folder that is away when old files are looked for ends no work for good."""
    async with mounted(folder, client=make_client, clock=clock) as browser:
        folder.rename(folder.with_name("away"))
        await until(lambda: "no look for old files" in caplog.text)
        folder.with_name("away").rename(folder)
        started = await browser.start()
        state = await browser.until_over(started.headers["location"])

    assert "saved" == state["state"]


async def test_an_unexpected_error_stops_nothing(
    make_client: Make,
    clock: FakeClock,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged with its traceback, and the next look goes on."""
    errors = [RuntimeError("once")]

    async def sweep(_: Files) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(Files, "sweep", sweep)
    async with mounted(folder, client=make_client, clock=clock) as browser:
        started = await browser.start()
        state = await browser.until_over(started.headers["location"])

    assert "saved" == state["state"]
    assert "RuntimeError: once" in caplog.text


async def test_deleted_file_is_gone(
    make_client: Make, clock: FakeClock, folder: Path
) -> None:
    """The address of a file that was deleted says for how long files are kept."""
    options = {"client": make_client, "clock": clock, "keep_files": 0.0}
    async with mounted(folder, **options) as browser:
        started = await browser.start()
        state = await browser.until_over(started.headers["location"])
        (folder / f"{state['id']}.csv").unlink(missing_ok=True)
        answer = await browser.get(state["file"])

    assert 410 == answer.status


@pytest.mark.services
async def test_files_in_a_bucket(
    make_client: Make, clock: FakeClock, bucket: Bucket
) -> None:
    """An export to a bucket is told with its address, and is not served from here."""
    to = f"s3://{bucket.name}/exports/"
    async with mounted(to, client=make_client, clock=clock) as browser:
        started = await browser.start()
        state = await browser.until_over(started.headers["location"])
        answer = await browser.get(f"{started.headers['location']}/file")

    location = f"s3://{bucket.name}/exports/{state['id']}.csv"
    assert ("saved", location) == (state["state"], state["location"])
    assert (409, True) == (answer.status, location in answer.json["detail"])


async def test_start_names_no_folder(browser: Browser, folder: Path) -> None:
    """The folder is told nowhere."""
    started = await browser.start()
    state = await browser.until_over(started.headers["location"])

    assert str(folder) not in str((started.json, state))
    assert COHORT == state["cohort_id"]
