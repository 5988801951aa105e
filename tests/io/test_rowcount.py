"""
Members of a saved file, counted when asked for.
"""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pytest
from anyio import to_thread

from amplitude_cohorts_async import CohortsClient, SavedExport
from amplitude_cohorts_async._io.disk.digest import FileDigest
from amplitude_cohorts_async._io.disk.rowcount import RowCount
from amplitude_cohorts_async.testing import CohortsEmulator

TEXT = b'"user_id","note"\n"ann","two\nlines"\n"bob","a ""quote"""\n"eve",""'


def saved_at(path: Path, data: bytes) -> SavedExport:
    """
    Save a file whose members nobody has counted.
    """
    path.write_bytes(data)
    digest = FileDigest.of(path, path.stat())

    return SavedExport(
        path=path,
        size=len(data),
        sha256=digest,
        rows=RowCount(digest, is_gzip=path.suffix == ".gz"),
        downloaded=len(data),
        links=1,
        token="{}",
    )


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_an_export_tells_its_members(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, name: str
) -> None:
    """
    The number of a small file is known without reading it again.
    """
    emulator.add_cohort("c1", members=["ann", "bob"])

    saved = await client.export("c1", tmp_path / name)

    saved.path.unlink()
    assert 2 == saved.rows


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_a_large_export_is_counted_when_asked(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, name: str
) -> None:
    """
    Beyond a MiB of text the file itself is asked.
    """
    emulator.add_cohort("c1", size=60_000)

    saved = await client.export("c1", tmp_path / name)

    assert 60_000 == await to_thread.run_sync(lambda: saved.rows)


@pytest.mark.parametrize(
    ("name", "data"),
    [("members.csv", TEXT), ("members.csv.gz", gzip.compress(TEXT))],
    ids=["plain", "gzip"],
)
def test_members_are_counted_not_lines(tmp_path: Path, name: str, data: bytes) -> None:
    """
    Line breaks in a text and a last line without one do not mislead.
    """
    saved = saved_at(tmp_path / name, data)

    assert 3 == pickle.loads(pickle.dumps(saved)).rows
    saved.path.unlink()
    assert 3 == saved.rows


@pytest.mark.parametrize("data", [TEXT + b"\n", None])
def test_a_changed_file_is_not_counted(tmp_path: Path, data: bytes | None) -> None:
    """
    What is not what was saved has no number.
    """
    saved = saved_at(tmp_path / "members.csv", TEXT)

    if data is None:
        saved.path.unlink()
    else:
        saved.path.write_bytes(data)

    assert "members.csv" in repr(saved)
    assert saved.rows is None
