"""What a download that was killed, cancelled or given up left: who takes it up."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async.errors import (
    IncompleteDownloadError,
    MalformedFileError,
    StorageError,
)
from support.exporting import (
    ETAG,
    FILE,
    OBJECT,
    REQUEST,
    STATUS,
    names_in,
    rest,
    until,
    whole,
)
from support.fault_server import DROP, FaultServer, Reply, json_reply, redirect, reply
from support.killing import downloading, kill_in_the_middle, recorded
from support.ranged_store import RangedStore

TEXT = b'"user_id"\n' + b"".join(b'"%010d"\n' % number for number in range(100_000))
PACKED = gzip.compress(TEXT, 1, mtime=0)
BODIES = {"csv": TEXT, "csv.gz": PACKED}
WEAK = f"W/{ETAG}"

each_format = pytest.mark.parametrize("kind", BODIES)


def hanging(body: bytes, at: int, etag: str | None = ETAG) -> Reply:
    """Announce all of an object, send so much of it, and then nothing more."""
    return reply(200, body[:at], length=len(body), etag=etag, then="hang")


def ranges_asked(server: FaultServer) -> list[str | None]:
    """Tell what was asked of the store, in order; None for everything."""
    return [seen.headers.get("range") for seen in server.requests(OBJECT)]


def parts_in(folder: Path) -> list[str]:
    """List the unfinished files in a folder, without their records."""
    return [name for name in names_in(folder) if name.endswith(".part")]


def size_of(path: Path) -> int:
    """Tell the bytes of a file."""
    return path.stat().st_size


async def leave_a_part(server: FaultServer, job: ExportJob, target: Path) -> int:
    """Cancel a download in the middle; tell how many bytes of it are recorded."""
    body = BODIES[target.name.partition(".")[2]]
    server.on(OBJECT, hanging(body, len(body) // 2))
    seen: list[int] = []
    task = asyncio.ensure_future(
        job.download(target, progress=lambda event: seen.append(event.received))
    )
    before = len(server.requests(OBJECT))
    await until(lambda: len(server.requests(OBJECT)) > before)
    # The bytes are there, or some of them; any number will do.
    await until(lambda: any(map(size_of, target.parent.glob(".*.part"))))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    ((_, end),) = recorded(target.parent)
    return end


@pytest.mark.slow
@each_format
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
async def test_a_killed_download_goes_on(
    server: FaultServer, job: ExportJob, tmp_path: Path, kind: str, share: float
) -> None:
    """After kill -9, the next process asks for the rest, and has the same bytes."""
    body, target = BODIES[kind], tmp_path / f"members.{kind}"
    server.on(OBJECT, hanging(body, int(len(body) * share)))
    ((_, end),) = await kill_in_the_middle(server.url, target, at=1)
    server.on(OBJECT, rest(end, body))

    saved = await job.download(target)

    assert body == target.read_bytes()
    assert [None, f"bytes={end}-"] == ranges_asked(server)
    assert ETAG == server.requests(OBJECT)[-1].headers["if-match"]
    assert len(body) - end == saved.downloaded
    assert [target.name] == names_in(tmp_path)


@pytest.mark.slow
async def test_a_killed_download_is_counted_in_full(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """The kept bytes pass the filters again: rows are those of the whole file."""
    target, small = tmp_path / "members.csv", TEXT[: 10 + 13 * 5_000]
    server.on(OBJECT, hanging(small, 40_000))
    ((_, end),) = await kill_in_the_middle(server.url, target, at=40_000)
    server.on(OBJECT, rest(end, small))

    assert 5_000 == (await job.download(target)).rows


@pytest.fixture
async def store(server: FaultServer) -> AsyncIterator[RangedStore]:
    """A store that gives a connection two megabytes a second, and wants many."""
    async with RangedStore(TEXT * 25, rate=2e6) as store:
        server.on(FILE, redirect(store.url))
        yield store


@pytest.mark.slow
async def test_a_killed_download_with_holes_goes_on(
    server: FaultServer, store: RangedStore, job: ExportJob, tmp_path: Path
) -> None:
    """Of a file that came over several connections, only the holes are asked for."""
    target = tmp_path / "members.csv"
    found = await kill_in_the_middle(
        server.url, target, at=4_000_000, holes=2, connections=8
    )
    kept = sum(end - start for start, end in found)
    await until(lambda: not store.open)
    store.sent, store.ranges = 0, []
    store.set_rate(1e9)

    saved = await job.download(target)

    assert store.body == target.read_bytes()
    assert len(store.body) - kept == saved.downloaded == store.sent
    assert None not in store.ranges
    assert [target.name] == names_in(tmp_path)


@pytest.mark.slow
async def test_holes_of_another_object_are_not_filled(
    server: FaultServer, store: RangedStore, job: ExportJob, tmp_path: Path
) -> None:
    """An object that has another tag by now is fetched in full."""
    target = tmp_path / "members.csv"
    await kill_in_the_middle(server.url, target, at=4_000_000, holes=2, connections=8)
    store.body, store.etag = store.body.replace(b"1", b"7"), '"two"'
    store.set_rate(1e9)

    await job.download(target)

    assert store.body == target.read_bytes()
    assert [target.name] == names_in(tmp_path)


@each_format
async def test_a_cancelled_download_goes_on(
    server: FaultServer, job: ExportJob, tmp_path: Path, kind: str
) -> None:
    """What a cancelled call had on disk is not asked for again."""
    body, target = BODIES[kind], tmp_path / f"members.{kind}"
    end = await leave_a_part(server, job, target)
    server.on(OBJECT, rest(end, body))

    saved = await job.download(target)

    assert body == target.read_bytes()
    assert len(body) - end == saved.downloaded
    assert [target.name] == names_in(tmp_path)


@pytest.mark.posix
async def test_what_is_left_is_private(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A part that stays, and its record, can be read by their owner only."""
    await leave_a_part(server, job, tmp_path / "members.csv")

    assert [0o600, 0o600] == [
        stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()
    ]


async def test_a_download_that_was_given_up_goes_on(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Links that bring nothing more end a call, and not what it has."""
    target = tmp_path / "members.csv"
    server.on(
        OBJECT,
        reply(200, TEXT[:99_999], length=len(TEXT), etag=ETAG, then="close"),
        DROP,
    )
    with pytest.raises(IncompleteDownloadError):
        await job.download(target)
    server.on(OBJECT, rest(99_999, TEXT))

    saved = await job.download(target)

    assert len(TEXT) - 99_999 == saved.downloaded
    assert TEXT == target.read_bytes()


async def test_a_download_goes_on_when_the_disk_has_room_again(
    server: FaultServer, job: ExportJob, small_disk: Path
) -> None:
    """A full disk gives a little back, so that the rest is recorded and taken up."""
    target = small_disk / "members.csv"
    server.on(OBJECT, whole(TEXT[:100_000]))
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        await job.download(target)
    ((_, end),) = recorded(small_disk)
    server.on(OBJECT, rest(end, TEXT[:100_000]))
    grow = ["mount", "-o", "remount,size=1m", str(small_disk)]
    await asyncio.to_thread(subprocess.run, grow, check=True)

    await job.download(target)

    assert end > 0
    assert TEXT[:100_000] == target.read_bytes()
    assert [target.name] == names_in(small_disk)


async def test_a_part_that_is_whole_is_confirmed_by_the_store(
    server: FaultServer, job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right before its rename, a file costs one byte: does the store know it?"""
    target = tmp_path / "members.csv"
    server.on(OBJECT, whole(TEXT))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError):
            await job.download(target)
    server.on(OBJECT, rest(len(TEXT) - 1, TEXT))

    saved = await job.download(target)

    assert 1 == saved.downloaded
    assert TEXT == target.read_bytes()


def refuse(_: int) -> None:
    """Fail as a disk does."""
    raise OSError(5, "Input/output error")


async def test_another_object_is_fetched_in_full(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A store that has another object by now refuses the rest; nothing is mixed."""
    target, other = tmp_path / "members.csv", TEXT.replace(b"1", b"7")
    await leave_a_part(server, job, target)
    server.on(OBJECT, reply(412), whole(other, '"two"'))

    await job.download(target)

    assert other == target.read_bytes()
    assert [target.name] == names_in(tmp_path)


async def test_another_export_takes_nothing_up(
    server: FaultServer, exporter: CohortsClient, job: ExportJob, tmp_path: Path
) -> None:
    """A part of another request is removed, even if the store's tag is the same."""
    target = tmp_path / "members.csv"
    await leave_a_part(server, job, target)
    done = {"request_id": "other", "async_status": "JOB COMPLETED"}
    server.on(STATUS.replace(REQUEST, "other"), json_reply(done))
    server.on(FILE.replace(REQUEST, "other"), redirect(f"{server.url}{OBJECT}"))
    server.on(OBJECT, whole(TEXT))

    await exporter.resume_export("other").download(target)

    assert [None, None] == ranges_asked(server)
    assert [target.name] == names_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        pytest.param("members.csv", hanging(TEXT, 600_000, WEAK), id="weak tag"),
        pytest.param("members.csv", hanging(TEXT, 600_000, None), id="no tag"),
        pytest.param("members.csv", hanging(PACKED, 90_000), id="inflated"),
        pytest.param("members.csv.gz", hanging(TEXT, 600_000), id="compressed here"),
    ],
)
async def test_what_nobody_could_go_on_with_is_removed(
    server: FaultServer,
    job: ExportJob,
    tmp_path: Path,
    name: str,
    answer: Reply,
) -> None:
    """Without a strong tag, or with other bytes than the store's, nothing stays."""
    server.on(OBJECT, answer)
    task = asyncio.ensure_future(job.download(tmp_path / name))
    await until(lambda: len(server.requests(OBJECT)) == 1)
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])

    assert [] == names_in(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("body", [TEXT, PACKED], ids=["record", "none"])
async def test_what_was_killed_is_removed_by_the_next(
    server: FaultServer, job: ExportJob, tmp_path: Path, body: bytes
) -> None:
    """A part that cannot be taken up is gone after the next download to its target."""
    target = tmp_path / "members.csv"
    server.on(OBJECT, hanging(body, len(body) // 2, None))
    async with downloading(server.url, target):
        await until(
            lambda: len(server.requests(OBJECT)) == 1 and parts_in(tmp_path) != []
        )
    assert [] != names_in(tmp_path)
    server.on(OBJECT, whole(body))

    await job.download(target)

    assert TEXT == target.read_bytes()
    assert [target.name] == names_in(tmp_path)


async def test_a_bad_file_is_not_taken_up(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Bytes that cannot be a file of members are removed: they would fail again."""
    bad = PACKED[:-9] + b"!" + PACKED[-8:]
    server.on(OBJECT, whole(bad))

    with pytest.raises(MalformedFileError):
        await job.download(tmp_path / "members.csv.gz")

    assert [] == names_in(tmp_path)


@pytest.mark.posix
@pytest.mark.slow
@pytest.mark.parametrize("stop", [None, signal.SIGSTOP], ids=["living", "frozen"])
async def test_the_part_of_a_writer_is_never_touched(
    server: FaultServer, job: ExportJob, tmp_path: Path, stop: signal.Signals | None
) -> None:
    """Two processes, one target: the one that is stuck keeps its part, and its lock."""
    target = tmp_path / "members.csv"
    server.on(OBJECT, hanging(TEXT, 600_000), whole(TEXT))

    async with downloading(server.url, target) as process:
        await until(lambda: recorded(tmp_path) != [])
        if stop is not None:
            process.send_signal(stop)
        before = parts_in(tmp_path)
        saved = await job.download(target)

        assert len(TEXT) == saved.downloaded
        assert before == parts_in(tmp_path)


@pytest.mark.slow
async def test_two_writers_of_one_target_both_end(
    server: FaultServer, store: RangedStore, job: ExportJob, tmp_path: Path
) -> None:
    """Two processes at once write one whole file, and leave nothing else."""
    target = tmp_path / "members.csv"
    store.set_rate(20e6)

    async with downloading(server.url, target) as process:
        await until(lambda: parts_in(tmp_path) != [])
        await job.download(target)
        assert 0 == await process.wait()

    assert store.body == target.read_bytes()
    assert [target.name] == names_in(tmp_path)


async def test_a_part_that_lost_bytes_is_not_taken_up(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A part that is shorter than its record says is removed."""
    target = tmp_path / "members.csv"
    await leave_a_part(server, job, target)
    (part,) = parts_in(tmp_path)
    os.truncate(tmp_path / part, 1_000)
    server.on(OBJECT, whole(TEXT))

    saved = await job.download(target)

    assert len(TEXT) == saved.downloaded
    assert TEXT == target.read_bytes()
    assert [target.name] == names_in(tmp_path)


@each_format
async def test_a_part_that_was_changed_is_not_taken_up(
    server: FaultServer, job: ExportJob, tmp_path: Path, kind: str
) -> None:
    """A part of other bytes than its record says is removed."""
    target = tmp_path / f"members.{kind}"
    await leave_a_part(server, job, target)
    (part,) = (tmp_path / name for name in parts_in(tmp_path))
    data = bytearray(part.read_bytes())
    data[500] ^= 1
    part.write_bytes(data)
    server.on(OBJECT, whole(BODIES[kind]))

    await job.download(target)

    assert BODIES[kind] == target.read_bytes()
    assert [target.name] == names_in(tmp_path)


async def test_a_part_with_more_than_its_record_is_cut(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Bytes that were written and not recorded are no part of the file."""
    target = tmp_path / "members.csv"
    end = await leave_a_part(server, job, target)
    (part,) = (tmp_path / name for name in parts_in(tmp_path))
    with part.open("ab") as file:
        file.write(b"?" * 2 * len(TEXT))
    server.on(OBJECT, rest(end, TEXT))

    await job.download(target)

    assert TEXT == target.read_bytes()


@pytest.mark.posix
@pytest.mark.parametrize("mode", [0o644, 0o620])
async def test_a_part_that_others_may_touch_is_not_taken_up(
    server: FaultServer, job: ExportJob, tmp_path: Path, mode: int
) -> None:
    """Who may write in the folder must not put bytes under our names."""
    target = tmp_path / "members.csv"
    await leave_a_part(server, job, target)
    (part,) = parts_in(tmp_path)
    (tmp_path / part).chmod(mode)
    server.on(OBJECT, whole(TEXT))

    assert len(TEXT) == (await job.download(target)).downloaded
    assert [target.name] == names_in(tmp_path)


@pytest.mark.posix
async def test_a_file_of_a_similar_name_is_left_alone(
    job: ExportJob, tmp_path: Path
) -> None:
    """Only names that we give are removed: not those of other targets, and no links."""
    others = [
        ".members.csv.part",
        ".members.csv.12345678.part.gz",
        ".members.csv.1234567g.part",
        ".more.csv.12345678.part",
        "members.csv.12345678.part",
    ]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".members.csv.12345678.part").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / ".members.csv.12345679.part")

    await job.download(tmp_path / "members.csv")

    assert {*others, ".members.csv.12345678.part", ".members.csv.12345679.part"} < set(
        names_in(tmp_path)
    )


async def test_long_names_do_not_meet(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Two targets whose long names begin alike have parts of their own."""
    first, second = (tmp_path / f"{'x' * 60}{end}.csv" for end in "ab")
    server.on(OBJECT, hanging(TEXT, 600_000), whole(TEXT))
    task = asyncio.ensure_future(job.download(first))
    await until(lambda: len(server.requests(OBJECT)) == 1)
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    before = parts_in(tmp_path)

    await job.download(second)

    assert 1 == len(before)
    assert before == parts_in(tmp_path)


async def test_a_part_that_somebody_replaced_is_not_published(
    server: FaultServer, job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who puts a file of theirs under the hidden name does not get the target's."""
    target = tmp_path / "members.csv"
    target.write_bytes(b"yesterday's")
    server.on(OBJECT, whole(TEXT))
    real = os.fsync

    def replace(file: int) -> None:
        real(file)
        for part in tmp_path.glob(".*.part"):
            part.unlink()
            part.write_bytes(b"theirs")

    monkeypatch.setattr(os, "fsync", replace)
    with pytest.raises(StorageError, match="somebody replaced"):
        await job.download(target)

    assert b"yesterday's" == target.read_bytes()
