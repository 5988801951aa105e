"""Exports to destinations: of a user's own, refused ones, and those of a record."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async.errors import (
    InvalidInputError,
    MalformedFileError,
    MissingExtraError,
    StorageError,
)
from amplitude_cohorts_async.jobs import JobRecord
from amplitude_cohorts_async.testing import CohortsEmulator, faults
from support.exporting import CSV, FILE, GZIP, OBJECT, cut, rest, whole
from support.fault_server import FaultServer, Reply

MEMORY = "memory://folder/members.csv"
SECRET = "5ec2e7"

SIGNED = [
    f"s3://bucket/members.csv?X-Amz-Signature={SECRET}",
    f"s3://{SECRET}:{SECRET}@bucket/members.csv",
    f"az://container/members.csv?sv=2024&sig={SECRET}",
    f"gs://bucket/members.csv#{SECRET}",
    f"https://bucket.s3.amazonaws.com/members.csv?X-Amz-Signature={SECRET}",
    f"S3://bucket/members.csv?X-Amz-Signature={SECRET}",
]
WRONG = [
    "s3://bucket",
    "s3://bucket/",
    "s3:///members.csv",
    "s3:/bucket/members.csv",
    "s3://bucket/a//members.csv",
    "s3://bucket/../members.csv",
    "s3://bucket/mem\nbers.csv",
    "ftp://host/members.csv",
    "https://bucket.s3.amazonaws.com/members.csv",
]


@attrs.define
class Memory:
    """A destination of a user's own: what is whole is in `objects`."""

    location: str = MEMORY
    objects: dict[str, bytes] = attrs.field(factory=dict[str, bytes])
    metadata: list[Mapping[str, str]] = attrs.field(factory=list[Mapping[str, str]])
    begun: int = 0
    failure: Exception | None = None
    fails_after: int = 0

    async def write(
        self,
        blocks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        suffix: str = "",
    ) -> str | None:
        """Keep the blocks until they end."""
        self.begun += 1
        self.metadata.append(metadata)
        kept: list[bytes] = []

        async for block in blocks:
            kept.append(block)
            if self.failure is not None and len(kept) > self.fails_after:
                raise self.failure

        self.objects[self.location + suffix] = b"".join(kept)
        return await self.tag()

    async def tag(self) -> str | None:
        """Tell two objects apart by their bytes."""
        body = self.objects.get(self.location)

        return None if body is None else str(hash(body))


@pytest.fixture
def cohort(emulator: CohortsEmulator) -> None:
    """A cohort of two."""
    emulator.add_cohort("c1", members=["ann", "bob"])


async def test_a_destination_of_ones_own(server: FaultServer, job: ExportJob) -> None:
    """Its object is there when it is whole, with its manifest, and what it is of."""
    memory = Memory()

    saved = await job.download(memory, manifest=True)

    assert {MEMORY, f"{MEMORY}.manifest.json"} == memory.objects.keys()
    assert CSV == memory.objects[MEMORY]
    assert (MEMORY, len(CSV), 2_000) == (saved.location, saved.size, saved.rows)
    assert "Sf7M9j" == memory.metadata[0]["requestid"]
    assert saved.sha256.encode() in memory.objects[f"{MEMORY}.manifest.json"]


async def test_links_are_renewed_under_one_stream(
    server: FaultServer, job: ExportJob
) -> None:
    """The destination does not see where a connection was cut."""
    server.on(OBJECT, cut(1_000), rest(1_000))
    memory = Memory()

    saved = await job.download(memory)

    assert CSV == memory.objects[MEMORY]
    assert (2, 1) == (saved.links, memory.begun)


@pytest.mark.parametrize("name", ["csv", "csv.gz"])
async def test_another_object_starts_over(
    server: FaultServer, job: ExportJob, name: str
) -> None:
    """Nothing of the first one is in what appears."""
    body = CSV.replace(b"user-", b"USER-")
    server.on(OBJECT, cut(len(CSV) - 9, CSV), whole(body, etag='"another"'))
    memory = Memory()

    await job.download(memory, format=name)

    found = memory.objects[MEMORY]
    assert body == (found if name == "csv" else gzip.decompress(found))


async def test_bytes_without_a_link(server: FaultServer, job: ExportJob) -> None:
    """The service may send the file itself."""
    server.on(FILE, whole())
    memory = Memory()

    saved = await job.download(memory)

    assert (CSV, 0) == (memory.objects[MEMORY], saved.links)


@pytest.mark.parametrize("at", [500, len(GZIP) - 8, len(GZIP) - 1])
async def test_damaged_bytes_never_appear(
    server: FaultServer, job: ExportJob, at: int
) -> None:
    """Wherever the damage is."""
    body = bytearray(GZIP)
    body[at] ^= 1
    server.on(OBJECT, whole(bytes(body)))
    memory = Memory(objects={MEMORY: b"earlier"})

    with pytest.raises(MalformedFileError):
        await job.download(memory)

    assert {MEMORY: b"earlier"} == memory.objects


@pytest.mark.parametrize("failure", [OSError("the disk is full"), ValueError(SECRET)])
async def test_a_destination_that_fails(
    server: FaultServer, job: ExportJob, failure: Exception
) -> None:
    """The error is of storage and has the token; no link is renewed for it."""
    memory = Memory(failure=failure)

    with pytest.raises(StorageError, match="could not be written") as caught:
        await job.download(memory)

    assert job.token == caught.value.token
    assert SECRET not in str(caught.value)
    assert {} == memory.objects
    assert 1 == len(server.requests(FILE))


@pytest.mark.parametrize("times", [0, 200])
async def test_a_destination_that_ends_too_early(
    server: FaultServer, job: ExportJob, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """What has not read all of it has not written it: that is told."""

    async def write(*_: object, **__: object) -> str | None:
        """Do nothing, and say that it is done."""
        return "tag"

    monkeypatch.setattr(Memory, "write", write)
    server.on(OBJECT, whole(CSV + CSV.partition(b"\n")[2] * times))

    with pytest.raises(StorageError, match="ended before the file did"):
        await job.download(Memory())

    assert 1 == len(server.requests(FILE))


async def test_a_destination_that_fails_in_the_middle(
    server: FaultServer, job: ExportJob
) -> None:
    """While more arrives: no link is renewed for it, and nothing is left running."""
    memory = Memory(failure=OSError("the disk is full"), fails_after=2)
    server.on(OBJECT, whole(CSV + CSV.partition(b"\n")[2] * 200))

    with pytest.raises(StorageError, match="the disk is full"):
        await job.download(memory)

    assert {} == memory.objects
    assert 1 == len(server.requests(FILE))


@pytest.mark.usefixtures("cohort")
async def test_an_address_without_the_extra(
    emulator: CohortsEmulator, client: CohortsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names it before anything is spent."""
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(MissingExtraError, match=r"amplitude-cohorts-async\[cloud\]"):
        await client.export("c1", "s3://bucket/members.csv")

    assert 0 == emulator.spent


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_cancelled_export_is_whole_or_not_there(
    server: FaultServer, job: ExportJob, steps: int
) -> None:
    """Wherever the cancellation comes, also while the object appears."""
    memory = Memory()
    task = asyncio.ensure_future(job.download(memory))

    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert memory.objects in ({}, {MEMORY: CSV})


async def test_a_deadline_while_it_hangs(server: FaultServer, job: ExportJob) -> None:
    """Nothing appears, and nothing is left running."""
    server.on(OBJECT, Reply(raw=whole().raw[:-9], then="hang"))
    memory = Memory()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await job.download(memory)

    assert {} == memory.objects


@pytest.mark.usefixtures("cohort")
@pytest.mark.parametrize("to", [*SIGNED, *WRONG])
async def test_an_address_that_is_refused(
    emulator: CohortsEmulator, client: CohortsClient, to: str
) -> None:
    """Before anything is spent or kept; the message shows no secret."""
    with pytest.raises(InvalidInputError) as caught:
        await client.export("c1", to)

    assert SECRET not in str(caught.value)
    assert 0 == emulator.spent
    assert [] == list(await client.jobs())


@pytest.mark.parametrize("to", [*SIGNED, *WRONG])
def test_a_record_takes_no_such_address(to: str) -> None:
    """Neither a new one, nor one that was changed by hand."""
    good = JobRecord.new("c1", "s3://bucket/members.csv").to_json()

    with pytest.raises(InvalidInputError) as caught:
        JobRecord.new("c1", to)

    assert SECRET not in str(caught.value)

    if "\n" not in to:
        with pytest.raises(InvalidInputError):
            JobRecord.from_json(good.replace("s3://bucket/members.csv", to))


@pytest.mark.usefixtures("cohort")
@pytest.mark.parametrize("to", [Path(SIGNED[0]), Path("s3://bucket")])
async def test_a_path_is_refused_as_its_address(
    emulator: CohortsEmulator, client: CohortsClient, to: Path
) -> None:
    """Nothing is spent on it, either."""
    with pytest.raises(InvalidInputError) as caught:
        await client.export("c1", to)

    assert SECRET not in str(caught.value)
    assert 0 == emulator.spent


@pytest.mark.usefixtures("cohort")
async def test_many_exports_have_no_address(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """Their folder is one of this machine; each can go to a bucket by itself."""
    with pytest.raises(InvalidInputError, match="export\\(\\)"):
        async with client.export_many(["c1"], "s3://bucket/folder") as outcomes:
            _ = [each async for each in outcomes]

    assert 0 == emulator.spent


@pytest.mark.usefixtures("cohort")
@pytest.mark.parametrize(
    "location",
    [f"memory://a.csv?sig={SECRET}", f"memory://u:{SECRET}@h/a.csv", "a.csv"],
)
async def test_a_location_that_is_refused(
    emulator: CohortsEmulator, client: CohortsClient, location: str
) -> None:
    """That of a destination is kept as well."""
    with pytest.raises(InvalidInputError) as caught:
        await client.export("c1", Memory(location))

    assert SECRET not in str(caught.value)
    assert 0 == emulator.spent


def test_a_path_that_was_an_address() -> None:
    """As the command, or a careful caller, makes one of any target."""
    plain = JobRecord.new("c1", "s3://bucket/a/b.csv")

    assert plain.to == JobRecord.new("c1", Path("s3://bucket/a/b.csv")).to

    with pytest.raises(InvalidInputError) as caught:
        JobRecord.new("c1", Path(SIGNED[0]))

    assert SECRET not in str(caught.value)


def test_a_record_with_an_address() -> None:
    """It is the same wherever it is made, and after a round trip."""
    record = JobRecord.new("c1", "s3://bucket/a.csv", occurrence="monday")

    assert "s3://bucket/a.csv" == record.to
    assert record == JobRecord.from_json(record.to_json())


@pytest.mark.usefixtures("cohort")
async def test_an_unchanged_object_is_not_brought_again(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """Its tag says whether it is what was saved."""
    memory = Memory()
    await client.export("c1", memory, skip_unchanged=True)

    again = await client.export("c1", memory, skip_unchanged=True)

    assert again.unchanged
    assert (1, 1) == (emulator.spent, memory.begun)

    memory.objects[MEMORY] = b"changed"
    await client.export("c1", memory, skip_unchanged=True)

    assert (1, 2) == (emulator.spent, memory.begun)
    assert b"ann" in memory.objects[MEMORY]


@pytest.mark.usefixtures("cohort")
async def test_an_occurrence_is_brought_once(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """The record of it answers, with all that was known."""
    memory = Memory()
    first = await client.export("c1", memory, occurrence="monday")

    again = await client.export("c1", memory, occurrence="monday")

    assert (1, 1) == (emulator.spent, memory.begun)
    assert (first.sha256, first.rows, MEMORY) == (
        again.sha256,
        again.rows,
        again.location,
    )


@pytest.mark.usefixtures("cohort")
async def test_a_file_that_fails_after_it_was_spent(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """The next call brings the file of the same export."""
    memory = Memory(failure=OSError("the disk is full"))
    with pytest.raises(StorageError):
        await client.export("c1", memory)

    memory.failure = None
    await client.export("c1", memory)

    assert 1 == emulator.spent
    assert b"ann" in memory.objects[MEMORY]


@pytest.mark.usefixtures("cohort")
async def test_rows_that_are_none(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """A malformed file of Parquet leaves no object."""
    pytest.importorskip("pyarrow", reason="the extra is missing")
    emulator.fail_next("file", faults.bad_rows())
    memory = Memory("memory://folder/members.parquet")

    with pytest.raises(MalformedFileError):
        await client.export("c1", memory)

    assert {} == memory.objects
