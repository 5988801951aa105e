"""What can go wrong, does, once for each time it was asked for."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from yarl import URL

from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Fault, faults
from emulator.calling import Caller, calling

LIST = "/api/3/cohorts"
TEXT = b'"amplitude_id","user_id"\n"11","ann"\n"12","bob"\n"13","cid"\n"14","dan"\n'


@pytest.fixture
async def emulator(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """An emulator with one small cohort, kept as plain text."""
    async with CohortsEmulator(clock=clock, inline_below=0, compress=None) as emulator:
        names = ["ann", "bob", "cid", "dan"]
        emulator.add_cohort("c1", members=list(zip(range(11, 15), names, strict=True)))
        yield emulator


async def test_faults_are_used_up(caller: Caller, emulator: CohortsEmulator) -> None:
    """One for each request, in order, as often as told, then all is well."""
    emulator.fail_next("list", faults.broken(502), faults.works(), times=2)
    emulator.fail_next("list", faults.broken(500))
    statuses = [(await caller.get(LIST)).status for _ in range(6)]

    assert [502, 200, 502, 200, 500, 200] == statuses


async def test_a_fault_for_always(caller: Caller, emulator: CohortsEmulator) -> None:
    """`times=None` fails every request there is, after those that are queued."""
    emulator.fail_next("list", faults.broken(500), times=None)
    emulator.fail_next("list", faults.works())
    statuses = [(await caller.get(LIST)).status for _ in range(4)]

    assert [200, 500, 500, 500] == statuses


@pytest.mark.parametrize(
    ("fault", "status", "details"),
    [
        (faults.throttled(), 429, "Exceeded rate limit"),
        (faults.throttled(details="Exceeded concurrent limit"), 429, "concurrent"),
        (faults.broken(504), 504, "Service Unavailable"),
        (faults.refused(403, "Not on your plan"), 403, "Not on your plan"),
    ],
)
async def test_refusals(
    caller: Caller, emulator: CohortsEmulator, fault: Fault, status: int, details: str
) -> None:
    """In the vendor's envelope, and nothing was done."""
    emulator.fail_next("export", fault)
    reply = await caller.get("/api/5/cohorts/request/c1")

    assert status == reply.status == reply.json["error"]["http_code"]
    assert details in reply.details
    assert "Retry-After" not in reply.headers
    assert 0 == emulator.spent
    assert [] == emulator.violations


@pytest.mark.parametrize("fault", [faults.throttled(7), faults.broken(retry_after=7)])
async def test_retry_after(
    caller: Caller, emulator: CohortsEmulator, fault: Fault
) -> None:
    """Sent when asked for; the live service has not been seen to."""
    emulator.fail_next("list", fault)

    assert "7" == (await caller.get(LIST)).headers["Retry-After"]


async def test_a_web_page(caller: Caller, emulator: CohortsEmulator) -> None:
    """200 and HTML, as of a proxy that wants a login."""
    emulator.fail_next("usage", faults.html())
    reply = await caller.get("/api/3/cohorts/usage")

    assert 200 == reply.status
    assert reply.headers["Content-Type"].startswith("text/html")
    assert b"<html>" in reply.body


async def test_a_refusal_of_the_store_is_xml(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """The store has errors of its own kind."""
    emulator.fail_next("store", faults.broken(503))
    reply = await caller.fetch(await caller.link("c1"))

    assert 503 == reply.status
    assert b"<Code>SlowDown</Code>" in reply.body


async def test_a_lost_answer(caller: Caller, emulator: CohortsEmulator) -> None:
    """The cohort is made, and nobody is told."""
    emulator.fail_next("upload", faults.lost_answer())
    body = {
        "name": "n",
        "app_id": emulator.options.app_id,
        "id_type": "BY_USER_ID",
        "ids": ["ann"],
        "owner": "o",
        "published": True,
    }

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await caller.post("/api/3/cohorts/upload", body)

    _, made = emulator.cohort_ids
    assert {"ann"} == emulator.members_of(made)
    assert emulator.log[-1].status is None


@pytest.mark.parametrize("at", [0, 10, 9_999])
async def test_cut_off(caller: Caller, emulator: CohortsEmulator, at: int) -> None:
    """The whole length is announced; the connection closes before it is sent."""
    emulator.fail_next("store", faults.cut_off(at))
    link = await caller.link("c1")

    with pytest.raises(aiohttp.ClientPayloadError):
        await caller.fetch(link)

    assert TEXT == (await caller.fetch(link)).body


async def test_cut_off_within_json(caller: Caller, emulator: CohortsEmulator) -> None:
    """A chunked answer ends without its last chunk."""
    emulator.fail_next("list", faults.cut_off(20))

    with pytest.raises(aiohttp.ClientPayloadError):
        await caller.get(LIST)


async def test_stalled(emulator: CohortsEmulator) -> None:
    """Some bytes, then silence, until the client goes."""
    emulator.fail_next("store", faults.stalled(10))

    async with calling(emulator) as caller:
        link = await caller.link("c1")
        task = asyncio.create_task(caller.fetch(link))
        await asyncio.sleep(0.05)
        assert not task.done()
        assert emulator.log[-1].ended is None

        task.cancel()
        await asyncio.sleep(0.05)
        assert emulator.log[-1].ended is not None


async def test_slow(
    caller: Caller, emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """So many bytes a second, on the emulator's clock."""
    emulator.fail_next("store", faults.slow(10))
    link = await caller.link("c1")
    began = clock.now()
    reply = await caller.fetch(link)

    assert TEXT == reply.body
    assert pytest.approx(len(TEXT) / 10, abs=1) == clock.now() - began


async def test_corrupt(caller: Caller, emulator: CohortsEmulator) -> None:
    """One bit is wrong on the way; the next time it is right."""
    emulator.fail_next("store", faults.corrupt(at=30))
    link = await caller.link("c1")
    wrong = (await caller.fetch(link)).body

    assert TEXT[:30] == wrong[:30]
    assert TEXT[30] ^ 1 == wrong[30]
    assert TEXT[31:] == wrong[31:]
    assert TEXT == (await caller.fetch(link)).body


async def test_hang(
    caller: Caller, emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """The answer comes, later; what was asked for is done at once."""
    emulator.fail_next("export", faults.hang(30))
    reply = await caller.get("/api/5/cohorts/request/c1")

    assert 202 == reply.status
    assert 30 == clock.now()
    assert 1 == emulator.spent


async def test_hang_for_ever(caller: Caller, emulator: CohortsEmulator) -> None:
    """No answer comes; leaving the emulator does not wait for one."""
    emulator.fail_next("list", faults.hang())
    task = asyncio.create_task(caller.raw(emulator.base_url + LIST))
    await asyncio.sleep(0.05)
    await emulator.__aexit__(None, None, None)

    assert b"" == await task


async def test_an_expired_link(caller: Caller, emulator: CohortsEmulator) -> None:
    """The first link is too old already; the next is good, for the same export."""
    emulator.fail_next("file", faults.link_expired())
    request_id = await caller.export("c1")
    replies = []

    for _ in range(2):
        link = (await caller.file(request_id)).headers["Location"]
        replies.append(await caller.fetch(link))

    assert [403, 200] == [reply.status for reply in replies]
    assert b"Request has expired" in replies[0].body
    assert 1 == emulator.spent


async def test_small_files_take_the_store_when_a_fault_needs_it() -> None:
    """However small the cohort, a fault of links or of the store happens."""
    async with (
        CohortsEmulator(clock=FakeClock()) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        request_id = await caller.export("c1")
        statuses = [(await caller.file(request_id)).status]

        emulator.fail_next("file", faults.link_expired())
        statuses.append((await caller.file(request_id)).status)

        emulator.fail_next("store", faults.broken())
        statuses.append((await caller.file(request_id)).status)

    assert [200, 302, 302] == statuses


async def test_range_and_conditions_ignored(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """A store that knows no ranges sends the whole; faults can be joined."""
    emulator.fail_next(
        "store",
        faults.ignores_range(),
        faults.ignores_conditions(),
        faults.ignores_range() | faults.ignores_conditions(),
    )
    link = await caller.link("c1")
    asked = {"Range": "bytes=5-", "If-Match": '"other"'}
    statuses = [(await caller.fetch(link, **asked)).status for _ in range(4)]

    assert [412, 206, 200, 412] == statuses


async def test_tags(caller: Caller, emulator: CohortsEmulator) -> None:
    """No ETag, or another one, for the same bytes."""
    emulator.fail_next(
        "store", faults.without_etag(), faults.wrong_etag(), faults.works()
    )
    link = await caller.link("c1")
    replies = [await caller.fetch(link) for _ in range(3)]
    none, wrong, right = (reply.headers.get("ETag") for reply in replies)

    assert none is None
    assert wrong != right
    assert {TEXT} == {reply.body for reply in replies}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (faults.grown(2), TEXT + b'"14","dan"\n' * 2),
        (faults.shrunk(2), TEXT[: -2 * len(b'"14","dan"\n')]),
        (faults.shrunk(99), b'"amplitude_id","user_id"\n'),
        (faults.bad_rows(), TEXT.replace(b'"11', b'"356896327775"\n"11', 1)),
        (faults.bad_rows(b'"open\n'), TEXT.replace(b'"11', b'"open\n"11', 1)),
        (faults.edited(lambda csv: csv[:-1]), TEXT[:-1]),
        (faults.torn(at=-5), TEXT[:-5]),
    ],
)
async def test_another_object(
    caller: Caller, emulator: CohortsEmulator, fault: Fault, text: bytes
) -> None:
    """From then on the store holds it, under a tag of its own, for all links."""
    emulator.fail_next("store", faults.works(), fault)
    request_id = await caller.export("c1")

    async def fetch(**headers: str) -> tuple[int, bytes, str | None]:
        link = (await caller.file(request_id)).headers["Location"]
        reply = await caller.fetch(link, **headers)
        return reply.status, reply.body, reply.headers.get("ETag")

    _, whole, tag = await fetch()
    status, _, _ = await fetch(If_Match=str(tag), Range="bytes=5-")
    after = await fetch()

    assert TEXT == whole
    assert 412 == status
    assert (200, text) == after[:2]
    assert tag != after[2]


async def test_changed(caller: Caller, emulator: CohortsEmulator) -> None:
    """The object is another one of the same length."""
    emulator.fail_next("store", faults.works(), faults.changed())
    link = await caller.link("c1")
    first, second = [await caller.fetch(link) for _ in range(2)]

    assert len(first.body) == len(second.body)
    assert first.body != second.body
    assert first.headers["ETag"] != second.headers["ETag"]


async def test_a_torn_gzip() -> None:
    """Lengths and tag agree with what is there; only the gzip is not whole."""
    async with (
        CohortsEmulator(clock=FakeClock(), inline_below=0) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann"])
        emulator.fail_next("store", faults.torn(at=-3))
        reply = await caller.fetch(await caller.link("c1"))

    assert str(len(reply.body)) == reply.headers["Content-Length"]
    with pytest.raises(EOFError):
        gzip.decompress(reply.body)


@pytest.mark.parametrize("step", ["export", "status"])
async def test_a_failed_job(
    caller: Caller, emulator: CohortsEmulator, step: faults.Step
) -> None:
    """Its status says so from then on, and it has no file."""
    emulator.fail_next(step, faults.job_failed())
    request_id = await caller.export("c1")
    path = f"/api/5/cohorts/request-status/{request_id}"
    replies = [await caller.get(path) for _ in range(2)]

    assert ["JOB FAILED"] * 2 == [reply.json["async_status"] for reply in replies]
    assert 404 == (await caller.file(request_id)).status


async def test_a_job_that_never_ends(
    caller: Caller, emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """It is in progress, a day later too."""
    emulator.fail_next("export", faults.never_ends())
    request_id = await caller.export("c1")
    clock.advance(86_400)
    reply = await caller.get(f"/api/5/cohorts/request-status/{request_id}")

    assert (202, "JOB INPROGRESS") == (reply.status, reply.json["async_status"])


@pytest.mark.parametrize(
    "fault",
    [faults.cut_off(40_000_000), faults.corrupt(1_000_000), faults.slow(1e12)],
)
@pytest.mark.big
async def test_faults_of_big_files(fault: Fault) -> None:
    """A file that is sent from disk suffers like one in memory."""
    async with (
        CohortsEmulator(clock=FakeClock(), compress=None) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("big", size=300_000)
        link = await caller.link("big")
        whole = (await caller.fetch(link)).body
        emulator.fail_next("store", fault)

        if fault.cut_at is not None:
            with pytest.raises(aiohttp.ClientPayloadError):
                await caller.fetch(link)
            return

        body = (await caller.fetch(link)).body

    wrong = [
        number for number in range(0, len(whole), 1000) if whole[number] != body[number]
    ]

    assert len(whole) == len(body)
    assert ([] if fault.flip_at is None else [fault.flip_at]) == wrong


def test_joined_faults_are_both() -> None:
    """Of two that disagree the second holds; the steps are those of both."""
    joined = faults.link_expired() | faults.ignores_range() | faults.cut_off(5)
    joined |= faults.cut_off(7) | faults.with_header("X", "1")

    assert frozenset({"file"}) == joined.steps
    assert joined.expired
    assert 7 == joined.cut_at
    assert {"range"} == joined.ignored
    assert {"X": "1"} == joined.headers


_MAKERS: list[Callable[[], Fault]] = [
    faults.works,
    faults.throttled,
    faults.broken,
    faults.html,
    faults.cut_off,
    faults.corrupt,
]


@pytest.mark.parametrize("make", _MAKERS)
def test_faults_are_values(make: Callable[[], Fault]) -> None:
    """Made alike, they are alike."""
    assert make() == make()


async def test_no_answer_of_the_store(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """The connection closes before a byte, or a page comes that is no object."""
    emulator.fail_next("store", faults.lost_answer(), faults.html())
    link = await caller.link("c1")

    assert b"" == await caller.raw(link)

    page = await caller.fetch(link)

    assert page.headers["Content-Type"].startswith("text/html")
    assert "X-Amz-Signature" in emulator.log[-1].target
    assert "X-Amz-Signature" not in repr(emulator.log[-1])


async def test_a_client_that_goes_makes_no_noise(
    emulator: CohortsEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a body, then nobody: the request is over, and no error is logged."""
    origin = URL(emulator.base_url)
    _, writer = await asyncio.open_connection(origin.host, origin.port)
    writer.write(
        b"POST /api/3/cohorts/upload HTTP/1.1\r\n"
        b"Host: emulator\r\nContent-Length: 1000\r\n\r\n{"
    )

    while not emulator.in_flight:  # noqa: ASYNC110  it is on other sockets
        await asyncio.sleep(0.005)

    writer.transport.abort()

    while emulator.in_flight:  # noqa: ASYNC110
        await asyncio.sleep(0.005)

    assert [] == [one for one in caplog.records if one.name.startswith("aiohttp")]
