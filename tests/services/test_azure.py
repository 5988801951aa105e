"""Exports to a container of Azurite: a second cloud, by the same code."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hmac
import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from email.utils import formatdate
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pytest

from amplitude_cohorts_async import ExportJob
from amplitude_cohorts_async.errors import MalformedFileError
from support.exporting import CSV, OBJECT, REQUEST, whole
from support.fault_server import FaultServer
from support.ports import LOOPBACK, await_port, free_ports

obstore = pytest.importorskip("obstore", reason="the extra cloud is missing")

pytestmark = pytest.mark.services

PROGRAM = os.environ.get("AZURITE") or shutil.which("azurite-blob")
ACCOUNT = "devstoreaccount1"
# Of the emulator: its page has it.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "cohorts"


@cache
def big() -> bytes:
    """Return a file that takes 15 megabytes."""
    lines = (b'"35689632%07d","user-%d"\n' % (n, n * 7919) for n in range(400_000))

    return b'"amplitude_id","user_id"\n' + b"".join(lines)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running Azurite; its address."""
    if PROGRAM is None:
        pytest.skip("no azurite-blob: `npm install -g azurite`, or AZURITE names it")

    folder = tmp_path_factory.mktemp("azurite")
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [
            *(PROGRAM, "--silent", "--skipApiVersionCheck", "--disableTelemetry"),
            *(
                "--location",
                str(folder),
                "--blobHost",
                LOOPBACK,
                "--blobPort",
                str(port),
            ),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    assert await_port(port, alive=lambda: server.poll() is None)

    yield f"http://{LOOPBACK}:{port}/{ACCOUNT}"

    server.kill()
    server.wait()


@pytest.fixture
def container(azurite: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty container, which the environment opens."""
    name = f"{CONTAINER}{os.urandom(4).hex()}"
    for variable, value in {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_ENDPOINT": azurite,
        "AZURE_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(variable, value)

    make_container(azurite, name)
    return obstore.store.AzureStore(name)


def make_container(origin: str, name: str) -> None:
    """Make a container by a request that the shared key signs."""
    url = urlsplit(origin)
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
    resource = f"/{ACCOUNT}{url.path}/{name}\nrestype:container"
    text = "PUT\n" + "\n" * 11 + named + resource
    signature = hmac.digest(base64.b64decode(KEY), text.encode(), "sha256")
    headers["Authorization"] = (
        f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
    )
    connection = http.client.HTTPConnection(url.netloc)
    connection.request(
        "PUT",
        f"{url.path}/{name}?restype=container",
        headers={**headers, "Content-Length": "0"},
    )
    assert 201 == connection.getresponse().status
    connection.close()


def read(container: Any, key: str) -> bytes:
    """Return the bytes of a blob."""
    return bytes(obstore.get(container, key).bytes())


def names(container: Any) -> list[str]:
    """Return the names of all blobs."""
    return [each["path"] for batch in obstore.list(container) for each in batch]


def address(container: Any) -> str:
    """Return the address of a blob."""
    return f"az://{container.config['container_name']}/a/members.csv"


@pytest.mark.parametrize("size", ["small", "in blocks"])
async def test_a_blob_has_the_text(
    server: FaultServer, job: ExportJob, container: Any, size: str
) -> None:
    """Small ones and those in blocks, with what is kept beside them."""
    text = CSV if size == "small" else big()
    server.on(OBJECT, whole(gzip.compress(text, 1)))

    saved = await job.download(address(container), manifest=True)

    assert text == await asyncio.to_thread(read, container, "a/members.csv")
    assert address(container) == saved.location
    assert ["a/members.csv", "a/members.csv.manifest.json"] == (
        await asyncio.to_thread(names, container)
    )
    kept = await asyncio.to_thread(obstore.get, container, "a/members.csv")
    assert REQUEST == kept.attributes["requestid"]


async def test_a_late_failure_leaves_no_blob(
    server: FaultServer, job: ExportJob, container: Any
) -> None:
    """Blocks that are not committed are no blob; Azure removes them after a week."""
    body = bytearray(gzip.compress(big(), 1))
    body[-8] ^= 1
    server.on(OBJECT, whole(bytes(body)))

    with pytest.raises(MalformedFileError):
        await job.download(address(container))

    assert [] == await asyncio.to_thread(names, container)
