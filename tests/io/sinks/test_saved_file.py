"""A saved file: when it is read, and how it is known again."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import attrs
import pytest
from anyio import to_thread

from amplitude_cohorts_async import CohortsClient, SavedExport
from amplitude_cohorts_async._io.sinks.part_file import PartFile
from amplitude_cohorts_async._io.sinks.saved_file import (
    from_record,
    to_record,
)
from amplitude_cohorts_async._io.sinks.target import checked_target
from amplitude_cohorts_async.errors import StorageError
from amplitude_cohorts_async.testing import CohortsEmulator

TEXT = b'"user_id","note"\n"ann","two\nlines"\n"bob","a ""quote"""\n"eve",""'
SHA256 = hashlib.sha256(TEXT).hexdigest()


def saved_at(path: Path, data: bytes = TEXT) -> SavedExport:
    """Save a file of which nothing has been asked."""
    part = PartFile(path)
    part.open()
    part.write(data)
    count = checked_target(path, None).format.count_rows
    file = attrs.evolve(part.publish(), count=count)

    return SavedExport(
        path=path, size=file.size, file=file, downloaded=9, links=1, token="{}"
    )


@pytest.fixture
def saved(tmp_path: Path) -> SavedExport:
    """A saved file of which nothing has been asked."""
    return saved_at(tmp_path / "members.csv")


def test_the_digest_is_that_of_the_bytes_on_disk(saved: SavedExport) -> None:
    """The digest is the file's, and stays when the file goes."""
    assert SHA256 == saved.sha256
    saved.path.unlink()
    assert SHA256 == saved.sha256


async def test_the_digest_can_be_awaited(saved: SavedExport) -> None:
    """An event loop has a way that does not block it."""
    assert SHA256 == await saved.digest()
    saved.path.unlink()
    assert SHA256 == await saved.digest()


@pytest.mark.parametrize(
    "use",
    [
        repr,
        hash,
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        attrs.asdict,
        attrs.astuple,
        partial(attrs.evolve, links=2),
        lambda saved: saved == attrs.evolve(saved),
    ],
)
def test_no_other_use_reads_the_file(
    saved: SavedExport, use: Callable[[SavedExport], object]
) -> None:
    """Showing, comparing, copying, pickling: all of it works without the file."""
    saved.path.unlink()

    assert use(saved)


def test_its_repr_is_what_a_person_needs(saved: SavedExport) -> None:
    """Path, size and export; the rows once they are known, and no token."""
    saved = attrs.evolve(saved, token='{"request_id":"WsDK4F","as_of":"2026"}')
    place = f"SavedExport(path={str(saved.path)!r}, size={len(TEXT)}"

    assert f"{place}, request_id='WsDK4F')" == repr(saved)
    assert 3 == saved.rows
    assert f"{place}, rows=3, request_id='WsDK4F')" == repr(saved)


def test_the_repr_of_an_object_is_its_address(saved: SavedExport) -> None:
    """Its path is no file of this machine; a token made by hand names no export."""
    there = attrs.evolve(saved, location="s3://bucket/a.csv", unchanged=True)

    assert (
        f"SavedExport(location='s3://bucket/a.csv', size={len(TEXT)}, unchanged=True)"
        == repr(there)
    )


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        partial(attrs.evolve, links=2),
        lambda s: pickle.loads(pickle.dumps(s)),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_copy_can_do_what_the_original_can(
    saved: SavedExport, copied: Callable[[SavedExport], SavedExport], is_known: bool
) -> None:
    """A copy reads the file if need be, and need not where that was done before."""
    assert not is_known or (SHA256, 3) == (saved.sha256, saved.rows)
    again = copied(saved)

    if is_known:
        saved.path.unlink()

    assert (SHA256, 3) == (again.sha256, again.rows)


def longer(path: Path) -> None:
    """Append to a file."""
    path.write_bytes(TEXT + b"x")


def other(path: Path) -> None:
    """Write another text of the same length."""
    path.write_bytes(TEXT.swapcase())


@pytest.mark.parametrize("change", [longer, other, Path.unlink])
def test_a_changed_file_is_not_read_in_its_name(
    saved: SavedExport, change: Callable[[Path], None]
) -> None:
    """What is not what was saved has neither a digest nor a number."""
    change(saved.path)

    with pytest.raises(StorageError, match=r"members\.csv has no digest"):
        _ = saved.sha256
    assert saved.rows is None


def test_a_change_at_once_is_seen(tmp_path: Path) -> None:
    """A file written again within the tick of the disk's clock has another time."""
    for number in range(100):
        saved = saved_at(tmp_path / f"{number}.csv")
        other(saved.path)

        assert not saved.file.is_intact()


@pytest.mark.parametrize("change", [longer, other, Path.unlink])
@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_not_intact(
    saved: SavedExport, change: Callable[[Path], None], is_known: bool
) -> None:
    """A file that was changed or removed is not intact, whether or not it was read."""
    assert saved.file.is_intact()
    assert not is_known or saved.sha256
    change(saved.path)

    assert not saved.file.is_intact()


@pytest.mark.parametrize("is_known", [True, False])
def test_the_digest_decides_where_the_time_is_another(
    saved: SavedExport, is_known: bool
) -> None:
    """The same bytes with another time, as after a move, are known by their digest."""
    assert not is_known or saved.sha256
    shutil.copyfile(saved.path, saved.path.with_name("copy"))
    os.utime(saved.path.with_name("copy"), ns=(5, 5))
    saved.path.with_name("copy").replace(saved.path)

    assert is_known is saved.file.is_intact()


def test_a_disk_that_keeps_no_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the time cannot be set, it is no proof, and the digest decides."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    file = saved_at(tmp_path / "members.csv").file

    assert not file.is_intact()
    assert attrs.evolve(file, sha256=SHA256).is_intact()


def test_a_record_is_an_export_again(saved: SavedExport) -> None:
    """What is kept of a file is JSON, and holds all that was read of it by then."""
    assert to_record(saved)["sha256"] is None
    assert (SHA256, 3) == (saved.sha256, saved.rows)
    record = json.loads(json.dumps(to_record(saved)))
    again = from_record(record)

    assert (SHA256, 3) == (record["sha256"], record["rows"])
    assert saved == again
    assert again.file.is_intact()
    saved.path.unlink()
    assert (SHA256, 3) == (again.sha256, again.rows)


def test_a_record_of_a_file_that_was_taken(saved: SavedExport) -> None:
    """A watcher may move a file as soon as it is there: it was delivered all the same."""
    moved = saved.path.rename(saved.path.with_name("moved.csv"))
    again = from_record(json.loads(json.dumps(to_record(saved))))

    assert saved == again
    assert not again.file.is_intact()
    moved.rename(saved.path)
    assert again.file.is_intact()


def test_a_record_keeps_when_its_export_was_requested(saved: SavedExport) -> None:
    """The time is there again; a record without one, or with none, is still read."""
    asked = attrs.evolve(saved, requested_at=datetime(2026, 6, 15, 12, tzinfo=UTC))
    record = json.loads(json.dumps(to_record(asked)))

    assert asked == from_record(record)
    assert saved == from_record(record | {"requested_at": "yesterday"})
    del record["requested_at"]
    assert saved == from_record(record)


def test_a_record_without_a_time_is_known_by_its_digest(saved: SavedExport) -> None:
    """What the first release recorded is still of use."""
    assert SHA256 == saved.sha256
    record = to_record(saved)
    del record["mtime_ns"]

    assert from_record(record).file.is_intact()
    assert not from_record(record | {"sha256": "0" * 64}).file.is_intact()


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_an_export_tells_its_members(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, name: str
) -> None:
    """The number of a small file is known without reading it again."""
    emulator.add_cohort("c1", members=["ann", "bob"])

    saved = await client.export("c1", tmp_path / name)

    saved.path.unlink()
    assert 2 == saved.rows


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_a_large_export_is_counted_when_asked(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, name: str
) -> None:
    """Beyond a MiB of text the file itself is asked."""
    emulator.add_cohort("c1", size=60_000)

    saved = await client.export("c1", tmp_path / name)

    assert 60_000 == await to_thread.run_sync(lambda: saved.rows)


@pytest.mark.parametrize(
    ("name", "data"),
    [("members.csv", TEXT), ("members.csv.gz", gzip.compress(TEXT))],
    ids=["plain", "gzip"],
)
def test_members_are_counted_not_lines(tmp_path: Path, name: str, data: bytes) -> None:
    """Line breaks in a text and a last line without one do not mislead."""
    assert 3 == saved_at(tmp_path / name, data).rows


def test_a_damaged_file_has_no_number(tmp_path: Path) -> None:
    """A compressed file that ends early is not counted."""
    assert saved_at(tmp_path / "members.csv.gz", gzip.compress(TEXT)[:-9]).rows is None
