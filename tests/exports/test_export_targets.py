"""Where a file may go: said before anything is spent, and kept whatever happens."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async._io.sinks.target import checked_target
from amplitude_cohorts_async.errors import InvalidInputError, StorageError
from amplitude_cohorts_async.testing import CohortsEmulator
from support.exporting import CSV, OBJECT, cut, names_in, whole
from support.fault_server import DROP, FaultServer
from support.requirements import IS_ROOT

COHORT = "26umsb5"


def bad_targets(folder: Path) -> Iterator[tuple[object, str | None, str]]:
    """List targets that cannot be, and what is said of each."""
    (folder / "there").mkdir()
    (folder / "there.csv").mkdir()
    (folder / "file").touch()
    os.mkfifo(folder / "pipe.csv")
    (folder / "link.csv").symlink_to("pipe.csv")
    yield folder, None, "does not say its format"
    yield folder, "csv", "is a directory"
    yield folder / "there.csv", None, "is a directory"
    yield folder / "none" / "x.csv", None, "make it first"
    yield folder / "file" / "x.csv", None, "no directory"
    yield folder / "members.xlsx", None, "does not say its format"
    yield folder / "members", None, "does not say its format"
    yield folder / "members.gz", None, "does not say its format"
    yield folder / "members.csv", "xlsx", "is no format"
    yield folder / "pipe.csv", None, "no regular file"
    yield folder / "link.csv", None, "no regular file"
    yield "/dev/null", "csv", "no regular file"
    yield folder / "a\0b.csv", None, "a.*b"
    yield folder / f"{'x' * 252}.csv", None, "too long"
    yield "", None, "format"
    yield 7, "csv", "path"
    yield None, "csv", "path"
    yield "/proc/members.csv", None, "/proc"


@pytest.mark.posix
@pytest.mark.parametrize("index", range(18))
async def test_a_bad_target_spends_nothing(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path, index: int
) -> None:
    """A target that cannot be is refused before the first byte, with what to do."""
    to, kind, reason = list(bad_targets(tmp_path))[index]
    before = names_in(tmp_path)

    with pytest.raises(InvalidInputError, match=reason):
        await exporter.export(COHORT, to, format=kind)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=reason):
        await exporter.resume_export("Sf7M9j").download(to, format=kind)  # type: ignore[arg-type]

    assert [] == server.seen
    assert before == names_in(tmp_path)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
@pytest.mark.parametrize("name", ["x.csv", "hidden/x.csv", "hidden/in/x.csv"])
def test_a_folder_of_somebody_else(name: str) -> None:
    """A folder that may not be written, or not even looked into, is refused as such."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "hidden").mkdir(mode=0o700)
        os.seteuid(65534)

        try:
            with pytest.raises(InvalidInputError, match="Permission denied"):
                checked_target(f"{folder}/{name}", None)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("timeout", [-1.0, float("inf"), float("nan")])
async def test_a_bad_timeout_spends_nothing(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path, timeout: float
) -> None:
    """A wait that is not finite is refused before the export is requested."""
    with pytest.raises(InvalidInputError, match="finite"):
        await exporter.export(COHORT, tmp_path / "members.csv", timeout=timeout)

    assert [] == server.seen


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("members.csv", None),
        ("MEMBERS.CSV", None),
        ("members.txt", "csv"),
        ("members", "CSV"),
        ("members.csv", ".csv"),
        (f"{'x' * 230}.csv", None),
        ("ü members+.csv", None),
    ],
)
async def test_a_good_target(
    job: ExportJob, tmp_path: Path, name: str, kind: str | None
) -> None:
    """The name says the format, or the argument does; the result tells the path."""
    saved = await job.download(str(tmp_path / name), format=kind)

    assert tmp_path / name == saved.path
    assert CSV == saved.path.read_bytes()
    assert [name] == names_in(tmp_path)


async def test_a_relative_target(
    job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name goes to the working directory."""
    monkeypatch.chdir(tmp_path)
    saved = await job.download("members.csv")

    assert CSV == (tmp_path / saved.path).read_bytes()


@pytest.mark.posix
async def test_a_link_is_written_through(job: ExportJob, tmp_path: Path) -> None:
    """The result names the link; what it leads to is the file, with its old mode."""
    (tmp_path / "far.csv").touch(mode=0o600)
    (tmp_path / "near.csv").symlink_to("far.csv")
    saved = await job.download(tmp_path / "near.csv")

    assert tmp_path / "near.csv" == saved.path
    assert saved.path.is_symlink()
    assert CSV == (tmp_path / "far.csv").read_bytes()
    assert 0o600 == stat.S_IMODE(saved.path.stat().st_mode)
    assert await asyncio.to_thread(saved.file.is_intact)


@pytest.mark.posix
async def test_a_link_that_leads_elsewhere_is_no_longer_the_file(
    job: ExportJob, tmp_path: Path
) -> None:
    """What a link led to when the file was saved does not count."""
    (tmp_path / "near.csv").symlink_to("far.csv")
    saved = await job.download(tmp_path / "near.csv")
    (tmp_path / "near.csv").unlink()
    (tmp_path / "near.csv").symlink_to("other.csv")

    assert not await asyncio.to_thread(saved.file.is_intact)


async def test_a_target_is_replaced_when_the_new_one_is_whole(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """Whoever reads the target sees the old file or the new one, never a part."""
    target = tmp_path / "members.csv"
    target.write_bytes(b"yesterday's")
    server.on(OBJECT, cut(999), DROP, whole())
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(target.read_bytes())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        await job.download(target)
        over.set()

    looking.result()
    assert b"yesterday's" in seen <= {b"yesterday's", CSV}
    assert CSV == target.read_bytes()


async def test_progress_that_raises_ends_the_download(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A caller's own exception comes out as it is; a part without a tag is removed."""
    server.on(OBJECT, whole(CSV * 20, etag=None))

    def tell(_: object) -> None:
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        await job.download(tmp_path / "members.csv", progress=tell)

    assert [] == names_in(tmp_path)


async def test_a_full_disk(
    server: FaultServer, job: ExportJob, small_disk: Path, tmp_path: Path
) -> None:
    """A full disk is an error with a token; the part is removed, the old file stays."""
    target = small_disk / "members.csv"
    target.write_bytes(b"yesterday's")

    with pytest.raises(StorageError) as caught:
        await job.download(target)

    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert job.token == caught.value.token
    assert ["members.csv"] == names_in(small_disk)
    assert b"yesterday's" == target.read_bytes()

    saved = await job.download(tmp_path / "members.csv")
    assert CSV == saved.path.read_bytes()


@pytest.mark.posix
async def test_a_file_that_may_not_grow(
    job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any refusal of the disk in the middle is told the same way, also without root."""
    import resource  # noqa: PLC0415  not on every system
    import signal  # noqa: PLC0415

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))

    try:
        with pytest.raises(StorageError) as caught:
            await job.download(tmp_path / "members.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert job.token == caught.value.token
    assert [] == names_in(tmp_path)


async def test_a_target_that_is_refused_leaves_the_token(
    job: ExportJob, tmp_path: Path
) -> None:
    """The export was spent, so the error of its download names it."""
    with pytest.raises(InvalidInputError) as caught:
        await job.download(tmp_path / "members.txt")

    assert job.token == caught.value.token


async def test_a_folder_that_goes_away(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """A folder that is removed while the job runs is told as the disk's refusal."""
    folder = tmp_path / "gone"
    folder.mkdir()
    export = job._export
    wait = export.wait

    async def remove_then_wait(timeout: float) -> None:
        await asyncio.to_thread(folder.rmdir)
        await wait(timeout)

    export.wait = remove_then_wait  # type: ignore[assignment, method-assign]

    with pytest.raises(StorageError) as caught:
        await job.download(folder / "members.csv")

    assert job.token == caught.value.token


async def test_progress_that_raises_keeps_the_token(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """The caller's own error ends the download; its note goes on with the export."""
    emulator.add_cohort(COHORT, members=["ann"])

    def progress(_: object) -> None:
        raise LookupError("bar")

    with pytest.raises(LookupError, match="bar") as raised:
        await client.export(COHORT, tmp_path / "members.csv", progress=progress)

    (note,) = raised.value.__notes__
    token = note.partition(": ")[2]
    await client.resume_export(token).download(tmp_path / "members.csv")

    assert 1 == emulator.spent


async def test_progress_is_not_awaited(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """An async function is refused before anything is spent, its result afterwards."""
    emulator.add_cohort(COHORT, members=["ann"])

    async def progress(_: object) -> None:
        """Never run."""

    with pytest.raises(InvalidInputError, match="async function"):
        await client.export(COHORT, tmp_path / "a.csv", progress=progress)  # type: ignore[arg-type]

    def forgetful(event: object) -> object:
        return progress(event)

    assert 0 == emulator.spent

    with pytest.raises(InvalidInputError, match="awaitable") as raised:
        await client.export(COHORT, tmp_path / "a.csv", progress=forgetful)  # type: ignore[arg-type]

    assert raised.value.token is not None
