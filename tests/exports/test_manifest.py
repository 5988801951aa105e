"""The manifest beside a file, and the warning about its number of rows."""

from __future__ import annotations

import asyncio
import copy
import gzip
import hashlib
import json
import os
import pickle
import stat
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async._version import VERSION
from amplitude_cohorts_async.errors import InvalidInputError, StorageError
from amplitude_cohorts_async.events import Event, RowsDiffer
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import CSV, ETAG, GZIP, OBJECT, REQUEST, names_in, whole
from support.fault_server import FaultServer

MANIFEST = "members.csv.manifest.json"


def manifest_of(path: Path) -> dict[str, object]:
    """Read the manifest beside a file."""
    facts = json.loads(path.with_name(f"{path.name}.manifest.json").read_bytes())
    assert isinstance(facts, dict)

    return facts


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
async def test_a_manifest_tells_what_the_file_is(
    client: CohortsClient,
    emulator: CohortsEmulator,
    clock: FakeClock,
    tmp_path: Path,
    kind: str,
) -> None:
    """Export, cohort, properties, rows, size, digest, times and versions."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    emulator.add_cohort("c1", members=["ann", "bob"], properties={"plan": ["free"]})
    target = tmp_path / f"members.{kind}"

    saved = await client.export("c1", target, properties=["plan"], manifest=True)

    found = manifest_of(target)
    data = target.read_bytes()
    assert (1, f"amplitude-cohorts-async/{VERSION}") == (
        found["manifest_version"],
        found["library"],
    )
    assert json.loads(saved.token)["request_id"] == found["request_id"]
    assert ("c1", ["plan"]) == (found["cohort_id"], found["properties"])
    assert (target.name, kind) == (found["name"], found["format"])
    assert (2, len(data)) == (found["rows"], found["size"])
    assert hashlib.sha256(data).hexdigest() == found["sha256"] == saved.sha256
    assert saved.requested_at is not None
    assert saved.requested_at.isoformat() == found["requested_at"]
    assert clock.utcnow().isoformat() == found["downloaded_at"]
    assert [target.name, f"{target.name}.manifest.json"] == names_in(tmp_path)


async def test_a_manifest_holds_no_secret(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Neither a key nor a link, of which the query opens the file."""
    await job.download(tmp_path / "members.csv", manifest=True)
    text = (tmp_path / MANIFEST).read_text()

    assert [] == [
        word for word in (API_KEY, SECRET_KEY, "X-Amz", "http") if word in text
    ]


async def test_large_members_are_counted_for_a_manifest(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """What is not counted in passing is read for it."""
    text = CSV + CSV[CSV.index(b"\n") + 1 :] * 30
    server.on(OBJECT, whole(gzip.compress(text)))
    saved = await job.download(tmp_path / "members.csv", manifest=True)

    assert 62_000 == manifest_of(saved.path)["rows"] == saved.rows


async def test_no_manifest_unless_asked_for(job: ExportJob, tmp_path: Path) -> None:
    """By default there is the file alone."""
    await job.download(tmp_path / "members.csv")

    assert ["members.csv"] == names_in(tmp_path)


async def test_a_manifest_names_the_tag(job: ExportJob, tmp_path: Path) -> None:
    """The store's strong tag says which object it was."""
    saved = await job.download(tmp_path / "members.csv", manifest=True)

    assert ETAG == manifest_of(saved.path)["etag"]


async def test_a_manifest_without_a_tag(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A weak tag proves nothing, and is not named."""
    server.on(OBJECT, whole(GZIP, f"W/{ETAG}"))
    saved = await job.download(tmp_path / "members.csv", manifest=True)

    found = manifest_of(saved.path)
    assert (None, None) == (found["etag"], found["requested_at"])


@pytest.mark.posix
async def test_a_manifest_has_the_permissions_of_its_file(
    job: ExportJob, tmp_path: Path
) -> None:
    """Who may read the file may read what it is, and nobody else."""
    (tmp_path / "members.csv").touch(mode=0o640)
    (tmp_path / MANIFEST).touch(mode=0o644)
    await job.download(tmp_path / "members.csv", manifest=True)

    assert 0o640 == stat.S_IMODE((tmp_path / MANIFEST).stat().st_mode)


async def test_a_manifest_that_cannot_be_written_spends_nothing(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """Its name is checked before anything is sent, as the target's is."""
    (tmp_path / MANIFEST).mkdir()

    with pytest.raises(InvalidInputError, match="is a directory"):
        await exporter.export("c1", tmp_path / "members.csv", manifest=True)

    assert [] == server.seen


async def test_a_manifest_of_a_file_that_is_taken_at_once(
    job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher that moves the file away takes nothing from its manifest."""
    target, real = tmp_path / "members.csv", Path.replace

    def replace_and_move(part: Path, to: Path) -> Path:
        moved = real(part, to)
        if to == target:
            os.link(to, tmp_path / "taken")
        return moved

    monkeypatch.setattr(Path, "replace", replace_and_move)
    saved = await job.download(target, manifest=True)
    target.unlink()

    assert hashlib.sha256(CSV).hexdigest() == saved.sha256
    assert 2_000 == saved.rows


async def test_a_full_disk_leaves_the_file_without_its_manifest(
    job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is whole; the error carries the token."""
    real = Path.replace

    def refuse(part: Path, to: Path) -> Path:
        if to.name == MANIFEST:
            raise OSError(28, "No space left on device")
        return real(part, to)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="No space left") as caught:
        await job.download(tmp_path / "members.csv", manifest=True)

    assert job.token == caught.value.token
    assert ["members.csv"] == names_in(tmp_path)


@pytest.fixture
def told() -> list[Event]:
    """What a hook was told."""
    return []


@pytest.fixture
async def watched(
    server: FaultServer, clock: FakeClock, told: list[Event]
) -> ExportJob:
    """A job whose events are kept."""
    async with unlimited_client(
        server.url,
        clock,
        hook=told.append,
    ) as client:
        yield client.resume_export(REQUEST)


@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
async def test_rows_that_differ_are_a_warning(
    watched: ExportJob,
    told: list[Event],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """The file is saved all the same; the event and the log tell both numbers."""
    saved = await watched.download(tmp_path / f"members.{kind}", expected_rows=2_001)

    assert 2_000 == saved.rows
    assert [RowsDiffer(request_id=REQUEST, cohort_id=None, rows=2_000, size=2_001)] == [
        event for event in told if isinstance(event, RowsDiffer)
    ]
    assert ["WARNING"] == [
        record.levelname for record in caplog.records if "2001" in record.getMessage()
    ]


@pytest.mark.parametrize("size", [2_000, None])
async def test_rows_that_agree_are_none(
    watched: ExportJob, told: list[Event], tmp_path: Path, size: int | None
) -> None:
    """As many members as were listed, or no number to compare with."""
    await watched.download(tmp_path / "members.csv", expected_rows=size)

    assert not any(isinstance(event, RowsDiffer) for event in told)


async def test_the_size_that_was_listed_is_compared(
    emulator: CohortsEmulator, clock: FakeClock, told: list[Event], tmp_path: Path
) -> None:
    """A call that reads the list anyway compares; it sends nothing more for that."""
    emulator.add_cohort("c1", members=["ann", "bob"], overrides={"size": 7})
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        hook=told.append,
    ) as client:
        first = await client.export("c1", tmp_path / "members.csv")
        emulator.add_cohort("c1", members=["ann", "bob"], overrides={"size": 7})
        emulator_lists = emulator.requests("list")
        await client.export("c1", tmp_path / "other.csv", if_changed_since=first)

    assert 1 == emulator.requests("list") - emulator_lists
    assert [(2, 7)] == [
        (event.rows, event.size) for event in told if isinstance(event, RowsDiffer)
    ]


async def test_when_an_export_was_requested(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Aware UTC; copies, comparisons and pickles have it, without a file."""
    emulator.add_cohort("c1", members=["ann"])
    saved = await client.export("c1", tmp_path / "members.csv")
    await asyncio.to_thread(saved.path.unlink)

    assert saved.requested_at is not None
    assert UTC == saved.requested_at.tzinfo
    assert isinstance(saved.requested_at, datetime)
    assert saved == copy.copy(saved) == pickle.loads(pickle.dumps(saved))
    assert 1 == attrs.evolve(saved, spent=1).spent


async def test_a_bare_id_does_not_say_when(job: ExportJob, tmp_path: Path) -> None:
    """Nobody knows when it was requested."""
    assert (await job.download(tmp_path / "members.csv")).requested_at is None
