"""The columnar door: a job's file as Arrow record batches."""

from __future__ import annotations

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import MalformedFileError
from amplitude_cohorts_async.testing import CohortsEmulator, faults

pytest.importorskip("pyarrow", reason="the extra parquet is not installed")


async def test_batches_hold_the_members(
    client: CohortsClient, emulator: CohortsEmulator
) -> None:
    """Columns have the file's names; an anonymous member's user id is null."""
    emulator.add_cohort("c1", members=[("111222333", "ann"), ("444555666", None)])
    job = await client.request_export("c1")

    async with job.record_batches(amplitude_id="int64") as batches:
        rows = [row async for batch in batches for row in batch.to_pylist()]

    assert [
        {"amplitude_id": 111222333, "user_id": "ann"},
        {"amplitude_id": 444555666, "user_id": None},
    ] == rows


async def test_a_malformed_file_tells_its_line_and_the_token(
    client: CohortsClient, emulator: CohortsEmulator
) -> None:
    """The error is the one that reading members gives."""
    emulator.add_cohort("c1", members=["ann"])
    emulator.fail_next("file", faults.bad_rows())
    job = await client.request_export("c1")

    with pytest.raises(MalformedFileError) as caught:
        async with job.record_batches() as batches:
            _ = [batch async for batch in batches]

    assert job.token == caught.value.token
    assert caught.value.line is not None
