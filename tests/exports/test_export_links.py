"""From a link to a whole file, whatever the store does: over real sockets."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async.errors import (
    ConnectionFailedError,
    ExportExpiredError,
    ExportFailedError,
    IncompleteDownloadError,
    ServerError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.events import BytesReceived, Event, LinkRenewed
from amplitude_cohorts_async.testing import FakeClock
from support.clients import emulator_assuming, unlimited_client
from support.exporting import (
    COHORT,
    COMPLETED,
    CSV,
    ETAG,
    EXPORT,
    FILE,
    GZIP,
    LINK,
    OBJECT,
    RUNNING,
    STATUS,
    cut,
    names_in,
    rest,
    store_error,
    whole,
)
from support.fault_server import (
    DROP,
    HANG,
    RESET,
    FaultServer,
    Reply,
    json_reply,
    redirect,
    reply,
)

OTHER_ETAG = '"ffffffffffffffffffffffffffffffff"'
HALF = len(GZIP) // 2


async def saved_text(job: ExportJob, folder: Path) -> bytes:
    """Download a job's file and return its text; nothing else may be left behind."""
    target = folder / "members.csv"
    saved = await job.download(target)
    text = target.read_bytes()

    assert [target.name] == names_in(folder)
    assert hashlib.sha256(text).hexdigest() == saved.sha256
    assert len(text) == saved.size

    return text


async def test_a_file_in_the_answer_itself(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A small cohort's file is the body of the answer: no link is used."""
    server.on(FILE, reply(200, GZIP, content_encoding="gzip"))
    saved = await job.download(tmp_path / "members.csv")

    assert CSV == saved.path.read_bytes()
    assert 0 == saved.links
    assert len(GZIP) == saved.downloaded
    assert [] == server.requests(OBJECT)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_file_behind_a_link(
    server: FaultServer, job: ExportJob, tmp_path: Path, status: int
) -> None:
    """A redirect of any kind is a link, and one link brings the file."""
    server.on(FILE, redirect(f"{server.url}{OBJECT}?{LINK}", status))
    saved = await job.download(tmp_path / "members.csv")

    assert CSV == saved.path.read_bytes()
    assert 1 == saved.links
    assert len(GZIP) == saved.downloaded


@pytest.mark.parametrize(
    "refusal",
    [
        store_error(403, "AccessDenied"),
        store_error(400, "ExpiredToken"),
        store_error(403, "SignatureDoesNotMatch"),
        store_error(404, "NoSuchKey"),
        store_error(503, "SlowDown"),
        store_error(503, "SlowDown", retry_after="3"),
        store_error(500, "InternalError"),
        reply(204),
        DROP,
        RESET,
        HANG,
    ],
)
async def test_a_refused_link_is_replaced(
    server: FaultServer, job: ExportJob, tmp_path: Path, refusal: Reply
) -> None:
    """Whatever is wrong with a link, a fresh one is asked for; no export is spent."""
    server.on(OBJECT, refusal, whole())

    assert CSV == await saved_text(job, tmp_path)
    assert 2 == len(server.requests(FILE))
    assert [] == server.requests(EXPORT)


@pytest.mark.parametrize(
    "ending",
    [
        cut(HALF),
        Reply(raw=whole().raw[:-HALF], then="reset"),
        Reply(raw=whole().raw[:-HALF], then="hang"),
    ],
)
async def test_a_cut_body_goes_on_where_it_stopped(
    server: FaultServer, job: ExportJob, tmp_path: Path, ending: Reply
) -> None:
    """
    After a cut, a reset or a stall the rest is asked for, if it is of the same object.
    """
    server.on(OBJECT, ending, rest(len(GZIP) - HALF))
    received = len(GZIP) - HALF
    server.on(OBJECT, ending, rest(received))
    if ending.then == "close":
        received = HALF
        server.on(OBJECT, ending, rest(HALF))

    assert CSV == await saved_text(job, tmp_path)
    first, second = server.requests(OBJECT)
    assert "range" not in first.headers
    assert f"bytes={received}-" == second.headers["range"]
    assert ETAG == second.headers["if-match"]


async def test_a_file_over_many_links(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Links that each bring something may be many; none of it is fetched twice."""
    steps = range(0, len(GZIP), 1 + len(GZIP) // 12)
    replies = [
        Reply(raw=rest(start).raw[: -(len(GZIP) - end)], then="close")
        for start, end in itertools.pairwise(steps[1:])
    ]
    server.on(OBJECT, cut(steps[1]), *replies, rest(steps[-1]))
    saved = await job.download(tmp_path / "members.csv")

    assert CSV == saved.path.read_bytes()
    assert len(steps) == saved.links
    assert len(GZIP) == saved.downloaded


@pytest.mark.parametrize(
    "answer",
    [
        whole(),  # all of it
        whole(etag=None),
        whole(etag=OTHER_ETAG),
    ],
)
async def test_all_of_it_instead_of_the_rest(
    server: FaultServer, job: ExportJob, tmp_path: Path, answer: Reply
) -> None:
    """A 200 to a Range is the whole object: it replaces what was there."""
    server.on(OBJECT, cut(HALF), answer)

    assert CSV == await saved_text(job, tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        rest(HALF, etag=OTHER_ETAG),
        rest(HALF, etag=f"W/{ETAG}"),
        rest(HALF + 1),
        rest(0),
        rest(HALF, GZIP + b"more"),
        rest(HALF, content_range=None),
        rest(HALF, content_range="bytes what-ever/9"),
        rest(HALF, content_range=f"bytes {HALF}-{len(GZIP)}/{len(GZIP)}"),
        rest(HALF, content_range=f"bytes {HALF}-{HALF}/{'9' * 5_000}"),
        store_error(412, "PreconditionFailed"),
        store_error(416, "InvalidRange"),
    ],
)
async def test_a_rest_that_is_not_ours_is_not_taken(
    server: FaultServer, job: ExportJob, tmp_path: Path, answer: Reply
) -> None:
    """Another ETag, offset or size, or no proof of them: start over, never mix."""
    server.on(OBJECT, cut(HALF), answer, whole())

    assert CSV == await saved_text(job, tmp_path)
    assert "range" not in server.requests(OBJECT)[-1].headers


@pytest.mark.parametrize("etag", [None, f"W/{ETAG}", "bare", ""])
async def test_without_a_strong_etag_nothing_is_resumed(
    server: FaultServer, job: ExportJob, tmp_path: Path, etag: str | None
) -> None:
    """What cannot be proven to be one object is fetched from its start again."""
    server.on(OBJECT, cut(HALF, etag=etag), whole())

    assert CSV == await saved_text(job, tmp_path)
    assert "range" not in server.requests(OBJECT)[1].headers


@pytest.mark.parametrize("factor", [0.5, 1, 2])
async def test_an_object_that_changed_meanwhile(
    server: FaultServer, job: ExportJob, tmp_path: Path, factor: float
) -> None:
    """
    An object that shrank, changed or grew between two links: only the new one is saved.
    """
    text = CSV[:26] + CSV[26:][::-1][1:] * 2
    text = text[: int(len(CSV) * factor)] + b"\n"
    server.on(
        OBJECT, cut(HALF), store_error(412, "PreconditionFailed"), whole(text, None)
    )

    assert text == await saved_text(job, tmp_path)


async def test_links_that_bring_nothing_come_to_an_end(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Six links in a row without a new byte: an error with a token, and no file."""
    server.on(OBJECT, cut(HALF), DROP)

    with pytest.raises(IncompleteDownloadError) as caught:
        await job.download(tmp_path / "members.csv")

    assert (HALF, len(GZIP)) == (caught.value.received, caught.value.expected)
    assert job.token == caught.value.token
    assert "resume_export" in str(caught.value)
    assert 6 == len(server.requests(FILE))
    assert [] == names_in(tmp_path)

    server.on(OBJECT, whole())
    assert CSV == await saved_text(job, tmp_path)


async def test_a_body_longer_than_announced(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Bytes behind the announced end make all of it doubtful, and are not quoted."""
    surplus = reply(200, CSV + b"356896320000", length=len(CSV), then="close")
    server.on(OBJECT, surplus)

    with pytest.raises(IncompleteDownloadError) as caught:
        await job.download(tmp_path / "members.csv")

    assert "35689632" not in str(caught.value)
    assert [] == names_in(tmp_path)


async def test_a_broken_chunk_is_a_cut(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A chunk without a size is a cut connection, not a foreign exception."""
    chunk = b"%x\r\n%s\r\n" % (HALF, GZIP[:HALF])
    head = reply(200, content_length=None, transfer_encoding="chunked", etag=ETAG)
    broken = Reply(raw=head.raw + chunk + b"surprise!\r\n", then="close")
    server.on(OBJECT, broken, whole())

    assert CSV == await saved_text(job, tmp_path)


async def test_chunks_have_an_end(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A chunked body proves its own end, also for plain text."""
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CSV), CSV)
    head = reply(200, content_length=None, transfer_encoding="chunked")
    server.on(OBJECT, Reply(raw=head.raw + chunk))

    assert CSV == await saved_text(job, tmp_path)


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01garbage\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"]
)
async def test_an_answer_that_is_no_http(
    server: FaultServer, job: ExportJob, tmp_path: Path, garbage: bytes
) -> None:
    """Noise in the store's place is one more refused link."""
    server.on(OBJECT, Reply(raw=garbage, then="close"), whole())

    assert CSV == await saved_text(job, tmp_path)


async def test_a_cut_answer_with_the_file_itself(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A file in the answer itself that is cut is asked for again, from its start."""
    server.on(FILE, reply(200, GZIP[:HALF], length=len(GZIP), then="close"), whole())

    assert CSV == await saved_text(job, tmp_path)


async def test_the_store_may_redirect(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """The store's own redirect is followed as the first one was: one link."""
    server.on(OBJECT, redirect(f"{server.url}/elsewhere?{LINK}", 307))
    server.on("/elsewhere", whole())
    saved = await job.download(tmp_path / "members.csv")

    assert CSV == saved.path.read_bytes()
    assert 1 == saved.links


async def test_a_store_that_redirects_in_circles(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A circle of redirects ends in an error with a token."""
    server.on(OBJECT, redirect(OBJECT, 307))

    with pytest.raises(IncompleteDownloadError, match="circles") as caught:
        await job.download(tmp_path / "members.csv")

    assert job.token == caught.value.token


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (f"http://store.example.com/object?{LINK}", "not https"),
        (f"ftp://store.example.com/object?{LINK}", "not https"),
        (f"file:///etc/passwd?{LINK}", "not https"),
        (f"https://user:word@store.example.com/object?{LINK}", "names a user"),
        (f"https:///object?{LINK}", "was not followed"),
        (f"https://[half/object?{LINK}", "cannot be read"),
        (f"https://127.0.0.1:99999/object?{LINK}", "cannot be read"),
        (f"https://s3.example.com/a b?{LINK}", "no URL has"),
        (f"https://s3.example.com/a\x01b?{LINK}", "no URL has"),
        (f"https://s3.example.com/\xfc?{LINK}", "no URL has"),
        ("", "Location"),
    ],
)
async def test_links_that_are_not_followed(
    server: FaultServer, job: ExportJob, tmp_path: Path, location: str, reason: str
) -> None:
    """
    A link in the clear to another machine, with a user, or to nowhere: not one byte.
    """
    server.on(FILE, redirect(location))

    with pytest.raises(UnexpectedResponseError, match=reason) as caught:
        await job.download(tmp_path / "members.csv")

    assert job.token == caught.value.token
    assert [] == server.requests(OBJECT)
    assert [] == names_in(tmp_path)


async def test_a_redirect_without_location(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A redirect without a Location is an error that says so."""
    server.on(FILE, reply(302))

    with pytest.raises(UnexpectedResponseError, match="Location"):
        await job.download(tmp_path / "members.csv")


TARGETS = [
    "/b/app%3D1/part+1.csv?a=%2F%3D+%20~&b=%7e&c==&&d",
    "/b//double/./dot/../x?x=1",
    "/b/%c3%bc%C3%BC?name=%22a+b~c.csv%22",
    "/b/x?url=http://elsewhere.example.com/a/../b&n=100%",
    "/b/plus+plus?empty=",
    "/b/semi;colon,comma:at@!$&'()*?*'()!",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_link_goes_out_byte_for_byte(
    server: FaultServer, job: ExportJob, tmp_path: Path, target: str
) -> None:
    """
    A signature is over the bytes of the link: nothing is quoted, decoded or sorted.
    """
    server.on(FILE, redirect(f"{server.url}{target}"))
    server.on(target.partition("?")[0], whole())

    assert CSV == await saved_text(job, tmp_path)
    assert target == server.seen[-1].target


@pytest.mark.parametrize("target", TARGETS)
async def test_a_link_relative_to_the_service(
    server: FaultServer, job: ExportJob, tmp_path: Path, target: str
) -> None:
    """A Location without a host is at the service's own, byte for byte as well."""
    server.on(FILE, redirect(target))
    server.on(target.partition("?")[0], whole())

    assert CSV == await saved_text(job, tmp_path)
    assert target == server.seen[-1].target
    assert "authorization" not in server.seen[-1].headers


async def test_what_the_store_is_told(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """
    The store learns nothing of Amplitude's keys, and is asked for bytes as stored.
    """
    server.on(OBJECT, cut(HALF), rest(HALF))
    await job.download(tmp_path / "members.csv")

    names = {"host", "accept", "accept-encoding", "user-agent"}
    first, second = server.requests(OBJECT)
    assert names == first.headers.keys()
    assert {*names, "range", "if-match"} == second.headers.keys()
    assert "identity" == first.headers["accept-encoding"]


@pytest.mark.parametrize(
    ("refusal", "asked_again"),
    [(404, reply(404)), (404, reply(410)), (410, reply(404))],
)
async def test_a_file_that_is_gone(
    server: FaultServer,
    job: ExportJob,
    tmp_path: Path,
    refusal: int,
    asked_again: Reply,
) -> None:
    """An export that the service does not know any more has to be requested again."""
    server.on(STATUS, COMPLETED, asked_again)
    server.on(FILE, json_reply({"error": {"http_code": refusal}}, refusal))

    with pytest.raises(ExportExpiredError, match="7 days") as caught:
        await job.download(tmp_path / "members.csv")

    assert job.token == caught.value.token


@pytest.mark.parametrize("status", [RUNNING, COMPLETED])
@pytest.mark.parametrize("code", [404, 410])
async def test_a_file_that_is_early(
    server: FaultServer, job: ExportJob, tmp_path: Path, status: Reply, code: int
) -> None:
    """A 404 or 410 for the file of a job that is known: it is asked for again."""
    link = redirect(f"{server.url}{OBJECT}?{LINK}")
    server.on(STATUS, COMPLETED, status)
    server.on(FILE, reply(code), reply(code), link)

    saved = await job.download(tmp_path / "members.csv")

    assert CSV == saved.path.read_bytes()


async def test_a_file_and_a_status_that_are_early(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """Seconds after the request, neither says that the export is gone."""
    link = redirect(f"{server.url}{OBJECT}?{LINK}")
    server.on(STATUS, COMPLETED, reply(404), COMPLETED)
    server.on(FILE, reply(404), reply(404), link)
    job = await exporter.request_export(COHORT)

    saved = await job.download(tmp_path / "members.csv")

    assert CSV == saved.path.read_bytes()


@pytest.mark.parametrize("code", [404, 410])
async def test_a_service_whose_files_come_late(
    clock: FakeClock, tmp_path: Path, code: int
) -> None:
    """Its status says done before the file is there: the file comes, of the one export."""
    async with (
        emulator_assuming(clock, file_delay=9, early_file_status=code) as emulator,
        unlimited_client(emulator.base_url, clock) as client,
    ):
        emulator.add_cohort(COHORT, members=["ann"], job_seconds=10)
        await client.export(COHORT, tmp_path / "members.csv")

    assert emulator.requests("file") > 1
    assert 1 == emulator.spent
    assert [] == emulator.violations


async def test_a_file_that_does_not_come(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Nobody is told to spend another export for a file that may still come."""
    server.on(FILE, reply(404))

    with pytest.raises(IncompleteDownloadError, match="'JOB COMPLETED'") as caught:
        await job.download(tmp_path / "members.csv")

    assert job.token == caught.value.token
    assert "request the export again" not in str(caught.value)
    assert "continue with `resume_export()`" in str(caught.value)


async def test_a_job_that_failed_after_all(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """The status that explains a missing file decides."""
    server.on(STATUS, COMPLETED, json_reply({"async_status": "JOB FAILED"}))
    server.on(FILE, reply(404))

    with pytest.raises(ExportFailedError):
        await job.download(tmp_path / "members.csv")


async def test_a_file_that_is_too_old(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock, tmp_path: Path
) -> None:
    """After seven days a 404 needs no explanation, whatever the status says."""
    job = await exporter.request_export(COHORT)
    await clock.sleep(7.1 * 86_400)
    server.on(FILE, reply(404))

    with pytest.raises(ExportExpiredError, match=r"7\.1 days ago"):
        await job.download(tmp_path / "members.csv")


async def test_a_service_that_breaks_at_the_file(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Refusals at the file are tried again some times, then told with a token."""
    server.on(FILE, reply(503), reply(429), DROP, redirect(OBJECT))
    assert CSV == await saved_text(job, tmp_path)

    server.on(FILE, reply(502))
    with pytest.raises(ServerError) as caught:
        await job.download(tmp_path / "members.csv")
    assert job.token == caught.value.token

    server.on(FILE, DROP)
    with pytest.raises(ConnectionFailedError) as cut_off:
        await job.download(tmp_path / "members.csv")
    assert job.token == cut_off.value.token


async def test_a_file_that_is_not_there_yet(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A 202 for the file is neither a file nor a link, and no file is written."""
    server.on(FILE, reply(202, b"{}"))

    with pytest.raises(UnexpectedResponseError, match="202"):
        await job.download(tmp_path / "members.csv")
    assert [] == names_in(tmp_path)


async def test_what_the_hook_and_the_caller_hear(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """Progress counts stored bytes of the total; a renewed link says why."""
    heard: list[Event] = []
    progress: list[BytesReceived] = []
    session = exporter._operations.session
    session.context = attrs.evolve(session.context, hook=heard.append)
    server.on(OBJECT, cut(HALF), rest(HALF))
    job = exporter.resume_export("Sf7M9j")
    await job.download(tmp_path / "members.csv", progress=progress.append)

    (renewed,) = [event for event in heard if isinstance(event, LinkRenewed)]
    assert (1, HALF) == (renewed.links, renewed.received)
    assert len(GZIP) == progress[-1].received == progress[-1].total
    assert 1 == len(server.requests(STATUS))


async def test_a_refusal_without_end_is_not_read_to_its_end(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Its beginning tells why; the connection is given up with the rest."""
    endless = reply(500, b"<Error>" + b"x" * (1 << 20))
    server.on(OBJECT, endless, endless, whole())

    assert CSV == await saved_text(job, tmp_path)
    assert 3 == len({seen.connection for seen in server.requests(OBJECT)})


async def test_an_answer_without_end_is_given_up(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """No server can fill our memory."""
    server.on(STATUS, reply(200, b"{" * (1 << 20)))

    with pytest.raises(ConnectionFailedError, match="given up"):
        await exporter.resume_export("Sf7M9j").poll()


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "xn--" + "a" * 80])
async def test_a_link_to_a_name_that_no_host_has(
    server: FaultServer, job: ExportJob, tmp_path: Path, host: str
) -> None:
    """A link that cannot be followed is told as one."""
    server.on(FILE, redirect(f"https://{host}/object?{LINK}"))

    with pytest.raises(UnexpectedResponseError) as caught:
        await job.download(tmp_path / "members.csv")

    assert caught.value.token is not None
    assert [] == names_in(tmp_path)
