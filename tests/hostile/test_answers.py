"""
Answers that mean harm: only our errors, memory within bounds, the loop never held.

The bounds are those of docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import CohortsError, MalformedFileError
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.policies import Downloading, Retrying
from support.canary import API_KEY, SECRET_KEY
from support.costs import measured
from support.exporting import (
    COHORT,
    EXPORT,
    FILE,
    LIST,
    REQUEST,
    STATUS,
    USAGE,
    names_in,
)
from support.hostile_server import HostileServer

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

MIB = 1 << 20
LONGEST_CALLBACK = 0.05
MEMORY = 48 * MIB
# The longest answer that is taken at all, and what reading it takes beside.
MEMORY_OF_A_LIST = 192 * MIB

Call = Callable[[CohortsClient], Awaitable[object]]

CALLS: dict[str, tuple[str, Call]] = {
    "list": (LIST, lambda client: client.list_cohorts()),
    "usage": (USAGE, lambda client: client.get_usage()),
    "export": (EXPORT, lambda client: client.request_export(COHORT)),
    "status": (STATUS, lambda client: client.resume_export(REQUEST).poll()),
}


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    """A server that means harm."""
    with HostileServer() as server:
        yield server


@pytest.fixture
async def client(hostile: HostileServer) -> AsyncIterator[CohortsClient]:
    """A client on the system's clock that does not try again."""
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=hostile.url,
        limits=UNLIMITED,
        retrying=Retrying(attempts=1),
        timeout=5.0,
        stall_timeout=5.0,
        downloading=Downloading(max_size=256 * MIB),
    ) as client:
        # What is imported and built once is not the answer's.
        for path, ask in CALLS.values():
            hostile.on(path, lambda: body(b"{}"))
            with contextlib.suppress(CohortsError):
                await ask(client)
        yield client


def head(length: int | None, *lines: str, status: int = 200) -> bytes:
    """Write the head of an answer; without a length it is chunked."""
    size = (
        "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    )

    return "\r\n".join([f"HTTP/1.1 {status} Whatever", size, *lines, "", ""]).encode()


def body(data: bytes, *lines: str, status: int = 200) -> Iterable[bytes]:
    """Write a whole answer."""
    return [head(len(data), *lines, status=status), data]


def long(start: bytes, piece: bytes, size: int) -> Iterable[bytes]:
    """Write an answer of *size* bytes that nobody has to store."""
    yield head(size)
    yield start
    for _ in range((size - len(start)) // len(piece)):
        yield piece


def endless(piece: bytes) -> Iterable[bytes]:
    """Write an answer that has no end."""
    yield head(None)
    for _ in itertools.count():
        yield b"%x\r\n%b\r\n" % (len(piece), piece)


def endless_head() -> Iterable[bytes]:
    """Write the head of an answer that has no end."""
    yield b"HTTP/1.1 200 Whatever\r\n"
    for number in itertools.count():
        yield b"X-Line-%d: %b\r\n" % (number, b"x" * 4_000)


@cache
def bomb(start: bytes, piece: bytes, count: int) -> bytes:
    """Compress *start* and then *piece*, *count* times."""
    stream = zlib.compressobj(9, wbits=31)
    packed = [stream.compress(start)]
    packed += [stream.compress(piece) for _ in range(count)]

    return b"".join([*packed, stream.flush()])


def document_bomb() -> bytes:
    """Return a document that is a gigabyte long once it is inflated."""
    return bomb(b'{"cohorts": ["', b"x" * MIB, 1_024)


DOCUMENTS: dict[str, Callable[[], Iterable[bytes]]] = {
    "2 GB in one text": lambda: long(b'{"cohorts": ["', b"x" * MIB, 2 << 30),
    "2 GB of cohorts": lambda: long(b'{"cohorts": [', b"{}," * 300_000, 2 << 30),
    "2 GB of blanks": lambda: long(b"", b" " * MIB, 2 << 30),
    "lists in lists": lambda: body(b"[" * 100_000 + b"]" * 100_000),
    "objects in objects": lambda: body(
        b'{"cohorts":' * 100_000 + b"1" + b"}" * 100_000
    ),
    "lists that stay open": lambda: body(b'{"cohorts": [' + b"[" * 100_000),
    "a deep refusal": lambda: body(b'{"error":' * 100_000, status=400),
    "a refusal of quotes": lambda: body(b'"' * MIB, status=400),
    "a refusal of brackets": lambda: body(b"{}," * MIB, status=400),
    "a refusal of question marks": lambda: body(b"?" * MIB, status=400),
    "a head without end": endless_head,
    "a body without end": lambda: endless(b" " * 65_536),
    "a bomb": lambda: body(document_bomb(), "content-encoding: gzip"),
    "a refusal that is a bomb": lambda: body(
        document_bomb(), "content-encoding: gzip", status=400
    ),
    "a bomb that is cut": lambda: body(
        document_bomb()[:9_999], "content-encoding: gzip"
    ),
    "no gzip": lambda: body(b"x" * 99, "content-encoding: gzip"),
    "NULs": lambda: body(bytes(MIB)),
    "a long number": lambda: body(b'{"cohorts": ' + b"9" * 50_000 + b"}"),
    "half a character": lambda: body(b'{"async_status": "\\ud800"}'),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("document", DOCUMENTS)
async def test_documents(
    hostile: HostileServer, client: CohortsClient, call: str, document: str
) -> None:
    """Whatever an endpoint answers is an error of ours, within the bounds."""
    path, ask = CALLS[call]
    hostile.on(path, DOCUMENTS[document])

    with measured() as costs, pytest.raises(CohortsError) as caught:
        await ask(client)

    assert len(str(caught.value)) < 2_000
    assert costs.longest_callback < LONGEST_CALLBACK
    assert costs.memory < (MEMORY_OF_A_LIST if call == "list" else MEMORY)


HEADER = b"amplitude_id,user_id\n"

FILES: dict[str, Callable[[], Iterable[bytes]]] = {
    "a body without end": lambda: endless(HEADER + b"1,ann\n" * 9_999),
    "a bomb": lambda: body(bomb(HEADER, b"1,a\n" * (MIB // 4), 1_024)),
    "NULs in the header": lambda: body(b"\0" + HEADER),
    "a header of NULs": lambda: body(bytes(64 * MIB)),
    "no end of lines": lambda: body(b"user_id\r" * 99_999),
    "a quote in the header never closed": lambda: long(
        b'amplitude_id,"user_id', b"x" * MIB, 64 * MIB
    ),
    "a head without end": endless_head,
}


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize("name", FILES)
async def test_files(
    hostile: HostileServer,
    client: CohortsClient,
    tmp_path: Path,
    name: str,
    suffix: str,
) -> None:
    """What is no file of members, or has no end, is an error that keeps the token."""
    hostile.on(STATUS, lambda: body(b'{"async_status": "JOB COMPLETED"}'))
    hostile.on(FILE, FILES[name])
    job = client.resume_export(REQUEST)

    with measured() as costs, pytest.raises(CohortsError) as caught:
        await job.download(tmp_path / f"members.{suffix}")

    assert job.token == caught.value.token
    assert [] == names_in(tmp_path)
    assert costs.longest_callback < LONGEST_CALLBACK
    assert costs.memory < MEMORY + 16 * MIB  # the longest record that is taken


MEMBERS: dict[str, Callable[[], bytes]] = {
    "NULs": lambda: HEADER + b"1,\0\n",
    "a cell of 20 MB": lambda: HEADER + b"1," + b"x" * (20 * MIB) + b"\n",
    "no end of lines": lambda: HEADER + b"1,ann\r" * 999_999,
    "a quote never closed": lambda: HEADER + b'1,"ann\n' + b"2,bob\n" * (10 * MIB),
    "a row of 100,000 cells": lambda: HEADER + b"," * 100_000 + b"\n",
    "half a character": lambda: HEADER + b"1,\xc3\n",
}


@pytest.mark.parametrize("name", MEMBERS)
async def test_members(
    hostile: HostileServer, client: CohortsClient, name: str
) -> None:
    """What is malformed behind the header is an error with its line."""
    hostile.on(STATUS, lambda: body(b'{"async_status": "JOB COMPLETED"}'))
    hostile.on(FILE, lambda: body(MEMBERS[name]()))
    job = client.resume_export(REQUEST)

    with measured() as costs, pytest.raises(MalformedFileError) as caught:
        async with job.members() as stream:
            async for _ in stream:
                pass

    assert (2, job.token) == (caught.value.line, caught.value.token)
    assert costs.longest_callback < LONGEST_CALLBACK
    assert costs.memory < MEMORY + 6 * 16 * MIB  # copies of the longest record


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (HEADER + b"1," + b"x" * (10 * MIB) + b"\n2,ann\n", 2),
        (b"user_id," + b",".join(b"p%d" % n for n in range(100_000)) + b"\n", 0),
        (
            b"user_id"
            + b",p" * 100_000
            + b"\n"
            + (b"ann" + b",1" * 100_000 + b"\n") * 3,
            3,
        ),
    ],
    ids=["a cell of 10 MB", "100,000 columns", "100,000 columns of one name"],
)
async def test_what_is_only_large(
    hostile: HostileServer, client: CohortsClient, data: bytes, count: int
) -> None:
    """A long cell and many columns are members like others."""
    hostile.on(STATUS, lambda: body(b'{"async_status": "JOB COMPLETED"}'))
    hostile.on(FILE, lambda: body(data))
    found = 0

    with measured() as costs:
        async with client.resume_export(REQUEST).members() as stream:
            async for _ in stream:
                found += 1

    assert count == found
    assert costs.longest_callback < LONGEST_CALLBACK
    assert costs.memory < 256 * MIB


async def test_no_honest_ratio_is_refused(
    hostile: HostileServer, client: CohortsClient, tmp_path: Path
) -> None:
    """Deflate reaches 1,032:1 with equal rows; that alone is no bomb."""
    rows = b"1,a\n" * (MIB // 4)
    packed = bomb(HEADER, rows, 200)
    hostile.on(STATUS, lambda: body(b'{"async_status": "JOB COMPLETED"}'))
    hostile.on(FILE, lambda: body(packed))

    with measured() as costs:
        saved = await client.resume_export(REQUEST).download(tmp_path / "m.csv.gz")

    assert 200 * MIB / len(packed) > 1_000
    assert packed == saved.path.read_bytes()
    assert costs.longest_callback < LONGEST_CALLBACK
    assert costs.memory < MEMORY


async def test_the_size_of_a_file_can_be_raised(
    hostile: HostileServer, tmp_path: Path
) -> None:
    """The error says with what, and then it is taken."""
    packed = gzip.compress(HEADER + b"1,a\n" * MIB)
    hostile.on(STATUS, lambda: body(b'{"async_status": "JOB COMPLETED"}'))
    hostile.on(FILE, lambda: body(packed))

    async def save(max_size: int) -> int:
        async with CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=hostile.url,
            limits=UNLIMITED,
            downloading=Downloading(max_size=max_size),
        ) as client:
            job = client.resume_export(REQUEST)
            return (await job.download(tmp_path / "members.csv")).size

    with pytest.raises(MalformedFileError, match=r"Downloading\(max_size="):
        await save(MIB)

    assert len(HEADER) + 4 * MIB == await save(5 * MIB)
