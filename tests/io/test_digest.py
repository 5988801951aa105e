"""
A digest that is worked out when it is asked for.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import SavedExport, errors
from amplitude_cohorts_async._io.disk.digest import FileDigest

TEXT = b'"user_id"\n"ann"\n'
SHA256 = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
def saved(tmp_path: Path) -> SavedExport:
    """
    A saved file whose digest nobody has asked for.
    """
    path = tmp_path / "members.csv"
    path.write_bytes(TEXT)
    digest = FileDigest.of(path, path.stat())

    return SavedExport(
        path=path,
        size=len(TEXT),
        sha256=digest,
        downloaded=len(TEXT),
        links=1,
        token="{}",
    )


def test_it_is_that_of_the_bytes_on_disk(saved: SavedExport):
    """
    The digest is the file's, and stays when the file goes.
    """
    assert SHA256 == saved.sha256
    saved.path.unlink()
    assert SHA256 == saved.sha256


def test_attrs_and_pickle_get_the_text(saved: SavedExport):
    """
    To everybody else it is a field of text like any other.
    """
    assert SHA256 == attrs.asdict(saved)["sha256"]
    assert SHA256 == attrs.evolve(saved, links=2).sha256
    assert SHA256 == pickle.loads(pickle.dumps(saved)).sha256
    assert SHA256 == copy.deepcopy(saved).sha256


def test_looking_at_the_rest_reads_no_file(saved: SavedExport):
    """
    Showing and comparing do not read the file.
    """
    saved.path.unlink()

    assert "members.csv" in repr(saved)
    assert saved == saved  # noqa: PLR0124  it compares the fields


@pytest.mark.parametrize("change", ["longer", "touched", "gone"])
def test_a_changed_file_has_none(saved: SavedExport, change: str):
    """
    A file that is no longer what was saved is not digested in its name.
    """
    if "gone" == change:
        saved.path.unlink()
    else:
        saved.path.write_bytes(TEXT + b"x" * ("longer" == change))
        import os  # noqa: PLC0415  only here

        os.utime(saved.path, ns=(1, 1))

    with pytest.raises(errors.StorageError, match=r"members\.csv has no digest"):
        _ = saved.sha256
