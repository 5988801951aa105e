"""The store has the manners of Amazon S3."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from emulator.calling import Caller, calling


@pytest.fixture
async def emulator(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """An emulator whose store holds plain text, for all cohorts."""
    async with CohortsEmulator(clock=clock, inline_below=0, compress=None) as emulator:
        emulator.add_cohort("c1", members=[str(number) for number in range(100)])
        yield emulator


@pytest.fixture
async def link(caller: Caller) -> str:
    """A link to a file of a hundred members."""
    return await caller.link("c1")


def rules(emulator: CohortsEmulator) -> list[str]:
    """Return the names of the rules that were broken."""
    return [violation.rule for violation in emulator.violations]


async def test_an_object(caller: Caller, link: str, emulator: CohortsEmulator) -> None:
    """Another origin; a strong ETag that is the MD5; lengths that are true."""
    reply = await caller.fetch(link)

    assert link.startswith(emulator.store_url + "/")
    assert emulator.store_url != emulator.base_url
    assert 200 == reply.status
    assert f'"{hashlib.md5(reply.body).hexdigest()}"' == reply.headers["ETag"]
    assert str(len(reply.body)) == reply.headers["Content-Length"]
    assert "bytes" == reply.headers["Accept-Ranges"]
    assert "Last-Modified" in reply.headers
    assert 1 == emulator.links


async def test_a_link_is_presigned(link: str) -> None:
    """It has the seven parts of a signature of version 4, and lives a minute."""
    query = URL(link, encoded=True).query

    assert "AWS4-HMAC-SHA256" == query["X-Amz-Algorithm"]
    assert "60" == query["X-Amz-Expires"]
    assert "host" == query["X-Amz-SignedHeaders"]
    assert query["X-Amz-Credential"].endswith("/us-west-2/s3/aws4_request")
    assert 64 == len(query["X-Amz-Signature"])
    assert "20260615T120001Z" == query["X-Amz-Date"]


async def test_a_link_lives_a_minute(
    caller: Caller, link: str, clock: FakeClock
) -> None:
    """After that it is 403 XML, and the API has a new one."""
    clock.advance(59.9)
    assert 200 == (await caller.fetch(link)).status

    clock.advance(0.1)
    late = await caller.fetch(link)

    assert 403 == late.status
    assert b"<Code>AccessDenied</Code>" in late.body
    assert b"<Message>Request has expired</Message>" in late.body


@pytest.mark.parametrize("written", ["%2F", "%2B", "%3D", "%20", "%22"])
async def test_a_link_is_exact(
    caller: Caller, link: str, emulator: CohortsEmulator, written: str
) -> None:
    """One character decoded on the way, and the signature does not fit."""
    assert written in link
    changed = link.replace(
        written,
        chr(int(written[1:], 16))
        if written not in {"%20", "%22"}
        else written.lower() + "x",
        1,
    )
    reply = await caller.fetch(changed)

    assert 403 == reply.status
    assert b"<Code>SignatureDoesNotMatch</Code>" in reply.body
    assert ["link bytes"] == rules(emulator)


async def test_a_requoted_link_does_not_fit(
    link: str, emulator: CohortsEmulator
) -> None:
    """What an HTTP library does to a redirect by default is enough to break it."""
    async with aiohttp.ClientSession() as session, session.get(URL(link)) as response:
        assert 403 == response.status

    assert ["link bytes"] == rules(emulator)


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ("Authorization", "credentials at the store"),
        ("Cookie", "cookie at the store"),
    ],
)
async def test_no_credentials_at_the_store(
    caller: Caller, link: str, emulator: CohortsEmulator, header: str, rule: str
) -> None:
    """The link is all the authority there is; more is 400, and noted."""
    reply = await caller.fetch(link, **{header: "Basic abc"})

    assert 400 == reply.status
    assert b"<Code>InvalidArgument</Code>" in reply.body
    assert [rule] == rules(emulator)


async def test_a_link_is_for_get(
    caller: Caller, link: str, emulator: CohortsEmulator
) -> None:
    """HEAD on a link that was signed for GET is 403."""
    assert 403 == (await caller.fetch(link, "HEAD")).status
    assert ["method at the store"] == rules(emulator)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10-", 10, None),
        ("bytes=-10", -10, None),
        ("bytes=10-999999", 10, None),
        ("bytes=-999999", 0, None),
    ],
)
async def test_ranges(
    caller: Caller, link: str, asked: str, start: int, stop: int | None
) -> None:
    """One range is 206, with the place of its bytes in the whole."""
    whole = await caller.fetch(link)
    part = await caller.fetch(link, Range=asked)
    first = start % len(whole.body)

    assert 206 == part.status
    assert whole.body[start:stop] == part.body
    assert (
        f"bytes {first}-{first + len(part.body) - 1}/{len(whole.body)}"
        == part.headers["Content-Range"]
    )
    assert whole.headers["ETag"] == part.headers["ETag"]


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=9-5", "bytes=-", "lines=0-1", "bytes=a-b"]
)
async def test_no_range_at_all(caller: Caller, link: str, asked: str) -> None:
    """Several ranges, or none that can be read, are answered with the whole."""
    reply = await caller.fetch(link, Range=asked)

    assert 200 == reply.status
    assert "Content-Range" not in reply.headers


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=-0"])
async def test_a_range_beyond_the_end(caller: Caller, link: str, asked: str) -> None:
    """What is not there is 416, with the true size."""
    size = len((await caller.fetch(link)).body)
    reply = await caller.fetch(link, Range=asked)

    assert 416 == reply.status
    assert f"bytes */{size}" == reply.headers["Content-Range"]
    assert b"<Code>InvalidRange</Code>" in reply.body


async def test_conditions(caller: Caller, link: str) -> None:
    """Tags are compared as strong ones."""
    tag = (await caller.fetch(link)).headers["ETag"]
    other = '"0123"'

    async def status(**headers: str) -> int:
        return (await caller.fetch(link, **headers)).status

    assert 206 == await status(If_Match=tag, Range="bytes=0-9")
    assert 200 == await status(If_Match="*")
    assert 412 == await status(If_Match=other)
    assert 412 == await status(If_Match=f"W/{tag}", Range="bytes=0-9")
    assert 304 == await status(If_None_Match=f"{other}, {tag}")
    assert 200 == await status(If_None_Match=other)
    assert 206 == await status(If_Range=tag, Range="bytes=0-9")
    assert 200 == await status(If_Range=other, Range="bytes=0-9")


async def test_every_link_leads_to_the_same_object(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """A second link to a job is another link, and its object has the same tag."""
    request_id = await caller.export("c1")
    links = [(await caller.file(request_id)).headers["Location"] for _ in range(2)]
    tags = {(await caller.fetch(link)).headers["ETag"] for link in links}

    assert 2 == len(set(links))
    assert 1 == len(tags)
    assert (2, 1) == (emulator.links, emulator.spent)


async def test_the_store_takes_no_slot(
    caller: Caller, link: str, emulator: CohortsEmulator
) -> None:
    """Its requests are not Amplitude's, and count with nobody."""
    before = emulator.max_in_flight
    await caller.fetch(link)

    assert before == emulator.max_in_flight
    assert 1 == emulator.requests("store")


async def test_kept_in_gzip() -> None:
    """An object that is stored compressed is sent so, whatever is accepted."""
    async with (
        CohortsEmulator(clock=FakeClock(), inline_below=0) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        link = await caller.link("c1")
        reply = await caller.fetch(link, Accept_Encoding="identity")

    assert "gzip" == reply.headers["Content-Encoding"]
    assert b"\x1f\x8b" == reply.body[:2]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_from_disk_on_either_loop(loop: str, tmp_path: Path) -> None:
    """Files large and small come whole from disk, with or without the kernel's help."""
    factory = pytest.importorskip(loop).new_event_loop

    async def run() -> list[int]:
        async with (
            CohortsEmulator(
                clock=FakeClock(), inline_below=0, compress=None, cache_dir=tmp_path
            ) as emulator,
            calling(emulator) as caller,
        ):
            emulator.add_cohort("small", size=10)
            emulator.add_cohort("large", size=100_000)
            links = [await caller.link(name) for name in ("small", "large")]
            replies = [await caller.fetch(link) for link in links]

        for reply in replies:
            assert f'"{hashlib.md5(reply.body).hexdigest()}"' == reply.headers["ETag"]

        return [reply.body.count(b"\n") for reply in replies]

    with asyncio.Runner(loop_factory=factory) as runner:
        assert [11, 100_001] == runner.run(run())
