"""What a user writes, as a type checker sees it. Checked, never run."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import assert_type

from amplitude_cohorts_async import (
    Cohort,
    CohortsClient,
    ExportJob,
    ExportStatus,
    IdType,
    LocalLimiter,
    Member,
    MembershipDiff,
    MembershipReport,
    MemberStream,
    Region,
    SavedExport,
    SyncReport,
    UploadReport,
    Usage,
    blocking,
    diff_ids,
    errors,
    export_cohort,
    read_ids,
)
from amplitude_cohorts_async.limiters import Clock, Limiter
from amplitude_cohorts_async.limits import DOCUMENTED, UNLIMITED, Limits, Rate
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from amplitude_cohorts_async.types import IdFile, IdSource


async def reading(client: CohortsClient) -> None:
    """Lists are lists, one thing is one thing."""
    assert_type(await client.list_cohorts(include_sync_info=True), list[Cohort])
    assert_type(await client.get_cohort("c1"), Cohort)
    usage = assert_type(await client.get_usage(), Usage)
    assert_type(usage.limit, int | None)


def blocking_calls(client: blocking.CohortsClient, folder: Path) -> None:
    """The same, without await."""
    assert_type(client.list_cohorts(include_sync_info=True), list[Cohort])
    job = assert_type(client.request_export("c1").wait(), blocking.ExportJob)
    assert_type(job.download(folder, progress=True), SavedExport)

    with job.members() as members:
        assert_type(members, blocking.MemberStream)
        for member in members:
            assert_type(member, Member)
        for batch in members.batches():
            assert_type(batch, list[Member])
    with client.export_many(["c1"], folder, progress=True) as outcomes:
        for outcome in outcomes:
            assert_type(outcome.saved, SavedExport | None)
    with blocking.CohortsClient.from_env() as other, other.slot():
        assert_type(other.sync_membership("c1", {"a"}), SyncReport)
        assert_type(other.update_membership("c1", add=Path("a")), MembershipReport)
    assert_type(blocking.export_cohort("c1", folder), SavedExport)
    assert_type(blocking.diff_ids(["a"], read_ids("b")), MembershipDiff)


async def exporting(client: CohortsClient, folder: Path) -> None:
    """A job is a value one can wait for, download, stream and resume."""
    job = assert_type(await client.request_export("c1", properties=["plan"]), ExportJob)
    assert_type(await job.poll(), ExportStatus)
    assert_type(await (await job.wait(timeout=60.0)).download(folder), SavedExport)
    assert_type(client.resume_export(job.token), ExportJob)

    async with job.members() as members:
        assert_type(members, MemberStream)
        async for member in members:
            assert_type(member, Member)
            assert_type(member.user_id, str | None)
        async for batch in members.batches(10_000):
            assert_type(batch, list[Member])

    saved = await client.export("c1", "members.csv", properties=True, timeout=900)
    assert_type(saved.path, Path)
    assert_type(saved.sha256, str)
    assert_type(await export_cohort("c1", folder / "members.csv"), SavedExport)


async def writing(client: CohortsClient, ids: AsyncIterator[str]) -> None:
    """Ids come as anything that yields them, or as a file."""
    report = await client.upload_cohort("a", ids, id_type=IdType.USER_ID)
    assert_type(report, UploadReport)
    await client.upload_cohort("a", ["ann"], id_type=IdType.USER_ID, replace="c1")
    await client.upload_cohort("a", Path("ids.txt"), id_type=IdType.AMPLITUDE_ID)
    assert_type(
        await client.update_membership("c1", add=["ann"], remove={"bob"}),
        MembershipReport,
    )
    assert_type(await client.sync_membership("c1", ["ann"], dry_run=True), SyncReport)
    assert_type(read_ids("ids.txt"), IdFile)
    assert_type(await diff_ids(Path("a.csv"), read_ids("ids.txt")), MembershipDiff)

    source: IdSource = read_ids(sys.stdin.buffer)
    await client.update_membership("c1", add=source, on_skipped=print)


async def building(clock: FakeClock) -> None:
    """Regions by value or by name, limits by value, the rest by protocol."""
    own = Limits(exports=(Rate(30, per=600.0),), in_flight=3)
    local: Limiter = LocalLimiter(own)
    time: Clock = clock

    async with CohortsClient("key", "secret", region=Region.EU, limits=DOCUMENTED):
        pass
    async with CohortsClient("key", "secret", region="eu", limiter=local, clock=time):
        pass
    async with CohortsClient.from_env(limits=UNLIMITED) as client:
        assert_type(client, CohortsClient)
    async with CohortsEmulator() as emulator:
        assert_type(emulator.base_url, str)


def failing(error: errors.CohortsError) -> None:
    """Every error tells where to go on, and a leaf tells what it knows."""
    assert_type(error.token, str | None)
    if isinstance(error, errors.RateLimitedError):
        assert_type(error.retry_after, float | None)
