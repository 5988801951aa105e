"""The record of earlier releases in a directory is taken over, and spends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._core.tokens import export_key
from amplitude_cohorts_async._exports import old_record
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    ExportTimeoutError,
    StorageError,
)
from amplitude_cohorts_async.models import ExportOutcome
from amplitude_cohorts_async.testing import CohortsEmulator

NAME = ".amplitude-exports.jsonl"


@pytest.fixture(autouse=True)
def cohorts(emulator: CohortsEmulator) -> None:
    """Cohorts of which one takes long."""
    emulator.add_cohort("c1", members=["ann"], job_seconds=100)
    emulator.add_cohort("c2", members=["bob"])


def write(directory: Path, *lines: object) -> None:
    """Write a record of an earlier release."""
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (directory / NAME).write_text(text)


def key(cohort_id: str) -> str:
    """Return the key of a cohort's lines."""
    return f"{export_key(cohort_id, False)}.csv"


async def many(
    client: CohortsClient, directory: Path, *cohort_ids: str
) -> dict[str, ExportOutcome]:
    """The outcomes by cohort."""
    batch = client.export_many(cohort_ids, directory)

    return {outcome.cohort_id: outcome async for outcome in batch}


async def test_a_token_is_gone_on_with(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """What was requested comes to its file; the record is gone."""
    with pytest.raises(ExportTimeoutError) as caught:
        await client.export("c1", tmp_path / "other.csv", timeout=11)
    (tmp_path / "many").mkdir()
    write(
        tmp_path / "many",
        {"begun": 1},
        {"key": key("c1"), "attempt": 1},
        {"key": key("c1"), "token": caught.value.token},
    )

    outcomes = await many(client, tmp_path / "many", "c1")

    assert outcomes["c1"].saved is not None
    assert 1 == emulator.spent
    assert not (tmp_path / "many" / NAME).exists()


async def test_what_an_open_run_saved_is_left_alone(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Even if its reader has moved it."""
    saved = await client.export("c2", tmp_path / "c2.csv")
    record = {
        "path": str(saved.path),
        "size": saved.size,
        "downloaded": saved.downloaded,
        "links": saved.links,
        "token": saved.token,
        "unchanged": False,
        "mtime_ns": saved.file.mtime_ns,
        "sha256": saved.sha256,
        "rows": saved.rows,
    }
    write(tmp_path, {"begun": 1}, {"key": key("c2"), "saved": record})
    saved.path.unlink()

    outcomes = await many(client, tmp_path, "c2")

    assert outcomes["c2"].saved is not None
    assert 1 == emulator.spent
    assert not saved.path.exists()


async def test_an_attempt_without_an_answer_is_in_doubt(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """One of another cohort stays in the record, until that one is asked for."""
    write(
        tmp_path,
        {"key": key("c1"), "attempt": 1},
        {"key": key("c2"), "attempt": 1},
    )

    first = await many(client, tmp_path, "c2")
    left = (tmp_path / NAME).read_text()
    second = await many(client, tmp_path, "c1")

    assert isinstance(first["c2"].error, AmbiguousExportError)
    assert key("c1") in left
    assert key("c2") not in left
    assert isinstance(second["c1"].error, AmbiguousExportError)
    assert 0 == emulator.spent


@pytest.mark.parametrize("line", ["[]", "3", "null", '{"key": "k", "saved": {}}', ""])
async def test_a_line_that_means_nothing_is_passed_over(
    client: CohortsClient, tmp_path: Path, line: str
) -> None:
    """A damaged record stops nobody."""
    (tmp_path / NAME).write_text(f"{line}\n")

    outcomes = await many(client, tmp_path, "c2")

    assert outcomes["c2"].saved is not None


async def test_what_was_imported_before_is_not_imported_again(
    client: CohortsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that another process reads, too, or that a kill left, adds nothing."""
    saved = await client.export("c2", tmp_path / "other.csv")
    write(
        tmp_path,
        {"key": key("c1"), "attempt": 1},
        {"key": key("c2"), "token": saved.token},
    )

    def refuse(*_: object) -> None:
        """Fail at the last step of an import."""
        raise StorageError("refused", request_id="")

    with monkeypatch.context() as patch:
        patch.setattr(old_record, "_leave", refuse)
        with pytest.raises(StorageError, match="refused"):
            await many(client, tmp_path, "c1", "c2")
    await many(client, tmp_path, "c1", "c2")

    jobs = await client.jobs()
    assert ["c1", "c2"] == sorted(job.cohort_id for job in jobs)
    targets = [str(each.target) for job in jobs for each in job.deliveries]
    names = sorted(Path(target).name for target in targets)
    assert ["c1.csv", "c2.csv", "other.csv"] == names


@pytest.mark.posix
async def test_the_record_is_replaced_in_one_step(
    client: CohortsClient, tmp_path: Path
) -> None:
    """A full disk or a kill cannot lose the attempts that stay in it."""
    write(tmp_path, {"begun": 1}, {"key": key("c1"), "attempt": 1})
    (tmp_path / NAME).chmod(0o640)

    with (tmp_path / NAME).open() as before:
        await many(client, tmp_path, "c2")
        assert "begun" in before.read()

    assert key("c1") in (tmp_path / NAME).read_text()
    assert 0o640 == (tmp_path / NAME).stat().st_mode & 0o777


async def test_a_record_that_cannot_be_read(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Nothing is spent: it may tell of an export that was."""
    (tmp_path / NAME).mkdir()

    with pytest.raises(StorageError, match="cannot be read"):
        await many(client, tmp_path, "c2")

    assert 0 == emulator.spent
