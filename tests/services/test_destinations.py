"""Exports to the buckets of a real store: whole, or nothing at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from amplitude_cohorts_async import ExportJob
from support.exporting import CSV, GZIP, OBJECT, whole
from support.fault_server import FaultServer

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
