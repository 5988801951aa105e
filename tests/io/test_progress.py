"""Bars of long calls: what they show, and that they never fail a call."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async import CohortsClient, IdType
from amplitude_cohorts_async._io import progress
from amplitude_cohorts_async._io.progress import ProgressBar, displayed
from amplitude_cohorts_async._io.progress_libraries import BarState
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
    """Stands for a library, and keeps what is to be shown."""

    def __init__(self) -> None:
        self.states: list[BarState] = []
        self.refreshed = asyncio.Event()
        self.is_closed = False

    @property
    def shown(self) -> list[tuple[str, int, int | None]]:
        """Each text with its count."""
        return [(each.description, each.completed, each.total) for each in self.states]

    @property
    def names(self) -> set[str]:
        """What the texts are about."""
        return {each.description.partition(":")[0] for each in self.states}

    def __call__(self, state: BarState) -> Lines:
        """Make a bar, which is open."""
        self.is_closed = False
        self.update(state)
        return self

    def update(self, state: BarState) -> None:
        """Keep it."""
        assert state.description.isprintable()
        self.states.append(state)

    def refresh(self) -> None:
        """Remember it."""
        self.refreshed.set()

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What is shown instead of a bar."""
    lines = Lines()
    monkeypatch.setattr(progress, "installed_library", lambda: "lines")
    monkeypatch.setattr(progress, "load_renderer", lambda _: lines)

    return lines


async def loaded(name: str, **options: Any) -> ProgressBar:
    """Return a bar that can be drawn."""
    bar = ProgressBar(name, **options)
    await bar.load()

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
        (
            StatusPolled(word="JOB \x1b[2JDONE", **POLLED),
            ("job  [2jdone, usually 30 to 60 s", 0),
        ),
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
            ("add, written", 7),
        ),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_what_is_shown(
    lines: Lines, event: Event, shown: tuple[str, int]
) -> None:
    """Each event that a person waits for has words; no control character is drawn."""
    bar = await loaded("cohort c1")
    bar(event)

    assert [(f"cohort c1: {shown[0]}", shown[1], None)] == lines.shown


async def test_bytes_are_counted(lines: Lines) -> None:
    """Those of a file, of which the whole is known; other events are not for it."""
    bar = await loaded("cohort c1")
    bar(BytesReceived(request_id="r1", received=5, total=9))
    bar(RequestSent(operation="list", status=200, seconds=1.0))
    bar.close()
    bar(BytesReceived(request_id="r1", received=9, total=9))

    assert [("cohort c1", 5, 9)] == lines.shown
    assert lines.is_closed


async def test_exports_are_counted(lines: Lines) -> None:
    """A bar of many counts those that ended, and says of which cohort it speaks."""
    bar = await loaded("", total=lambda: 2)
    bar(ExportRequested(cohort_id="c1", request_id="r1"))
    bar(StatusPolled(word="DONE", **POLLED))
    bar(BytesReceived(request_id="r1", received=5, total=9))
    bar.count(ExportOutcome(cohort_id="c1", error=NotFoundError("no", status=404)))

    assert [
        ("cohort c1: requested, usually 30 to 60 s", 0, 2),
        ("cohort c1: done, usually 30 to 60 s", 0, 2),
        ("cohort c1: failed", 1, 2),
    ] == lines.shown


async def test_time_is_shown(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that hears nothing is drawn again, and closed whatever happens."""
    monkeypatch.setattr(progress, "_REFRESH_SECONDS", 0.0)
    bar = await loaded("cohort c1")
    bar(QuotaWait(cohort_id="c1", seconds=40.0))

    with pytest.raises(ZeroDivisionError):
        async with displayed(bar):
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

    lines.update = fail  # type: ignore[method-assign]
    bar = await loaded("cohort c1")
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
    assert ["cohort c1", "cohort c1: requested, usually 30 to 60 s"] == [
        each.description for each in lines.states[:2]
    ]
    assert {"cohort c1"} == lines.names
    assert lines.is_closed


async def test_a_download_has_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """A job that is known by its id alone is called that."""
    emulator.add_cohort("c1", size=2_000)
    job = await client.request_export("c1")
    known = client.resume_export(job.request_id)
    await known.download(tmp_path / "c1.csv", progress=True)

    assert {f"export {job.request_id}"} == lines.names


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

    assert ("upload of new: upload, written", 10, None) in lines.shown
    assert ("cohort c1: add, written", 10, None) in lines.shown


async def test_units_change_in_one_call(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """A sync reads bytes, then writes ids: neither is counted as the other."""
    emulator.add_cohort("c1", size=2_000, type="manual_upload")

    await client.sync_membership("c1", ["a"], max_removed=1.0, progress=True)

    units = [each.unit for each in lines.states if each.completed]
    assert ["B", " ids"] == [*dict.fromkeys(units)]


async def test_a_wait_has_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """The status, beside the estimate for as long as it holds; `link()`, too."""
    emulator.add_cohort("c1", size=2_000, job_seconds=90.0)
    job = await client.request_export("c1")

    assert await job.wait(progress=True) is job
    texts = [each.description for each in lines.states]

    assert "cohort c1" == texts[0]
    assert "cohort c1: job inprogress, usually 30 to 60 s" == texts[1]
    assert "cohort c1: job inprogress" in texts
    assert "cohort c1: job completed" == texts[-1]
    assert lines.is_closed

    lines.states.clear()
    await job.link(progress=True)
    assert {"cohort c1"} == lines.names
    assert lines.is_closed


@pytest.mark.parametrize("name", ["wait", "link", "download"])
async def test_who_leaves_before_the_bar_is_drawn_has_the_token(
    *,
    monkeypatch: pytest.MonkeyPatch,
    lines: Lines,
    emulator: CohortsEmulator,
    client: CohortsClient,
    tmp_path: Path,
    name: str,
) -> None:
    """A library is imported in a thread, which a cancellation waits for."""
    begun, may_end = threading.Event(), threading.Event()

    def load(_: str) -> Lines:
        """Import it, slowly."""
        begun.set()
        may_end.wait(30)
        return lines

    monkeypatch.setattr(progress, "load_renderer", load)
    emulator.add_cohort("c1", members=["ann"])
    job = await client.request_export("c1")
    target = [tmp_path / "c1.csv"] if name == "download" else []

    task = asyncio.ensure_future(getattr(job, name)(*target, progress=True))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert any(job.token in note for note in caught.value.__notes__)


async def test_members_have_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """Bytes, and the members that were read; not what the block does beside."""
    emulator.add_cohort("c1", size=30_000)
    emulator.add_cohort("c2", size=2_000)
    job = await client.request_export("c1")

    async with job.members(progress=True) as members:
        assert not lines.is_closed
        await (await client.request_export("c2")).wait()
        async for _ in members:
            pass

    last = lines.states[-1]
    assert "cohort c1: 30,000 members" == last.description
    assert 0 < last.completed == last.total
    assert "B" == last.unit
    assert not any("requested" in each.description for each in lines.states)
    assert lines.is_closed


async def test_a_file_has_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """It is closed when the file is here, before the block begins."""
    emulator.add_cohort("c1", size=2_000)
    job = await client.request_export("c1")

    async with job.file(progress=True) as file:
        assert lines.is_closed
        assert 2_001 == len(file.readlines())

    assert 0 < lines.states[-1].completed == lines.states[-1].total


async def test_record_batches_have_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """Of bytes, for as long as they are read."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    emulator.add_cohort("c1", size=2_000)
    job = await client.request_export("c1")

    async with job.record_batches(progress=True) as batches:
        assert not lines.is_closed
        assert 2_000 == sum([batch.num_rows async for batch in batches])

    assert 0 < lines.states[-1].completed == lines.states[-1].total
    assert lines.is_closed


async def test_left_jobs_have_a_bar(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """It counts those that were found, and is closed where the loop is left."""
    await leave(emulator, client, tmp_path)

    outcomes = [each async for each in client.run_jobs(progress=True)]

    assert [None, None] == [each.error for each in outcomes]
    assert (2, 2) == lines.shown[-1][1:]
    assert " exports" == lines.states[-1].unit
    assert lines.is_closed


async def test_a_runner_that_goes_on_counts_without_end(
    lines: Lines, emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """Nobody knows how many there will be."""
    await leave(emulator, client, tmp_path)
    outcomes = client.run_jobs(forever=True, progress=True)

    assert isinstance(outcomes, AsyncGenerator)
    async with aclosing(outcomes):
        await anext(outcomes)

        assert (1, None) == lines.shown[-1][1:]
        assert not lines.is_closed

    assert lines.is_closed


async def leave(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """Leave two exports, each in the middle of its file."""
    for cohort_id in ("c1", "c2"):
        emulator.add_cohort(cohort_id, size=2_000)
        job = await client.request_export(cohort_id)

        with pytest.raises(LookupError):
            await job.download(tmp_path / f"{cohort_id}.csv", progress=stop)


def stop(_: BytesReceived) -> None:
    """End a download."""
    raise LookupError


async def test_a_failed_step_closes_the_bar(
    lines: Lines, client: CohortsClient, tmp_path: Path
) -> None:
    """As a cancelled one does."""
    outcomes = client.export_many(["c1"], tmp_path / "away", progress=True)

    with pytest.raises(InvalidInputError):
        await anext(outcomes)

    assert lines.states
    assert lines.is_closed


async def test_nothing_is_drawn_unasked(
    lines: Lines,
    emulator: CohortsEmulator,
    client: CohortsClient,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither a bar nor anything else."""
    await leave(emulator, client, tmp_path)
    assert 2 == len([each async for each in client.run_jobs()])
    job = await client.request_export("c1")
    await job.wait()
    async with job.members() as members, job.file():
        await anext(members)

    assert [] == lines.states
    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize("value", ["yes", 1])
async def test_another_value_is_refused(
    client: CohortsClient, tmp_path: Path, value: Any
) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInputError, match="pass True for a bar"):
        await client.export("c1", tmp_path / "c1.csv", progress=value)
    with pytest.raises(InvalidInputError, match="pass True for a bar"):
        client.export_many(["c1"], tmp_path, progress=value)
    with pytest.raises(InvalidInputError, match="pass True for a bar"):
        client.run_jobs(progress=value)

    job = client.resume_export("r1")
    for call in (
        job.wait,
        job.link,
        partial(job.download, tmp_path / "c1.csv"),
        lambda progress: job.members(progress=progress).__aenter__(),
        lambda progress: job.file(progress=progress).__aenter__(),
    ):
        with pytest.raises(InvalidInputError, match="pass True for a bar"):
            await call(progress=value)


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
    """tqdm's bar and rich's have text, time and counts with their unit, on stderr."""
    only(library, monkeypatch)

    one, many = ProgressBar("cohort c1"), ProgressBar("", total=lambda: 1)
    async with displayed(one), displayed(many):
        one(QuotaWait(cohort_id="c1", seconds=40.0))
        one(BytesReceived(request_id="r1", received=5, total=9))
        one.refresh()
        one(BytesReceived(request_id="r1", received=2, total=9))
        one(BytesReceived(request_id="r1", received=9, total=9))
        one(BatchWritten(cohort_id="c1", operation="add", batch=0, ids=7, at=NOW))
        many.count(ExportOutcome(cohort_id="c1"))

    output, errors = capfd.readouterr()
    assert "" == output
    assert "cohort c1" in errors
    assert "100%" in errors or "1/1 exports" in errors
    assert "7 ids" in errors.replace("\N{FIGURE SPACE}", " ")
    assert "Traceback" not in errors


@pytest.mark.parametrize("library", ["tqdm", "rich"])
async def test_a_wait_shows_no_count(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], library: str
) -> None:
    """A text and the time: no bytes yet, of nobody knows how many."""
    only(library, monkeypatch)

    async with displayed(ProgressBar("cohort c1")):
        pass

    _, errors = capfd.readouterr()
    assert "cohort c1" in errors
    assert "0:00" in errors
    assert not re.search(r"\dB|bytes|it/s|\?", errors)


@pytest.mark.parametrize("library", ["tqdm", "rich"])
async def test_no_terminal_is_needed(
    emulator: CohortsEmulator,
    client: CohortsClient,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
) -> None:
    """A log may take stderr, which may be closed: neither fails the call."""
    only(library, monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    emulator.add_cohort("c1", size=2_000)
    job = await client.request_export("c1")
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)

    await job.wait(progress=True)
    text = log.getvalue()
    log.close()
    await job.wait(progress=True)

    assert "cohort c1" in text


def only(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one library, and not the other one."""
    pytest.importorskip(library, reason="the extra progress, or cli, is not installed")
    if "rich" == library:
        monkeypatch.setitem(sys.modules, "tqdm", None)
