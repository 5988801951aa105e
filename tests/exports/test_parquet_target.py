"""A Parquet file as the target of an export."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import MalformedFileError, MissingExtraError
from amplitude_cohorts_async.testing import CohortsEmulator, faults


@pytest.fixture(autouse=True)
def cohort(emulator: CohortsEmulator) -> None:
    """Two members, one of them anonymous."""
    emulator.add_cohort("c1", members=[("111222333", "ann"), ("444555666", None)])


async def test_a_parquet_file_holds_the_members(
    client: CohortsClient, tmp_path: Path
) -> None:
    """The name's ending is enough; rows are counted on the way."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra is missing")

    saved = await client.export("c1", tmp_path / "c1.parquet")

    assert 2 == saved.rows
    assert [
        {"amplitude_id": "111222333", "user_id": "ann"},
        {"amplitude_id": "444555666", "user_id": None},
    ] == parquet.read_table(saved.path).to_pylist()


async def test_amplitude_ids_may_be_numbers(
    client: CohortsClient, tmp_path: Path
) -> None:
    """What they are is the caller's choice."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra is missing")
    job = await client.request_export("c1")

    saved = await job.download(tmp_path / "c1.parquet", amplitude_id="int64")

    assert [111222333, 444555666] == (
        parquet.read_table(saved.path)["amplitude_id"].to_pylist()
    )


async def test_a_malformed_file_leaves_none(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Half a Parquet file has no name, and the error has the token."""
    pytest.importorskip("pyarrow", reason="the extra is missing")
    emulator.fail_next("file", faults.bad_rows())

    with pytest.raises(MalformedFileError) as caught:
        await client.export("c1", tmp_path / "c1.parquet")

    assert caught.value.token is not None
    assert [] == list(tmp_path.iterdir())


async def test_without_the_extra_nothing_is_spent(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the extra, and comes before the request."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(MissingExtraError, match="parquet"):
        await client.export("c1", tmp_path / "c1.parquet")

    assert [] == emulator.log
