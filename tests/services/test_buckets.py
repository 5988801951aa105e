"""Exports to the buckets of a real store: whole, or nothing at all."""

from __future__ import annotations

import ast
import asyncio
import gzip
import hashlib
import io
import json
import pickle
import re
import socket
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async._exports.claim import Delivery
from amplitude_cohorts_async.destinations import ObjectDestination
from amplitude_cohorts_async.errors import (
    ExportTimeoutError,
    MalformedFileError,
    StorageError,
)
from amplitude_cohorts_async.jobs import JobRecord
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.clients import unlimited_client
from support.exporting import CSV, FILE, GZIP, OBJECT, REQUEST, cut, rest, whole
from support.fault_server import FaultServer, Reply

pytest.importorskip("obstore", reason="the extra cloud is missing")
pytest.importorskip("botocore", reason="botocore is missing")

from obstore.store import S3Store

from support.buckets import Bucket
from support.swift import ACCESS_KEY, SECRET_KEY

if TYPE_CHECKING:
    from support.swift import Swift

pytestmark = pytest.mark.services

SKIPPED = re.compile(
    r"^<!-- skip: next -->\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL
)


async def test_an_object_has_the_text(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """What is saved says where it is, how large, and with which digest."""
    server.on(OBJECT, whole(GZIP))
    address = bucket.address("a/b/members.csv")

    saved = await job.download(address)

    assert CSV == await asyncio.to_thread(bucket.read, "a/b/members.csv")
    assert address == saved.location
    assert len(CSV) == saved.size
    assert hashlib.sha256(CSV).hexdigest() == saved.sha256 == await saved.digest()
    assert CSV.count(b"\n") - 1 == saved.rows
    assert [] == await asyncio.to_thread(bucket.open_uploads)


async def test_the_manifest_stands_beside_it(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """It has the digest, which cannot be among what is kept from the start on."""
    server.on(OBJECT, whole(GZIP))

    saved = await job.download(bucket.address("members.csv"), manifest=True)

    text = await asyncio.to_thread(bucket.read, "members.csv.manifest.json")
    kept = await asyncio.to_thread(bucket.metadata, "members.csv")
    manifest = json.loads(text or b"")
    assert (saved.sha256, saved.rows) == (manifest["sha256"], manifest["rows"])
    assert job.request_id == kept["requestid"]


# 27 MB of text, of which two parts and more are sent before its end is known.
@cache
def big() -> bytes:
    """Return a file that takes 27 megabytes."""
    lines = (b'"35689632%07d","user-%d"\n' % (n, n * 7919) for n in range(700_000))

    return b'"amplitude_id","user_id"\n' + b"".join(lines)


@cache
def big_gzip() -> bytes:
    """Return it compressed."""
    return gzip.compress(big(), 1, mtime=0)


SECRETS = ("test:tester", "wrong-credential", "AWS4-HMAC")


async def until_open(bucket: Bucket) -> None:
    """Wait for an upload in parts."""
    while not await asyncio.to_thread(bucket.open_uploads):
        pass


async def state_of(bucket: Bucket) -> tuple[list[str], list[str]]:
    """Return the names of objects, and of uploads that are open."""
    return (
        await asyncio.to_thread(bucket.keys),
        await asyncio.to_thread(bucket.open_uploads),
    )


def uploads_begun(store: Swift, bucket: Bucket) -> int:
    """Count the uploads in parts that a bucket has seen."""
    return sum(
        request["method"] == "POST" and request["query"].startswith("uploads")
        for request in store.requests()
        if bucket.name in request["path"]
    )


async def test_a_renewed_link_goes_on_with_one_upload(
    *, server: FaultServer, job: ExportJob, bucket: Bucket, store: Swift
) -> None:
    """While the tag stays, the store of the target sees one stream."""
    half = len(big_gzip()) // 2
    server.on(OBJECT, cut(half, big_gzip()), rest(half, big_gzip()))

    saved = await job.download(bucket.address("members.csv"))

    assert big() == await asyncio.to_thread(bucket.read, "members.csv")
    assert (2, len(big_gzip())) == (saved.links, saved.downloaded)
    assert hashlib.sha256(big()).hexdigest() == saved.sha256
    assert 700_000 == saved.rows
    assert 1 == uploads_begun(store, bucket)
    assert (["members.csv"], []) == await state_of(bucket)


async def test_another_tag_starts_over(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """The first upload is given up; no byte of it is in the object."""
    other = big().replace(b"user-", b"USER-")
    body = gzip.compress(other, 1, mtime=0)
    late = len(big_gzip()) * 9 // 10
    first = Reply(raw=whole(big_gzip()).raw[:late], then="hang")
    server.on(OBJECT, first, whole(body, etag='"another"'))

    await job.download(bucket.address("members.csv"))

    assert other == await asyncio.to_thread(bucket.read, "members.csv")
    assert (["members.csv"], []) == await state_of(bucket)


def damaged() -> bytes:
    """Return the compressed file with a wrong check sum, eight bytes before its end."""
    body = bytearray(big_gzip())
    body[-8] ^= 1

    return bytes(body)


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz", "members.parquet"])
async def test_a_late_failure_leaves_nothing(
    *, server: FaultServer, job: ExportJob, bucket: Bucket, name: str
) -> None:
    """The check sum is the last thing that comes: the earlier object stays."""
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="the extra is missing")
    await asyncio.to_thread(bucket.write, name, b"earlier")
    server.on(OBJECT, whole(damaged()))

    with pytest.raises(MalformedFileError) as caught:
        await job.download(bucket.address(name))

    assert job.token == caught.value.token
    assert b"earlier" == await asyncio.to_thread(bucket.read, name)
    assert ([name], []) == await state_of(bucket)


async def test_a_wrong_row_leaves_nothing(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """A row of Parquet that is none, after parts were sent."""
    pytest.importorskip("pyarrow", reason="the extra is missing")
    body = gzip.compress(big() + b'"1","2","3","4"\n', 1)
    server.on(OBJECT, whole(body))

    with pytest.raises(MalformedFileError):
        await job.download(bucket.address("members.parquet"))

    assert ([], []) == await state_of(bucket)


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_a_cancelled_export_leaves_nothing(
    *, server: FaultServer, job: ExportJob, bucket: Bucket, name: str
) -> None:
    """A task that is cancelled while an upload is open ends that first."""
    body = big_gzip() if name == "members.csv" else gzip.compress(big(), 0)
    server.on(OBJECT, Reply(raw=whole(body).raw[:-4000], then="hang"))
    task = asyncio.create_task(job.download(bucket.address(name)))
    await until_open(bucket)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ([], []) == await state_of(bucket)


async def test_a_deadline_leaves_nothing(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """A deadline of the caller is a cancellation like any other."""
    server.on(OBJECT, Reply(raw=whole(big_gzip()).raw[:-4000], then="hang"))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as deadline:
            task = asyncio.ensure_future(until_open(bucket))
            task.add_done_callback(
                lambda _: deadline.reschedule(asyncio.get_running_loop().time())
            )
            await job.download(bucket.address("members.csv"))

    assert ([], []) == await state_of(bucket)


async def test_a_newer_export_is_not_replaced(
    *, server: FaultServer, job: ExportJob, bucket: Bucket, monkeypatch: Any
) -> None:
    """The question is put when all has come: a no leaves no upload."""
    server.on(OBJECT, whole(big_gzip()))

    async def refused(_: object) -> bool:
        """Answer that a newer one is there."""
        return False

    monkeypatch.setattr(Delivery, "begin_publishing", refused)

    with pytest.raises(StorageError, match="newer export"):
        await job.download(bucket.address("members.csv"))

    assert ([], []) == await state_of(bucket)


async def test_parquet_is_written_on_the_way(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """Its end is at its end: no file is needed here."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra is missing")
    server.on(OBJECT, whole(big_gzip()))

    saved = await job.download(bucket.address("members.parquet"))

    body = await asyncio.to_thread(bucket.read, "members.parquet")
    table = parquet.read_table(io.BytesIO(body or b""))
    assert 700_000 == saved.rows == table.num_rows
    assert "user-0" == table["user_id"][0].as_py()
    assert hashlib.sha256(body or b"").hexdigest() == saved.sha256


async def test_compressed_bytes_are_kept_as_served(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """A target that is compressed gets the very bytes that came, and they count."""
    server.on(OBJECT, whole(GZIP))

    saved = await job.download(bucket.address("members.csv.gz"))

    assert GZIP == await asyncio.to_thread(bucket.read, "members.csv.gz")
    assert 2_000 == saved.rows


async def test_a_bucket_that_is_not_there(
    server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """The error says so, keeps the token, and travels."""
    server.on(OBJECT, whole(big_gzip()))

    with pytest.raises(StorageError, match="there is no such bucket") as caught:
        await job.download("s3://no-such-bucket/members.csv")

    error = pickle.loads(pickle.dumps(caught.value))
    assert job.token == error.token
    assert "s3://no-such-bucket/members.csv" in str(error)
    assert 1 == len(server.requests(FILE))


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
async def test_wrong_credentials_are_not_shown(
    *,
    server: FaultServer,
    job: ExportJob,
    bucket: Bucket,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store quotes the key's id and what was signed; the error does not."""
    monkeypatch.setenv(name, "wrong-credential")
    server.on(OBJECT, whole(GZIP))

    with pytest.raises(StorageError, match="credentials are refused") as caught:
        await job.download(bucket.address("members.csv"))

    text = "".join(traceback.format_exception(caught.value, chain=True))
    assert [] == [each for each in SECRETS if each in text]


@pytest.fixture
def cohort(emulator: CohortsEmulator) -> None:
    """A cohort whose jobs take long enough to leave them."""
    emulator.add_cohort("c1", members=["ann", "bob"], job_seconds=100)


def another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine."""
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")


@pytest.mark.usefixtures("cohort")
async def test_any_host_goes_on_with_it(
    *,
    emulator: CohortsEmulator,
    clock: FakeClock,
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An object of a bucket is a file of no host."""
    address, jobs = bucket.address("members.csv"), tmp_path / "jobs.db"
    async with unlimited_client(emulator.base_url, clock, jobs=jobs) as client:
        with pytest.raises(ExportTimeoutError):
            await client.export("c1", address, timeout=11)
        (record,) = await client.jobs()
        assert [address] == [each.target for each in record.deliveries]

    another_host(monkeypatch)
    async with unlimited_client(emulator.base_url, clock, jobs=jobs) as client:
        outcomes = [each async for each in client.run_jobs()]

    assert [address] == [each.saved and each.saved.location for each in outcomes]
    assert b"ann" in (await asyncio.to_thread(bucket.read, "members.csv") or b"")
    assert 1 == emulator.spent


@pytest.mark.usefixtures("cohort")
@pytest.mark.parametrize("is_listed", [False, True])
async def test_steps_on_several_hosts(
    *,
    emulator: CohortsEmulator,
    clock: FakeClock,
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_listed: bool,
) -> None:
    """Of a record that travels as text, or that the store lists."""
    address, jobs = bucket.address("members.csv"), tmp_path / "jobs.db"
    text = JobRecord.new("c1", address, occurrence="monday").to_json()
    async with unlimited_client(emulator.base_url, clock, jobs=jobs) as client:
        tick = await client.tick(JobRecord.from_json(text))

    another_host(monkeypatch)
    async with unlimited_client(emulator.base_url, clock, jobs=jobs) as client:
        while not tick.done:
            await clock.sleep(tick.due_in or 0.0)
            (listed,) = await client.jobs()
            record = listed if is_listed else JobRecord.from_json(text)
            tick = await client.tick(record)
        again = await client.tick(JobRecord.from_json(text))

    assert tick.saved is not None
    assert address == tick.saved.location
    assert again.done
    assert 1 == emulator.spent
    assert 1 == emulator.requests("file")
    assert (["members.csv"], []) == await state_of(bucket)


@pytest.mark.slow
async def test_a_killed_process_leaves_parts(
    *, server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """No object; the next delivery is whole; a rule of the bucket removes the parts."""
    server.on(OBJECT, Reply(raw=whole(big_gzip()).raw[:-4000], then="hang"), whole())
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EXPORTING, server.url, bucket.address("members.csv"))
    )
    await until_open(bucket)

    program.kill()
    await program.wait()

    assert ([], ["members.csv"]) == await state_of(bucket)

    await job.download(bucket.address("members.csv"))

    assert CSV == await asyncio.to_thread(bucket.read, "members.csv")
    assert (["members.csv"], ["members.csv"]) == await state_of(bucket)


EXPORTING = f"""
import asyncio, sys
from amplitude_cohorts_async import CohortsClient

async def main():
    async with CohortsClient("key", "secret", base_url=sys.argv[1]) as client:
        await client.resume_export({REQUEST!r}).download(sys.argv[2])

asyncio.run(main())
"""


async def test_a_store_of_ones_own(
    *, store: Swift, server: FaultServer, job: ExportJob, bucket: Bucket
) -> None:
    """Credentials that no environment has come with the store's own object."""
    own = S3Store(
        bucket.name,
        endpoint=store.origin,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    address = bucket.address("members.csv")

    saved = await job.download(ObjectDestination(own, "members.csv", location=address))

    assert CSV == await asyncio.to_thread(bucket.read, "members.csv")
    assert address == saved.location


async def test_the_examples_of_the_page(
    bucket: Bucket, cohorts_emulator: CohortsEmulator
) -> None:
    """By its address, and with credentials that boto3 finds."""
    pytest.importorskip("boto3", reason="boto3 is missing")
    page = (Path(__file__).parents[2] / "docs/howto/buckets.md").read_text()
    cohorts_emulator.add_cohort("26umsb5", members=["ann"])

    async with CohortsClient.from_env(clock=cohorts_emulator.clock) as client:
        for example in SKIPPED.findall(page):
            text = re.sub(r"\bexports\b(?=[\"/])", bucket.name, example)
            code = compile(text, "buckets.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            await eval(code, {"client": client})

    keys = await asyncio.to_thread(bucket.keys)
    assert ["2026/members.parquet", "members.csv"] == keys
    assert 2 == cohorts_emulator.spent


async def test_an_object_that_somebody_changed(
    client: CohortsClient, emulator: CohortsEmulator, bucket: Bucket
) -> None:
    """Its tag shows that, and the file comes again from the same export."""
    emulator.add_cohort("c2", members=["ann"])
    address = bucket.address("members.csv")
    await client.export("c2", address, skip_unchanged=True)
    same = await client.export("c2", address, skip_unchanged=True)
    await asyncio.to_thread(bucket.write, "members.csv", b"changed")

    await client.export("c2", address, skip_unchanged=True)

    assert same.unchanged
    assert b"ann" in (await asyncio.to_thread(bucket.read, "members.csv") or b"")
    assert 1 == emulator.spent
