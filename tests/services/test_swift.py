"""Files from a real object store: signatures of version 4, expiry, ranges, TLS."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async.errors import IncompleteDownloadError
from amplitude_cohorts_async.events import Event, LinkRenewed
from amplitude_cohorts_async.testing import FakeClock
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import FILE, REQUEST, cut, names_in
from support.fault_server import FaultServer, redirect

if TYPE_CHECKING:
    from support.swift import Swift

pytestmark = pytest.mark.services

KEY = "app=1/part 1+ü (a~b).csv"
TEXT = b'"amplitude_id","user_id"\n' + b"".join(
    b'"%d","user-%d"\n' % (n * 7_368_787, n) for n in range(20_000)
)
BODY = gzip.compress(TEXT)


@pytest.fixture
def etag(store: Swift) -> str:
    """Put the file into the store."""
    return store.put(KEY, BODY, content_encoding="gzip")


@pytest.fixture
async def heard() -> list[Event]:
    """What the hook hears."""
    return []


@pytest.fixture
async def download(
    server: FaultServer, clock: FakeClock, heard: list[Event]
) -> AsyncIterator[ExportJob]:
    """A job whose links lead into the store."""
    async with unlimited_client(
        server.url,
        clock,
        hook=heard.append,
    ) as client:
        yield client.resume_export(REQUEST)


@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_a_link_of_a_real_store(
    *,
    store: Swift,
    etag: str,
    server: FaultServer,
    download: ExportJob,
    tmp_path: Path,
    name: str,
) -> None:
    """A signature over odd characters survives, and no credentials stand beside it."""
    server.on(FILE, redirect(store.link(KEY)))
    before = len(store.requests())
    saved = await download.download(tmp_path / name)

    (request,) = store.requests()[before:]
    assert (BODY if name.endswith("gz") else TEXT) == saved.path.read_bytes()
    assert (1, len(BODY)) == (saved.links, saved.downloaded)
    assert "identity" == request["headers"]["accept-encoding"]
    assert not {"authorization", "cookie", "referer"} & request["headers"].keys()


async def test_an_expired_link_is_renewed(
    *,
    store: Swift,
    etag: str,
    server: FaultServer,
    download: ExportJob,
    heard: list[Event],
    tmp_path: Path,
) -> None:
    """A link that is too old is refused by the store, and replaced."""
    old = store.link(KEY, at=datetime.now(UTC) - timedelta(minutes=5))
    server.on(FILE, redirect(old), redirect(store.link(KEY)))
    saved = await download.download(tmp_path / "members.csv")

    (renewed,) = [event for event in heard if isinstance(event, LinkRenewed)]
    assert TEXT == saved.path.read_bytes()
    assert 2 == saved.links
    assert "403 (AccessDenied)" in renewed.reason


async def test_a_changed_link_is_renewed(
    *,
    store: Swift,
    etag: str,
    server: FaultServer,
    download: ExportJob,
    heard: list[Event],
    tmp_path: Path,
) -> None:
    """A link that somebody requoted does not fit its signature, and is replaced."""
    link = store.link(KEY)
    server.on(FILE, redirect(link.replace("%20", "+")), redirect(link))
    saved = await download.download(tmp_path / "members.csv")

    (renewed,) = [event for event in heard if isinstance(event, LinkRenewed)]
    assert TEXT == saved.path.read_bytes()
    assert "SignatureDoesNotMatch" in renewed.reason


async def test_the_rest_of_a_file(
    *,
    store: Swift,
    etag: str,
    server: FaultServer,
    download: ExportJob,
    tmp_path: Path,
) -> None:
    """A cut transfer goes on with Range and If-Match, which the store honours."""
    first = f"{server.url}/cut"
    server.on(FILE, redirect(first), redirect(store.link(KEY)))
    server.on("/cut", cut(50_000, BODY, etag))
    before = len(store.requests())
    saved = await download.download(tmp_path / "members.csv")

    (request,) = store.requests()[before:]
    assert TEXT == saved.path.read_bytes()
    assert "bytes=50000-" == request["headers"]["range"]
    assert etag == request["headers"]["if-match"]
    assert len(BODY) == saved.downloaded


async def test_another_file_of_the_same_name(
    *,
    store: Swift,
    etag: str,
    server: FaultServer,
    download: ExportJob,
    tmp_path: Path,
) -> None:
    """A file that was replaced in the store is fetched from its start: 412 says so."""
    server.on(FILE, redirect(f"{server.url}/cut"), redirect(store.link(KEY)))
    server.on("/cut", cut(50_000, BODY, '"00000000000000000000000000000000"'))
    saved = await download.download(tmp_path / "members.csv")

    assert TEXT == saved.path.read_bytes()
    assert 3 == saved.links


async def test_members_of_a_real_store(
    store: Swift, etag: str, server: FaultServer, download: ExportJob
) -> None:
    """A stream of members reads the same file."""
    server.on(FILE, redirect(store.link(KEY)))

    async with download.members() as stream:
        members = [member async for member in stream]

    assert (20_000, "user-19999") == (len(members), members[-1].user_id)


async def test_a_store_with_a_certificate_of_its_own(
    *,
    tls_store: Swift,
    trust: ssl.SSLContext,
    server: FaultServer,
    clock: FakeClock,
    tmp_path: Path,
) -> None:
    """The TLS settings of a caller's session hold for the store, its headers do not."""
    tls_store.put(KEY, BODY)
    server.on(FILE, redirect(tls_store.link(KEY)))

    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust),
            headers={"Authorization": "Bearer mine", "X-Mine": "1"},
        ) as session,
        CohortsClient(
            API_KEY, SECRET_KEY, base_url=server.url, clock=clock, session=session
        ) as client,
    ):
        job = client.resume_export(REQUEST)
        saved = await job.download(tmp_path / "members.csv")

    assert TEXT == saved.path.read_bytes()
    assert not {"authorization", "x-mine"} & tls_store.requests()[-1]["headers"].keys()


async def test_a_certificate_that_nobody_trusts(
    *,
    tls_store: Swift,
    server: FaultServer,
    download: ExportJob,
    tmp_path: Path,
) -> None:
    """A store that cannot prove who it is gets no request, and the error is ours."""
    tls_store.put(KEY, BODY)
    server.on(FILE, redirect(tls_store.link(KEY)))
    before = len(tls_store.requests())

    with pytest.raises(IncompleteDownloadError, match="ertificate") as caught:
        await download.download(tmp_path / "members.csv")

    assert before == len(tls_store.requests())
    assert "X-Amz-Signature=" not in str(caught.value)
    assert [] == names_in(tmp_path)
