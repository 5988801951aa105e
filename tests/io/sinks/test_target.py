"""Where a file may go, and how it gets its name."""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._io.sinks.filters import (
    Count,
    Filter,
    Inflate,
    PassThrough,
    TextCheck,
)
from amplitude_cohorts_async._io.sinks.part_file import PartFile
from amplitude_cohorts_async._io.sinks.target import (
    FORMATS,
    Chain,
    Format,
    Options,
    checked_target,
)
from amplitude_cohorts_async.errors import InvalidInputError, MissingExtraError
from amplitude_cohorts_async.testing import CohortsEmulator
from support.exporting import names_in
from support.requirements import IS_ROOT


@pytest.mark.parametrize(
    ("name", "format_", "expected"),
    [
        ("a.csv", None, "csv"),
        ("a.CSV", None, "csv"),
        ("a.csv.gz", None, "csv.gz"),
        ("a.parquet", None, "parquet"),
        ("a.txt", "csv", "csv"),
        ("a.csv", "csv.gz", "csv.gz"),
        ("a", ".PARQUET", "parquet"),
        (".csv", None, "csv"),
    ],
)
def test_formats(tmp_path: Path, name: str, format_: str | None, expected: str) -> None:
    """The name tells the format, unless the caller does."""
    if "parquet" == expected:
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

    target = checked_target(tmp_path / name, format_)

    assert (tmp_path / name, expected) == (target.path, target.format.suffix)
    assert [] == names_in(tmp_path)


def opened(target: Path, mode: int | None = None) -> PartFile:
    """Check a target, and open a part for it."""
    part = PartFile(checked_target(target, "csv").place, mode=mode)
    part.open()

    return part


def linked(folder: Path, name: str, to: str | Path) -> Path:
    """Make a link in a folder."""
    (folder / name).symlink_to(to)

    return folder / name


@pytest.mark.posix
def test_a_link_to_a_file_is_written_through(tmp_path: Path) -> None:
    """The link stays; the file it leads to, over another link here, is replaced."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.csv").write_bytes(b"old")
    near = linked(tmp_path, "near.csv", "far/link.csv")
    linked(tmp_path / "far", "link.csv", "a.csv")

    part = opened(near)
    part.write(b"new")
    assert b"old" == near.read_bytes()
    part.publish()

    assert b"new" == (tmp_path / "far" / "a.csv").read_bytes()
    assert Path("far/link.csv") == near.readlink()
    assert ["a.csv", "link.csv"] == names_in(tmp_path / "far")


@pytest.mark.posix
def test_a_link_to_the_folder(tmp_path: Path) -> None:
    """The file is written by the name it was given; without links it has one more."""
    (tmp_path / "far").mkdir()
    folder = linked(tmp_path, "near", "far")

    target = checked_target(folder / "a.csv", None)

    assert folder / "a.csv" == target.path == target.place
    assert tmp_path.resolve() / "far" / "a.csv" == target.resolved


@pytest.mark.posix
def test_a_link_that_leads_nowhere_yet(tmp_path: Path) -> None:
    """
    The file that a dangling link names is made, as a shell's ">" would do.
    """
    link = linked(tmp_path, "link.csv", "made.csv")
    assert link == checked_target(link, None).path

    part = opened(link)
    part.publish()

    assert (tmp_path / "made.csv").is_file()
    assert link.is_symlink()


@pytest.mark.posix
@pytest.mark.parametrize(
    ("to", "reason"),
    [
        (os.devnull, "no regular file"),
        ("pipe", "no regular file"),
        ("socket", "no regular file"),
        ("folder", "is a directory"),
        ("none/a.csv", "make it first"),
        ("link.csv", "symbolic links"),
    ],
)
def test_a_link_to_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, reason: str
) -> None:
    """What a link leads to is looked at as if it had been named itself."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    # A socket's address has room for 107 bytes, fewer than some checkouts' paths.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    link = linked(tmp_path, "link.csv", to)

    with pytest.raises(InvalidInputError, match=reason):
        checked_target(link, None)


def test_a_folder_that_cannot_be_listed_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new name may then be lost in a power cut; that is no failure."""
    open_ = os.open

    def refuse_folders(path: str | Path, *args: int) -> int:
        """Open files only."""
        if Path(path).is_dir():
            raise PermissionError(path)
        return open_(path, *args)

    part = opened(tmp_path / "a.csv")
    monkeypatch.setattr(os, "open", refuse_folders)
    part.publish()

    assert ["a.csv"] == names_in(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("is_pipe", [True, False])
def test_an_open_file_without_a_name_is_refused(tmp_path: Path, is_pipe: bool) -> None:
    """/dev/stdout leads to a pipe, or to a file that was removed: to no name."""
    if is_pipe:
        reader, file = os.pipe()
        os.close(reader)
    else:
        file = os.open(tmp_path / "gone.csv", os.O_CREAT | os.O_WRONLY)
        (tmp_path / "gone.csv").unlink()

    try:
        with pytest.raises(InvalidInputError, match="no regular file"):
            checked_target(f"/proc/self/fd/{file}", "csv")
    finally:
        os.close(file)

    assert [] == names_in(tmp_path)


def test_a_part_that_was_never_opened(tmp_path: Path) -> None:
    """There is nothing to discard, and nothing to write to."""
    part = PartFile(tmp_path / "a.csv")
    part.discard()

    with pytest.raises(OSError, match="Bad file descriptor"):
        part.write(b"x")
    assert [] == names_in(tmp_path)


def test_a_part_begins_anew(tmp_path: Path) -> None:
    """What is opened again is empty, whatever was written to it."""
    part = opened(tmp_path / "a.csv")
    part.write(b"longer")
    part.open()
    part.write(b"new")
    part.publish()

    assert b"new" == (tmp_path / "a.csv").read_bytes()
    assert ["a.csv"] == names_in(tmp_path)


@pytest.mark.posix
def test_what_became_of_the_target_meanwhile(tmp_path: Path) -> None:
    """A pipe that was put at the name while the file grew is not replaced."""
    part = opened(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "a.csv")

    with pytest.raises(FileExistsError, match="no regular file"):
        part.publish()
    part.discard()

    assert (tmp_path / "a.csv").is_fifo()
    assert ["a.csv"] == names_in(tmp_path)


def test_a_part_gets_its_name_at_the_end(tmp_path: Path) -> None:
    """
    A part is hidden, and a file of its own; finishing puts it in the old one's place.
    """
    target = tmp_path / "a.csv"
    target.write_bytes(b"old")
    one, other = opened(target), opened(target)
    one.write(b"ne")
    one.write(memoryview(b"w"))
    other.write(b"other")

    assert b"old" == target.read_bytes()
    assert all(name.startswith(".") for name in names_in(tmp_path) if name != "a.csv")
    assert 3 == len(names_in(tmp_path))

    one.publish()
    assert b"new" == target.read_bytes()
    other.discard()
    other.discard()
    one.discard()
    assert b"new" == target.read_bytes()
    assert ["a.csv"] == names_in(tmp_path)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask, and set it back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def write_to(target: Path, mode: int | None = None) -> None:
    """Put a file at a target."""
    part = opened(target, mode)
    part.write(b"new")
    part.publish()


@pytest.mark.posix
@pytest.mark.parametrize(
    ("mask", "mode", "expected"),
    [
        (0o022, None, 0o644),
        (0o077, None, 0o600),
        (0o002, None, 0o664),
        (0o777, None, 0o000),
        (0o022, 0o640, 0o640),
        (0o077, 0o664, 0o664),
        (0o000, 0o400, 0o400),
    ],
)
def test_the_mode_of_a_new_file(
    tmp_path: Path,
    umask: Callable[[int], int],
    mask: int,
    mode: int | None,
    expected: int,
) -> None:
    """As the umask says, or exactly the one that was asked for."""
    umask(mask)
    write_to(tmp_path / "a.csv", mode)

    assert expected == mode_of(tmp_path / "a.csv")
    assert ["a.csv"] == names_in(tmp_path)


@pytest.mark.posix
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o444, 0o666])
@pytest.mark.parametrize("mode", [None, 0o644])
def test_what_is_replaced_keeps_its_mode(
    tmp_path: Path, kept: int, mode: int | None
) -> None:
    """
    Who could not read the old file cannot read the new one, a link to it included.
    """
    (tmp_path / "a.csv").touch()
    (tmp_path / "a.csv").chmod(kept)
    write_to(linked(tmp_path, "link.csv", "a.csv"), mode)

    assert kept == mode_of(tmp_path / "a.csv")


@pytest.mark.posix
def test_a_part_is_for_its_owner_only(
    tmp_path: Path, umask: Callable[[int], int]
) -> None:
    """An unfinished file of personal data is private, whatever the finished one is."""
    umask(0)
    part = opened(tmp_path / "a.csv", 0o666)
    modes = [mode_of(path) for path in tmp_path.iterdir()]
    part.discard()

    assert [0o600] == modes


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")
def test_what_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    """Owner and group stay where the user may set them."""
    (tmp_path / "a.csv").touch()
    os.chown(tmp_path / "a.csv", 12, 34)
    write_to(tmp_path / "a.csv")
    found = (tmp_path / "a.csv").stat()

    assert (12, 34) == (found.st_uid, found.st_gid)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("mode", "expected"), [(0o660, 0o600), (0o664, 0o644), (0o606, 0o606)]
)
def test_a_group_that_cannot_be_kept(
    tmp_path: Path, umask: Callable[[int], int], mode: int, expected: int
) -> None:
    """Another group than the old file's may do no more than everybody."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        target = Path(folder) / "a.csv"
        target.touch()
        target.chmod(mode)
        os.chown(target, 0, 34)
        os.seteuid(65534)

        try:
            write_to(target)
        finally:
            os.seteuid(0)

        assert 65534 == target.stat().st_uid
        assert expected == mode_of(target)


@pytest.mark.skipif(sys.platform != "linux", reason="lists of Linux")
def test_what_is_replaced_keeps_its_access_list(tmp_path: Path) -> None:
    """Where a list stands beside the mode, the mode alone would let others in."""
    name = "system.posix_acl_access"
    (tmp_path / "a.csv").touch()
    # The owner may write, user 12 and the mask may read, nobody else may.
    entries = [(1, 6, -1), (2, 4, 12), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHi", *entry) for entry in entries
    )

    try:
        os.setxattr(tmp_path / "a.csv", name, acl)
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")

    write_to(tmp_path / "a.csv")

    assert acl == os.getxattr(tmp_path / "a.csv", name)
    assert 0o640 == mode_of(tmp_path / "a.csv")


def test_a_long_name_has_a_part(tmp_path: Path) -> None:
    """A name as long as the disk allows is not too long for its part."""
    target = tmp_path / f"{'ü' * 125}.csv"
    part = opened(target)
    part.publish()

    assert [target.name] == names_in(tmp_path)


class Loud(PassThrough):
    """Makes text upper case."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next text."""
        super().write(bytes(data).upper())


def to_loud(file: Filter, is_gzip: bool, options: Options) -> Chain:
    """Build the filters of the toy."""
    counter = Count(Loud(file))
    text = TextCheck(counter, has_header=options.has_header)

    return Chain(first=Inflate(text) if is_gzip else text, text=text, counter=counter)


def missing() -> None:
    """Lack a package."""
    raise MissingExtraError("Loudness", extra="loud")


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a toy of a format."""
    monkeypatch.setitem(FORMATS, "loud", Format(suffix="loud", build_filters=to_loud))


@pytest.mark.usefixtures("loud")
@pytest.mark.parametrize(("name", "format_"), [("c1.loud", None), ("c1.txt", "loud")])
async def test_a_new_format_is_a_target(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    name: str,
    format_: str | None,
) -> None:
    """Its name or `format=` chooses it, its filters make the file and count."""
    emulator.add_cohort("c1", members=["ann", "bob"])

    saved = await client.export("c1", tmp_path / name, format=format_)

    assert "ANN" in saved.path.read_text()
    assert 2 == saved.rows


@pytest.mark.usefixtures("loud")
async def test_a_new_format_is_one_for_many(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Files of a run are named after it."""
    emulator.add_cohort("c1", members=["ann"])

    async for _ in client.export_many(["c1"], tmp_path, format="loud"):
        pass

    assert "ANN" in (tmp_path / "c1.loud").read_text()


@pytest.mark.usefixtures("loud")
@pytest.mark.parametrize(("name", "format_"), [("c1.xml", None), ("c1", "xml")])
async def test_a_new_format_is_named(
    client: CohortsClient,
    tmp_path: Path,
    name: str,
    format_: str | None,
) -> None:
    """Who asks for one that is unknown is told of it."""
    with pytest.raises(InvalidInputError, match=r"loud"):
        await client.export("c1", tmp_path / name, format=format_)


@pytest.mark.usefixtures("loud")
async def test_what_a_format_needs_is_asked_first(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its package nothing is spent."""
    monkeypatch.setitem(
        FORMATS,
        "loud",
        Format(suffix="loud", build_filters=to_loud, require=missing),
    )

    with pytest.raises(MissingExtraError, match="loud"):
        await client.export("c1", tmp_path / "c1.loud")

    assert [] == emulator.log
