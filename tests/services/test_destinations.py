"""Exports to the buckets of a real store: whole, or nothing at all."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import pickle
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from amplitude_cohorts_async import ExportJob
from amplitude_cohorts_async._exports.claim import Delivery
from amplitude_cohorts_async.errors import MalformedFileError, StorageError
from support.exporting import CSV, GZIP, OBJECT, cut, rest, whole
from support.fault_server import FaultServer, Reply

pytest.importorskip("obstore", reason="the extra cloud is missing")
pytest.importorskip("botocore", reason="botocore is missing")

from support.buckets import Bucket, environment, new_bucket

if TYPE_CHECKING:
    from support.swift import Swift

pytestmark = pytest.mark.services


@pytest.fixture
def bucket(store: Swift, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, which the environment opens."""
    for name, value in environment(store).items():
        monkeypatch.setenv(name, value)

    yield from new_bucket(store)


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
BIG = b'"amplitude_id","user_id"\n' + b"".join(
    b'"35689632%07d","user-%d"\n' % (n, n * 7919) for n in range(700_000)
)
BIG_GZIP = gzip.compress(BIG, 1, mtime=0)
SECRETS = ("test:tester", "testing", "Signature")


async def until_open(bucket: Bucket) -> None:
    """Wait for an upload in parts."""
    while not await asyncio.to_thread(bucket.open_uploads):  # noqa: ASYNC110
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
    half = len(BIG_GZIP) // 2
    server.on(OBJECT, cut(half, BIG_GZIP), rest(half, BIG_GZIP))

    saved = await job.download(bucket.address("members.csv"))

    assert BIG == await asyncio.to_thread(bucket.read, "members.csv")
    assert (2, len(BIG_GZIP)) == (saved.links, saved.downloaded)
    assert hashlib.sha256(BIG).hexdigest() == saved.sha256
    assert 700_000 == saved.rows
    assert 1 == uploads_begun(store, bucket)
    assert (["members.csv"], []) == await state_of(bucket)


async def test_another_tag_starts_over(
    *, server: FaultServer, job: ExportJob, bucket: Bucket, store: Swift
) -> None:
    """The first upload is given up; no byte of it is in the object."""
    other = BIG.replace(b"user-", b"USER-")
    body = gzip.compress(other, 1, mtime=0)
    late = len(BIG_GZIP) * 9 // 10
    server.on(OBJECT, cut(late, BIG_GZIP), whole(body, etag='"another"'))

    await job.download(bucket.address("members.csv"))

    assert other == await asyncio.to_thread(bucket.read, "members.csv")
    assert 2 == uploads_begun(store, bucket)
    assert (["members.csv"], []) == await state_of(bucket)


def damaged() -> bytes:
    """Return the compressed file with a wrong check sum, eight bytes before its end."""
    body = bytearray(BIG_GZIP)
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
    body = gzip.compress(BIG + b'"1","2","3","4"\n', 1)
    server.on(OBJECT, whole(body))

    with pytest.raises(MalformedFileError):
        await job.download(bucket.address("members.parquet"))

    assert ([], []) == await state_of(bucket)


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_a_cancelled_export_leaves_nothing(
    *, server: FaultServer, job: ExportJob, bucket: Bucket, name: str
) -> None:
    """A task that is cancelled while an upload is open ends that first."""
    body = BIG_GZIP if name == "members.csv" else gzip.compress(BIG, 0)
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
    server.on(OBJECT, Reply(raw=whole(BIG_GZIP).raw[:-4000], then="hang"))

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
    server.on(OBJECT, whole(BIG_GZIP))

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
    server.on(OBJECT, whole(BIG_GZIP))

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
    server.on(OBJECT, whole(BIG_GZIP))

    with pytest.raises(StorageError, match="there is no such bucket") as caught:
        await job.download("s3://no-such-bucket/members.csv")

    error = pickle.loads(pickle.dumps(caught.value))
    assert job.token == error.token
    assert "s3://no-such-bucket/members.csv" in str(error)


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
    assert not [each for each in (*SECRETS[::2], "wrong-credential") if each in text]
