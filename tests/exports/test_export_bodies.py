"""What a file may consist of, and what it may not: over real sockets."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async.errors import MalformedFileError
from support.exporting import (
    CSV,
    FILE,
    GZIP,
    OBJECT,
    names_in,
    whole,
)
from support.fault_server import FaultServer, Reply, reply

HEADER = b'"amplitude_id","user_id"\n'
ONE_ROW = HEADER + b'"356896327775","ann"'
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
JSON = b'{"error": {"http_code": 500}}'


def undelimited(body: bytes) -> Reply:
    """Write an answer that says its end by closing the connection only."""
    return reply(200, body, content_length=None, then="close", connection="close")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (whole(GZIP, content_encoding="gzip"), CSV),
        (whole(GZIP, content_encoding="x-gzip"), CSV),
        (whole(GZIP), CSV),
        (whole(CSV), CSV),
        (whole(CSV, content_encoding="identity"), CSV),
        (whole(CSV, content_encoding="gzip"), CSV),
        (whole(gzip.compress(CSV[:99]) + gzip.compress(CSV[99:])), CSV),
        (whole(gzip.compress(b"") + gzip.compress(CSV)), CSV),
        (whole(gzip.compress(CSV, 0)), CSV),
        (undelimited(GZIP), CSV),
        (whole(HEADER), HEADER),
        (whole(gzip.compress(HEADER)), HEADER),
        (whole(gzip.compress(HEADER[:-1])), HEADER[:-1]),
        (whole(ONE_ROW), ONE_ROW),
        (whole(gzip.compress(ONE_ROW)), ONE_ROW),
        (whole(b"user_id"), b"user_id"),
        (whole(CSV, content_type="text/html"), CSV),
    ],
)
@pytest.mark.parametrize("inline", [False, True])
async def test_what_is_served_comes_as_text(
    server: FaultServer,
    job: ExportJob,
    *,
    tmp_path: Path,
    answer: Reply,
    text: bytes,
    inline: bool,
) -> None:
    """The bytes tell whether they are compressed, whatever the headers say."""
    server.on(FILE if inline else OBJECT, answer)
    saved = await job.download(tmp_path / "members.csv")

    assert text == saved.path.read_bytes()
    assert len(text) == saved.size
    assert ["members.csv"] == names_in(tmp_path)


@pytest.mark.parametrize("answer", [whole(GZIP), undelimited(GZIP)])
async def test_compressed_bytes_are_kept_as_served(
    server: FaultServer, job: ExportJob, tmp_path: Path, answer: Reply
) -> None:
    """A target that is compressed gets the very bytes that came."""
    server.on(OBJECT, answer)
    saved = await job.download(tmp_path / "members.csv.gz")

    assert GZIP == saved.path.read_bytes()
    assert len(GZIP) == saved.size == saved.downloaded


@pytest.mark.parametrize("text", [CSV, HEADER, ONE_ROW])
async def test_plain_text_is_compressed_for_a_compressed_target(
    server: FaultServer, job: ExportJob, tmp_path: Path, text: bytes
) -> None:
    """What is served plain is compressed here when the name says so."""
    server.on(OBJECT, whole(text))
    saved = await job.download(tmp_path / "members.csv.gz")

    assert text == gzip.decompress(saved.path.read_bytes())


def flipped(at: int) -> bytes:
    """Return the compressed file with one wrong bit."""
    body = bytearray(GZIP)
    body[at] ^= 0x10

    return bytes(body)


BAD = [
    pytest.param(whole(GZIP[:-1]), "ends before", id="torn trailer"),
    pytest.param(whole(GZIP[: len(GZIP) // 2]), "ends before", id="torn"),
    pytest.param(whole(GZIP[:5]), "ends before", id="torn head"),
    pytest.param(undelimited(GZIP[:-9]), "ends before", id="torn and undelimited"),
    pytest.param(whole(flipped(len(GZIP) // 2)), "damaged", id="wrong bit"),
    pytest.param(whole(flipped(-6)), "damaged", id="wrong check sum"),
    pytest.param(whole(flipped(-1)), "damaged", id="wrong length"),
    pytest.param(whole(GZIP + b"garbage"), "damaged", id="garbage behind"),
    pytest.param(whole(b""), "is empty", id="empty"),
    pytest.param(whole(gzip.compress(b"")), "is empty", id="empty, compressed"),
    pytest.param(undelimited(CSV), "without a length", id="plain and undelimited"),
    pytest.param(undelimited(b""), "without a length|is empty", id="nothing at all"),
    pytest.param(whole(PAGE), "web page", id="a page"),
    pytest.param(whole(b"\r\n\t " + PAGE), "web page", id="a page below empty lines"),
    pytest.param(whole(b"\xef\xbb\xbf" + PAGE), "web page", id="a page with a mark"),
    pytest.param(whole(gzip.compress(PAGE)), "web page", id="a page, compressed"),
    pytest.param(whole(JSON), "JSON", id="JSON"),
    pytest.param(whole(b"\n[1]"), "JSON", id="an array"),
    pytest.param(
        whole(zlib.compress(CSV), content_encoding="deflate"), "deflate", id="deflate"
    ),
    pytest.param(whole(b"\x1b\x10", content_encoding="br"), "br", id="brotli"),
    pytest.param(whole(GZIP, content_encoding="gzip, br"), "br", id="twice"),
]


@pytest.mark.parametrize(("answer", "reason"), BAD)
@pytest.mark.parametrize("name", ["members.csv", "members.csv.gz"])
async def test_what_is_no_file_of_members_gets_no_name(
    server: FaultServer,
    job: ExportJob,
    *,
    tmp_path: Path,
    answer: Reply,
    reason: str,
    name: str,
) -> None:
    """
    A file that is torn, damaged, or another thing: an error with a token, and no file.

    What was at the target before stays there.
    """
    (tmp_path / name).write_bytes(b"yesterday's")
    server.on(OBJECT, answer)

    with pytest.raises(MalformedFileError, match=reason) as caught:
        await job.download(tmp_path / name)

    assert job.token == caught.value.token
    assert job.request_id == caught.value.request_id
    assert [name] == names_in(tmp_path)
    assert b"yesterday's" == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(("answer", "reason"), BAD)
async def test_what_is_no_file_of_members_has_no_members(
    server: FaultServer, job: ExportJob, answer: Reply, reason: str
) -> None:
    """The same holds for a stream: it ends with the error, and never quietly."""
    server.on(OBJECT, answer)

    with pytest.raises(MalformedFileError) as caught:
        async with job.members() as stream:
            async for _ in stream.batches():
                pass

    assert job.token == caught.value.token


async def test_a_page_in_the_place_of_the_file(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """A login page that the service itself answers with is no cohort either."""
    server.on(FILE, reply(200, PAGE, content_type="text/html"))

    with pytest.raises(MalformedFileError, match="web page"):
        await exporter.export("26umsb5", tmp_path / "members.csv")
    assert [] == names_in(tmp_path)


async def test_a_bomb_stays_small(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A file that inflates a thousandfold is saved, a piece at a time."""
    row = b'"1",""\n'
    text = HEADER + row * (4 << 20)
    server.on(OBJECT, whole(gzip.compress(text, 9)))
    saved = await job.download(tmp_path / "members.csv")

    assert len(text) == saved.size


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize("is_gzip", [False, True])
async def test_what_is_no_file_of_members_keeps_its_token(
    server: FaultServer, job: ExportJob, tmp_path: Path, suffix: str, is_gzip: bool
) -> None:
    """A proxy's text with a status of 200 is no cohort; the export can be resumed."""
    text = b"upstream connect error or disconnect/reset before headers"
    server.on(OBJECT, whole(gzip.compress(text) if is_gzip else text))

    with pytest.raises(MalformedFileError, match="no file of members") as caught:
        await job.download(tmp_path / f"members.{suffix}")

    assert job.token == caught.value.token
    assert [] == names_in(tmp_path)
