"""Bars of long calls: what they show, and that they never fail a call."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async import CohortsClient, IdType
from amplitude_cohorts_async._io import progress
from amplitude_cohorts_async._io.progress import Bar, drawn
from amplitude_cohorts_async.errors import (
    InvalidInputError,
    MissingExtraError,
    NotFoundError,
)
from amplitude_cohorts_async.events import (
    BatchWritten,
    BytesReceived,
    Event,
    ExportAdopted,
    ExportRequested,
    LinkRenewed,
    QuotaWait,
    RequestSent,
    RetryScheduled,
    StatusPolled,
)
from amplitude_cohorts_async.models import ExportOutcome
from amplitude_cohorts_async.testing import CohortsEmulator

NOW = datetime(2026, 6, 15, tzinfo=UTC)
POLLED = {"request_id": "r1", "elapsed": 1.0, "next_poll": 1.0}


class Lines:
    """A drawing that keeps what it is to show."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int, int | None]] = []
        self.refreshed = asyncio.Event()
        self.is_closed = False

    def __call__(self, unit: str, text: str, total: int | None) -> Lines:
        """Stand for the class that makes one."""
        assert text.isprintable()
        return self

    def show(self, text: str, done: int, total: int | None) -> None:
        """Keep it."""
        self.shown.append((text, done, total))

    def refresh(self) -> None:
        """Remember it."""
        self.refreshed.set()

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What is drawn instead of a bar."""
    lines = Lines()
    monkeypatch.setattr(progress, "_library", lambda: "lines")
    monkeypatch.setattr(progress, "_drawing", lambda _: lines)

    return lines


async def prepared(name: str, **options: Any) -> Bar:
    """Return a bar that can be drawn."""
    bar = Bar(name, **options)
    await bar.prepare()

    return bar


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (QuotaWait(cohort_id="c1", seconds=40.2), ("waits 40 s for the limits", 0)),
        (
            ExportRequested(cohort_id="c1", request_id="r1"),
            ("requested, usually 30 to 60 s", 0),
        ),
        (
            ExportAdopted(cohort_id="c1", request_id="r1", requested_at=NOW),
            ("goes on with an earlier export", 0),
        ),
        (StatusPolled(word="JOB \x1b[2JDONE", **POLLED), ("job  [2jdone", 0)),
        (
            LinkRenewed(request_id="r1", links=2, received=1, reason="it was cut"),
            ("it was cut; goes on with a new link", 0),
        ),
        (
            RetryScheduled(operation="list", attempt=1, seconds=2.0, reason="lost"),
            ("list failed, tried again in 2 s", 0),
        ),
        (
            BatchWritten(cohort_id="c1", operation="add", batch=0, ids=7, at=NOW),
            ("add, ids written", 7),
        ),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_what_is_shown(
    lines: Lines, event: Event, shown: tuple[str, int]
) -> None:
    """Each event that a person waits for has words; no control character is drawn."""
    bar = await prepared("cohort c1")
    bar(event)

    assert [(f"cohort c1: {shown[0]}", shown[1], None)] == lines.shown


async def test_bytes_are_counted(lines: Lines) -> None:
    """Those of a file, of which the whole is known; other events are not for it."""
    bar = await prepared("cohort c1")
    bar(BytesReceived(request_id="r1", received=5, total=9))
    bar(RequestSent(operation="list", status=200, seconds=1.0))
    bar.close()
    bar(BytesReceived(request_id="r1", received=9, total=9))

    assert [("cohort c1", 5, 9)] == lines.shown
    assert lines.is_closed


async def test_exports_are_counted(lines: Lines) -> None:
    """A bar of many counts those that ended, and says of which cohort it speaks."""
    bar = await prepared("", exports=2)
    bar(ExportRequested(cohort_id="c1", request_id="r1"))
    bar(StatusPolled(word="DONE", **POLLED))
    bar(BytesReceived(request_id="r1", received=5, total=9))
    bar.finished(ExportOutcome(cohort_id="c1", error=NotFoundError("no", status=404)))

    assert [
        ("cohort c1: requested, usually 30 to 60 s", 0, 2),
        ("cohort c1: done", 0, 2),
        ("cohort c1: failed", 1, 2),
    ] == lines.shown


async def test_time_is_shown(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that hears nothing is drawn again, and closed whatever happens."""
    monkeypatch.setattr(progress, "_REFRESH_SECONDS", 0.0)
    bar = await prepared("cohort c1")
    bar(QuotaWait(cohort_id="c1", seconds=40.0))

    with pytest.raises(ZeroDivisionError):
        async with drawn(bar):
            await lines.refreshed.wait()
            raise ZeroDivisionError

    assert lines.is_closed


async def test_a_drawing_that_fails_is_given_up(
    lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the terminal is gone; the call goes on, and the log has it once."""

    def fail(*_: object) -> None:
        """Be a closed terminal."""
        raise BrokenPipeError

    lines.show = fail  # type: ignore[method-assign]
    bar = await prepared("cohort c1")
    bar(QuotaWait(cohort_id="c1", seconds=1.0))
    bar(QuotaWait(cohort_id="c1", seconds=1.0))
    bar.close()

    assert 1 == caplog.text.count("could not be drawn")


async def test_calls_draw_their_own_events(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """An export, and another one beside it that was not asked for a bar."""
    emulator.add_cohort("c1", size=2_000)
    emulator.add_cohort("c2", size=2_000)

    saved, _ = await asyncio.gather(
        client.export("c1", tmp_path / "c1.csv", progress=True),
        client.export("c2", tmp_path / "c2.csv", progress=False),
    )

    total = saved.downloaded
    assert ("cohort c1", total, total) == lines.shown[-1]
    assert "cohort c1: requested, usually 30 to 60 s" == lines.shown[0][0]
    assert {"cohort c1"} == {text.partition(":")[0] for text, *_ in lines.shown}
    assert lines.is_closed


async def test_a_download_has_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """A job that is known by its id alone is called that."""
    emulator.add_cohort("c1", size=2_000)
    job = await client.request_export("c1")
    known = client.resume_export(job.request_id)
    await known.download(tmp_path / "c1.csv", progress=True)

    assert {f"export {job.request_id}"} == {
        text.partition(":")[0] for text, *_ in lines.shown
    }


async def test_many_exports_have_one_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """It counts outcomes."""
    emulator.add_cohort("c1", size=2_000)
    emulator.add_cohort("c2", size=2_000)

    async for _ in client.export_many(["c1", "c2"], tmp_path, progress=True):
        pass

    assert (2, 2) == lines.shown[-1][1:]
    assert lines.is_closed


async def test_writes_have_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """It counts ids."""
    emulator.add_cohort("c1", members=["a"], type="manual_upload")
    ids = [f"user-{number}" for number in range(10)]

    await client.upload_cohort(
        "new",
        ids,
        id_type=IdType.USER_ID,
        app_id=153957,
        owner="me@example.com",
        progress=True,
    )
    await client.update_membership("c1", add=ids, progress=True)
    await client.sync_membership("c1", [*ids, "a"], current=["a"], progress=True)

    assert ("upload of new: upload, ids written", 10, None) == lines.shown[0]
    assert ("cohort c1: add, ids written", 10, None) in lines.shown


@pytest.mark.parametrize("value", ["yes", 1])
async def test_another_value_is_refused(
    client: CohortsClient, tmp_path: Path, value: Any
) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInputError, match="pass True for a bar"):
        await client.export("c1", tmp_path / "c1.csv", progress=value)
    with pytest.raises(InvalidInputError, match="pass True for a bar"):
        client.export_many(["c1"], tmp_path, progress=value)


async def test_without_a_library_the_extra_is_named(
    client: CohortsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an export is spent."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "rich", None)

    with pytest.raises(MissingExtraError, match=r"async\[progress\]"):
        await client.export("c1", tmp_path / "c1.csv", progress=True)

    assert 0 == (await client.get_usage()).used


@pytest.mark.parametrize("library", ["tqdm", "rich"])
async def test_libraries_draw(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], library: str
) -> None:
    """tqdm's bar and rich's have the text, on stderr."""
    pytest.importorskip(library, reason="the extra progress, or cli, is not installed")
    if "rich" == library:
        monkeypatch.setitem(sys.modules, "tqdm", None)

    one, many = Bar("cohort c1"), Bar("", exports=1)
    async with drawn(one), drawn(many):
        one(QuotaWait(cohort_id="c1", seconds=40.0))
        one(BytesReceived(request_id="r1", received=5, total=9))
        one.refresh()
        one(BytesReceived(request_id="r1", received=2, total=9))
        one(BytesReceived(request_id="r1", received=9, total=9))
        many.finished(ExportOutcome(cohort_id="c1"))

    output, errors = capfd.readouterr()
    assert "" == output
    assert "cohort c1" in errors
    assert "100%" in errors or "1/1" in errors
