"""Members as a stream, from a server that may do anything: over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from pathlib import Path
from typing import Self

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob, Member
from amplitude_cohorts_async.errors import (
    CohortsError,
    ExportExpiredError,
    IncompleteDownloadError,
    InvalidInputError,
    MalformedFileError,
    ServerError,
)
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import (
    COHORT,
    COMPLETED,
    CSV,
    FILE,
    GZIP,
    OBJECT,
    REQUEST,
    STATUS,
    cut,
    rest,
    store_error,
    until,
    whole,
)
from support.fault_server import DROP, HANG, FaultServer, Reply, redirect, reply

HEADER = b'"amplitude_id","user_id"\n'
COUNT = CSV.count(b"\n") - 1


def first_members(count: int) -> list[Member]:
    """Make the first members of the file the server has."""
    return [
        Member(amplitude_id=f"35689632{n:04d}", user_id=f"user-{n * 7919}")
        for n in range(count)
    ]


async def all_members(job: ExportJob) -> list[Member]:
    """Read a job's members to the end."""
    async with job.members() as stream:
        return [member async for member in stream]


@pytest.mark.parametrize(
    "answer",
    [
        whole(),
        whole(CSV),
        whole(content_encoding="gzip"),
        whole(gzip.compress(CSV[:9]) + gzip.compress(CSV[9:])),
        reply(200, GZIP, content_length=None, then="close", connection="close"),
    ],
)
@pytest.mark.parametrize("inline", [False, True])
async def test_members(
    server: FaultServer, job: ExportJob, answer: Reply, inline: bool
) -> None:
    """Each member once, in the file's order, from whichever form and place it comes."""
    server.on(FILE if inline else OBJECT, answer)

    assert first_members(COUNT) == await all_members(job)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (HEADER, []),
        (HEADER[:-1], []),
        (HEADER + b'"1","ann"', [Member(amplitude_id="1", user_id="ann")]),
        (HEADER + b'"1",""\n', [Member(amplitude_id="1")]),
        (b'"\tgroup_value"\n"\tAcme"\n', [Member(group="Acme")]),
        (
            b'"amplitude_id","user_id","plan"\r\n"1","a\n""b"", c","x"\r\n',
            [Member(amplitude_id="1", user_id='a\n"b", c', properties={"plan": "x"})],
        ),
    ],
)
async def test_small_files(
    server: FaultServer, job: ExportJob, text: bytes, members: list[Member]
) -> None:
    """A header alone is a cohort of nobody; a last row needs no newline."""
    server.on(OBJECT, whole(gzip.compress(text)))

    assert members == await all_members(job)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (HEADER + b'"1","ann"\n"2"\n', 3),
        (HEADER + b'"1","ann","more"\n', 2),
        (HEADER + b'"1","ann\n', None),
        (HEADER + b'"1","a"b"\n', 2),
        (HEADER + b'"1","\xff"\n', 2),
        (b'"who","what"\n"1","ann"\n', 1),
    ],
)
async def test_files_that_are_no_csv_of_members(
    server: FaultServer, job: ExportJob, text: bytes, line: int | None
) -> None:
    """The error tells the line and the job, and its token reads the file again."""
    server.on(OBJECT, whole(text))

    with pytest.raises(MalformedFileError) as caught:
        await all_members(job)

    assert line is None or line == caught.value.line
    assert (job.request_id, job.token) == (caught.value.request_id, caught.value.token)


@pytest.mark.parametrize(
    "ending",
    [
        [cut(7_000), rest(7_000)],
        [store_error(403, "AccessDenied"), whole()],
        [DROP, HANG, cut(5_000), store_error(503, "SlowDown"), rest(5_000)],
    ],
)
async def test_a_stream_goes_on_over_another_link(
    server: FaultServer, job: ExportJob, ending: list[Reply]
) -> None:
    """A reader does not notice that its link was replaced."""
    server.on(OBJECT, *ending)

    assert first_members(COUNT) == await all_members(job)


@pytest.mark.slow
@pytest.mark.parametrize(
    "second",
    [
        whole(),
        whole(etag='"other"'),
        store_error(412, "PreconditionFailed"),
        store_error(416, "InvalidRange"),
        rest(0),
    ],
)
async def test_a_stream_never_mixes_two_files(
    server: FaultServer, job: ExportJob, second: Reply
) -> None:
    """
    Once members were handed out, a file that cannot go on is an error with a token.
    """
    large = CSV + b'"1","filler"\n' * 400_000
    server.on(OBJECT, cut(4_000_000, large), second)
    seen = 0

    with pytest.raises(IncompleteDownloadError, match=r"members\(\)") as caught:
        async with job.members() as stream:
            async for batch in stream.batches(1_000):
                seen += len(batch)

    assert 1_000 <= seen <= 400_000
    assert job.token == caught.value.token
    server.on(OBJECT, whole())
    assert COUNT == len(await all_members(job))


async def test_what_nobody_read_may_start_over(
    server: FaultServer, job: ExportJob
) -> None:
    """As long as nothing was handed out, a fresh start harms nobody."""
    server.on(OBJECT, cut(0, etag=None), whole())

    assert first_members(COUNT) == await all_members(job)


async def test_links_that_bring_nothing(server: FaultServer, job: ExportJob) -> None:
    """A stream that no link continues ends with the error, after what had come."""
    server.on(OBJECT, cut(len(CSV) // 2, CSV), DROP)
    seen: list[Member] = []

    with pytest.raises(IncompleteDownloadError) as caught:
        async with job.members() as stream:
            async for batch in stream.batches(100):
                seen += batch

    assert seen == first_members(len(seen))
    assert job.token == caught.value.token


async def test_a_file_that_is_gone(server: FaultServer, job: ExportJob) -> None:
    """An expired file is told as such, and a broken service as well, with the token."""
    for code, error in ((501, ServerError), (410, ExportExpiredError)):
        server.on(FILE, reply(code))
        # The first one is of the job, which is done.
        server.on(STATUS, COMPLETED, reply(code))

        with pytest.raises(error) as caught:
            await all_members(job)
        assert isinstance(caught.value, CohortsError)
        assert job.token == caught.value.token


async def test_leaving_early(
    server: FaultServer, job: ExportJob, exporter: CohortsClient
) -> None:
    """
    A loop that is left, or fails, closes the connection; the file can be read again.
    """
    for _ in range(3):
        async with job.members() as stream:
            async for member in stream:
                assert first_members(1) == [member]
                break

    with pytest.raises(LookupError, match="the reader's own"):
        async with job.members() as stream:
            async for _member in stream:
                raise LookupError("the reader's own")

    async with job.members():
        pass

    assert first_members(COUNT) == await all_members(job)
    assert 0 == exporter._operations.session.limiter.statistics()["in_flight"]


async def test_leaving_early_while_more_comes(
    server: FaultServer, job: ExportJob, exporter: CohortsClient
) -> None:
    """A stream is left at once, even when the wire is silent or the pipe is full."""
    server.on(OBJECT, Reply(raw=whole(CSV * 60).raw, then="hang"))
    async with job.members() as stream:
        await anext(aiter(stream))

    silent = Reply(raw=whole(CSV * 60).raw[:2_000_000], then="hang")
    server.on(OBJECT, silent)
    async with job.members() as stream:
        await anext(aiter(stream))

    server.on(FILE, silent)
    async with job.members() as stream:
        await anext(aiter(stream))

    assert 0 == exporter._operations.session.limiter.statistics()["in_flight"]


async def test_two_streams_of_one_job(server: FaultServer, job: ExportJob) -> None:
    """A job's file may be read by two at once, each in its own pace."""
    async with job.members() as one, job.members() as other:
        half = [member async for member in limited(one, COUNT // 2)]
        both = [member async for member in other]
        half += [member async for member in one]

    assert first_members(COUNT) == half == both
    assert 2 == len(server.requests(FILE))
    assert 1 == len(server.requests(STATUS))


async def limited(stream, count: int):  # type: ignore[no-untyped-def]
    """Hand out the first *count* members of a stream."""
    for _ in range(count):
        yield await anext(stream)


async def test_a_slow_reader(emulator: CohortsEmulator, clock: FakeClock) -> None:
    """A reader slower than a link lives loses nothing, and asks for links as needed."""
    emulator.add_cohort("slow", size=60_000)
    emulator.fail_next("store", faults.cut_off(100_000))

    async with unlimited_client(emulator.base_url, clock) as client:
        job = await client.request_export("slow")
        count = 0
        async with job.members() as stream:
            async for batch in stream.batches(20_000):
                count += len(batch)
                await clock.sleep(90)

    assert 60_000 == count == stream.rows
    assert [] == emulator.violations


async def test_a_link_that_expires_on_the_way(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """Expired links and cuts cost links, no exports, and lose no member."""
    emulator.add_cohort("26umsb5", size=50_000)
    emulator.fail_next(
        "file", faults.link_expired(), faults.works(), faults.link_expired()
    )
    emulator.fail_next("store", faults.works(), faults.cut_off(200_000))
    job = await client.request_export("26umsb5")

    async with job.members() as stream:
        members = [member async for member in stream]

    assert 50_000 == len({member.amplitude_id for member in members})
    assert 4 == emulator.requests("file")
    assert 1 == emulator.spent
    assert [] == emulator.violations


@pytest.mark.slow
async def test_the_pipe_makes_the_wire_wait(
    server: FaultServer, clock: FakeClock
) -> None:
    """A reader that stands still keeps little in memory, and gets all in the end."""
    text = HEADER + b"".join(b'"%d","user-%d"\n' % (n, n) for n in range(300_000))
    server.on(OBJECT, whole(text))

    async with (
        unlimited_client(server.url, clock) as client,
        client.resume_export(REQUEST).members() as stream,
    ):
        await anext(aiter(stream))
        with traced() as waiting:
            await asyncio.sleep(0.2)
        count = 1 + sum([len(batch) async for batch in stream.batches()])

    assert 300_000 == count
    assert waiting.peak < 4 << 20


@pytest.mark.big
async def test_memory_stays_flat(tmp_path: Path, clock: FakeClock) -> None:
    """Two million members are read, and saved, within a few MiB."""
    with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, clock=clock
    ) as emulator:
        emulator.add_cohort("large", size=2_000_000)
        emulator.generate()

        async with CohortsClient(
            API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock
        ) as client:
            job = await (await client.request_export("large")).wait()

            with traced() as saving:
                await job.download(tmp_path / "members.csv")

            count = 0
            with traced() as reading:
                async with job.members() as stream:
                    async for batch in stream.batches():
                        count += len(batch)

    assert 2_000_000 == count
    assert saving.peak < 16 << 20
    assert reading.peak < 32 << 20


class traced:  # noqa: N801  it is used like a function
    """Counts the most bytes that were allocated at once within it."""

    peak = 0

    def __enter__(self) -> Self:
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


async def test_a_redirect_to_the_members(server: FaultServer, job: ExportJob) -> None:
    """A stream follows the store's own redirect as a download does."""
    server.on(OBJECT, redirect("/elsewhere"))
    server.on("/elsewhere", whole())

    assert first_members(COUNT) == await all_members(job)


async def test_a_reader_that_is_cancelled(
    server: FaultServer, job: ExportJob, exporter: CohortsClient
) -> None:
    """A reader that gives up waiting closes all; a new one reads from the start."""
    server.on(OBJECT, HANG)

    async def read() -> None:
        await all_members(job)

    reading = asyncio.ensure_future(read())
    await until(lambda: len(server.requests(OBJECT)) == 1)
    reading.cancel()
    await asyncio.wait([reading])

    assert reading.cancelled()
    assert 0 == exporter._operations.session.limiter.statistics()["in_flight"]
    server.on(OBJECT, whole())
    assert COUNT == len(await all_members(job))


async def test_readers_of_files_without_a_link_may_call_the_api(
    clock: FakeClock,
) -> None:
    """Five files that the service sends itself hold all slots, but not for long."""
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        inline_below=float("inf"),
        compress=None,
    ) as emulator:
        emulator.add_cohort("c1", size=100_000)

        async with CohortsClient(
            API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock
        ) as client:
            job = await (await client.request_export("c1")).wait()
            ready = asyncio.Barrier(5)

            async def read() -> int:
                async with job.members() as stream:
                    await anext(aiter(stream))
                    await ready.wait()
                    await client.get_usage()
                    return 1 + sum([len(batch) async for batch in stream.batches()])

            counts = await asyncio.gather(*(read() for _ in range(5)))

    assert [100_000] * 5 == counts


async def test_a_stream_is_read_once(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """A second loop says so, and is not silently empty."""
    emulator.add_cohort(COHORT, members=["ann", "bob"])
    job = await client.request_export(COHORT)

    async with job.members() as members:
        assert ["ann", "bob"] == [member.user_id async for member in members]

        with pytest.raises(InvalidInputError, match="were read already"):
            await anext(aiter(members))
        with pytest.raises(InvalidInputError, match="were read already"):
            await anext(members.batches())

    async with job.members() as members:
        assert ["ann", "bob"] == [member.user_id async for member in members]


async def test_a_stream_ends_with_its_context(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """Also what it has decoded already: the rest of the file could not follow."""
    emulator.add_cohort(COHORT, members=["ann", "bob", "eve"])
    job = await client.request_export(COHORT)

    async with job.members() as members:
        assert "ann" == (await anext(members)).user_id

    with pytest.raises(InvalidInputError, match="after the block that opened"):
        await anext(members)
