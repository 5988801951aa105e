"""A job whose service and store say exactly what a test wrote."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async.testing import FakeClock

from .clients import unlimited_client
from .fault_server import FaultServer, Reply, json_reply, redirect, reply

COHORT = "26umsb5"
REQUEST = "Sf7M9j"
EXPORT = f"/api/5/cohorts/request/{COHORT}"
STATUS = f"/api/5/cohorts/request-status/{REQUEST}"
FILE = f"/api/5/cohorts/request/{REQUEST}/file"
LIST = "/api/3/cohorts"
USAGE = "/api/3/cohorts/usage"
OBJECT = "/bucket/object"

CSV = b'"amplitude_id","user_id"\n' + b"".join(
    b'"35689632%04d","user-%d"\n' % (n, n * 7919) for n in range(2_000)
)
GZIP = gzip.compress(CSV, mtime=0)
ETAG = '"0123456789abcdef0123456789abcdef"'
LINK = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20260615%2Fus-west-2"
    "%2Fs3%2Faws4_request&X-Amz-Date=20260615T120000Z&X-Amz-Expires=60"
    "&X-Amz-SignedHeaders=host&X-Amz-Signature=" + "5ec2e7" * 10
)
ACCEPTED = json_reply({"request_id": REQUEST, "cohort_id": COHORT}, 202)
RUNNING = json_reply(
    {"request_id": REQUEST, "cohort_id": COHORT, "async_status": "JOB INPROGRESS"}, 202
)
COMPLETED = json_reply(
    {"request_id": REQUEST, "cohort_id": COHORT, "async_status": "JOB COMPLETED"}
)


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """A server that answers with a test's own bytes; a good job is set up."""
    async with FaultServer() as server:
        server.on(EXPORT, ACCEPTED)
        server.on(STATUS, COMPLETED)
        server.on(FILE, redirect(f"{server.url}{OBJECT}?{LINK}"))
        server.on(OBJECT, whole())
        yield server


@pytest.fixture
async def exporter(
    server: FaultServer, clock: FakeClock
) -> AsyncIterator[CohortsClient]:
    """A client of that server: no limits, no waiting, and patience for a second."""
    async with unlimited_client(
        server.url,
        clock,
        stall_timeout=1.0,
        rng=lambda: 0.5,
    ) as client:
        yield client


@pytest.fixture
def job(exporter: CohortsClient) -> ExportJob:
    """A job that nobody watched yet."""
    return exporter.resume_export(REQUEST)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False)

    if mounted.returncode != 0:
        pytest.skip("a small disk can only be mounted by root")

    yield folder

    subprocess.run(["umount", str(folder)], check=True)


def whole(body: bytes = GZIP, etag: str | None = ETAG, **headers: str | None) -> Reply:
    """Write the store's answer with all of an object."""
    return reply(200, body, etag=etag, **headers)


def cut(at: int, body: bytes = GZIP, etag: str | None = ETAG) -> Reply:
    """Write the store's answer with all of an object, of which *at* bytes come."""
    return reply(200, body[:at], length=len(body), etag=etag, then="close")


def rest(
    start: int,
    body: bytes = GZIP,
    etag: str | None = ETAG,
    **headers: str | None,
) -> Reply:
    """Write the store's answer with the rest of an object."""
    span = f"bytes {start}-{len(body) - 1}/{len(body)}"

    return reply(206, body[start:], etag=etag, **{"content_range": span, **headers})


def store_error(status: int, code: str, **headers: str) -> Reply:
    """Write a refusal of the store, in its XML."""
    text = f"<Error><Code>{code}</Code><Message>No.</Message></Error>"

    return reply(status, text.encode(), content_type="application/xml", **headers)


def names_in(folder: Path) -> list[str]:
    """List what a folder holds, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until a condition holds."""
    while not condition():  # noqa: ASYNC110  it is nobody's event
        await asyncio.sleep(0.001)


async def expire_when_asked(
    limit: asyncio.Timeout, server: FaultServer, path: str
) -> None:
    """End a time limit once a request is here, however slow the machine is."""
    await until(lambda: bool(server.requests(path)))
    limit.reschedule(0.0)
