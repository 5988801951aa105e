"""
Where a file may go, and how it gets its name.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amplitude_cohorts_async._io.disk.files import Format, checked_target
from amplitude_cohorts_async._io.disk.partfile import PartFile
from amplitude_cohorts_async.errors import InvalidInputError
from support.exporting import names_in


@pytest.mark.parametrize(
    ("name", "format_", "expected"),
    [
        ("a.csv", None, Format.CSV),
        ("a.CSV", None, Format.CSV),
        ("a.csv.gz", None, Format.GZIP),
        ("a.parquet", None, Format.PARQUET),
        ("a.txt", "csv", Format.CSV),
        ("a.csv", "csv.gz", Format.GZIP),
        ("a", ".PARQUET", Format.PARQUET),
        (".csv", None, Format.CSV),
    ],
)
def test_formats(
    tmp_path: Path, name: str, format_: str | None, expected: Format
) -> None:
    """
    The name tells the format, unless the caller does.
    """
    target = checked_target(tmp_path / name, format_)

    assert (tmp_path / name, expected) == (target.path, target.format)
    assert [] == names_in(tmp_path)


def test_a_link_to_a_file(tmp_path: Path) -> None:
    """
    A link, also one that leads nowhere, may be replaced; one to a device may not.
    """
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "device.csv").symlink_to(os.devnull)

    assert checked_target(tmp_path / "dangling.csv", None)
    with pytest.raises(InvalidInputError, match="no regular file"):
        checked_target(tmp_path / "device.csv", None)


def test_a_part_gets_its_name_at_the_end(tmp_path: Path) -> None:
    """
    A part is hidden, and a file of its own; finishing puts it in the old one's place.
    """
    target = tmp_path / "a.csv"
    target.write_bytes(b"old")
    one, other = PartFile(target), PartFile(target)
    one.write(b"ne")
    one.write(memoryview(b"w"))
    other.write(b"other")

    assert b"old" == target.read_bytes()
    assert all(name.startswith(".") for name in names_in(tmp_path) if name != "a.csv")
    assert 3 == len(names_in(tmp_path))

    one.finish()
    assert b"new" == target.read_bytes()
    other.discard()
    other.discard()
    one.discard()
    assert b"new" == target.read_bytes()
    assert ["a.csv"] == names_in(tmp_path)


def test_a_part_has_ordinary_rights(tmp_path: Path) -> None:
    """
    A file is as readable as any other that its user makes.
    """
    (tmp_path / "plain").touch()
    part = PartFile(tmp_path / "a.csv")
    part.finish()

    modes = {(tmp_path / name).stat().st_mode for name in names_in(tmp_path)}
    assert 1 == len(modes)


def test_a_long_name_has_a_part(tmp_path: Path) -> None:
    """
    A name as long as the disk allows is not too long for its part.
    """
    target = tmp_path / f"{'ü' * 125}.csv"
    part = PartFile(target)
    part.finish()

    assert [target.name] == names_in(tmp_path)
