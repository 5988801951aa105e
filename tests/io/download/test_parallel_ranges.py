"""One file over several connections."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

# The function itself, which no guard replaces: the first piece may be too short to reach
# the disk, and the next one is then written on the loop.
from time import sleep as block

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob, errors
from amplitude_cohorts_async._io.download import parallel_ranges
from amplitude_cohorts_async.events import Event, LinkRenewed
from amplitude_cohorts_async.policies import Downloading
from amplitude_cohorts_async.testing import FakeClock
from support.clients import unlimited_client
from support.exporting import FILE, REQUEST, until
from support.fault_server import FaultServer, redirect, reply
from support.ranged_store import RangedStore, Whim


@cache
def text() -> bytes:
    """Return thirty megabytes, no two places alike."""
    lines = (b'"%010d"\n' % number for number in range(2_400_000))

    return b'"user_id"\n' + b"".join(lines)


Made = Callable[..., ExportJob]


@pytest.fixture
async def store(server: FaultServer) -> AsyncIterator[RangedStore]:
    """A store that gives a connection ten megabytes a second."""
    async with RangedStore(text(), rate=10e6) as store:
        server.on(FILE, redirect(store.url))
        yield store


@pytest.fixture
async def made(server: FaultServer, clock: FakeClock) -> AsyncIterator[Made]:
    """Makes jobs, each with a client of its own."""
    clients: list[CohortsClient] = []

    def make(
        hook: Callable[[Event], None] | None = None, connections: int = 8
    ) -> ExportJob:
        client = unlimited_client(
            server.url,
            clock,
            downloading=Downloading(max_connections=connections),
            hook=hook,
        )
        clients.append(client)
        return client.resume_export(REQUEST)

    yield make

    for client in clients:
        await client.aclose()


def covered(ranges: list[tuple[int, int] | None]) -> int:
    """Tell how many bytes the ranges ask for, those asked for twice counted twice."""
    return sum(part[1] - part[0] for part in ranges if part is not None)


async def test_more_connections_where_one_is_held_back(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """A throttled store is asked over several connections, for each byte once."""
    saved = await made().download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == text()
    assert 1 == saved.links
    # Eight, and the one that was given up, until the store has noticed.
    assert 4 <= store.most <= 9
    assert store.ranges[0] is None
    assert covered(store.ranges) < len(text())
    # What the first connection had on the way when it was given up is lost.
    assert len(text()) <= store.sent < 1.1 * len(text())


async def test_one_connection_when_told_so(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """The switch is off: one connection, one request."""
    store.body = text()[:4_000_010]
    await made(connections=1).download(tmp_path / "members.csv")

    assert [None] == store.ranges
    assert 1 == store.most


async def test_a_small_file_takes_one_connection(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """Below some megabytes it is not worth the while."""
    store.body = text()[:4_000_010]
    saved = await made().download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == store.body
    assert [None] == store.ranges


@pytest.mark.slow
async def test_a_slow_disk_takes_one_connection(
    store: RangedStore, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More connections do not help a disk that is behind."""
    real = os.pwrite

    def slow(file: int, data: memoryview, start: int) -> int:
        # Far behind, so that it is seen to be on a busy machine, too.
        block(len(data) / 6e6)
        return real(file, data, start)

    # Long enough that such a machine, which lets nobody wait at first, is no part of it.
    monkeypatch.setattr(parallel_ranges, "_MEASURE_SECONDS", 1.0)
    monkeypatch.setattr("amplitude_cohorts_async._io.sinks.part_file.os.pwrite", slow)
    store.set_rate(1e9)
    await made().download(tmp_path / "members.csv")

    assert [None] == store.ranges


@pytest.mark.slow
async def test_a_compressed_file_to_inflate_takes_one_connection(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """What has to be inflated has to come in order."""
    store.body = gzip.compress(text()[:12_000_010], 0)
    saved = await made().download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == text()[:12_000_010]
    assert [None] == store.ranges


async def test_a_cut_range_goes_on_where_it_stopped(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """Only the missing half of a cut part is asked for again, over a fresh link."""
    store.whim = lambda number, _: "cut" if number in {3, 5} else "serve"
    renewed: list[Event] = []
    saved = await made(hook=renewed.append).download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == text()
    assert 2 <= saved.links <= 3
    assert {LinkRenewed} <= set(map(type, renewed))
    assert len(text()) <= store.sent < 1.1 * len(text())
    cut = store.ranges[2]
    assert cut is not None
    assert ((cut[0] + cut[1]) // 2, cut[1]) in store.ranges


async def test_an_expired_link_is_renewed_once_for_all(
    store: RangedStore, server: FaultServer, made: Made, tmp_path: Path
) -> None:
    """When the link expires, connections that bring bytes are left alone."""
    refused: list[int] = []

    def whim(number: int, _: object) -> Whim:
        if not refused and number > 6:
            refused.append(number)
            return "refuse"
        return "serve"

    store.whim = whim
    saved = await made().download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == text()
    assert 2 == saved.links == len(server.requests(FILE))
    assert len(text()) <= store.sent < 1.1 * len(text())


@pytest.mark.slow
@pytest.mark.parametrize("whim", ["ignore range", "shift"])
async def test_a_store_that_sends_something_else_is_asked_in_order(
    store: RangedStore, made: Made, tmp_path: Path, whim: Whim
) -> None:
    """
    An answer to a range that is not that range voids all; one connection brings it.
    """
    store.whim = lambda _, asked: whim if asked else "serve"
    saved = await made().download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == text()
    assert store.ranges[-1] is None


@pytest.mark.slow
async def test_an_object_that_changes_is_never_mixed(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """Another ETag half way starts over, with the new object and nothing of the old."""
    other = text().replace(b"1", b"7")

    def whim(number: int, _: object) -> Whim:
        if number == 6:
            store.body, store.etag = other, '"two"'
        return "serve"

    store.whim = whim
    saved = await made().download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == other


async def test_links_that_bring_nothing_end_it(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """A store that refuses all ranges from some moment on ends the download."""
    store.whim = lambda number, _: "refuse" if number > 5 else "serve"

    with pytest.raises(errors.IncompleteDownloadError) as caught:
        await made().download(tmp_path / "members.csv")

    assert 0 < caught.value.received < len(text())
    assert len(text()) == caught.value.expected
    assert not (tmp_path / "members.csv").exists()


async def test_cancelling_leaves_no_connection(
    store: RangedStore, made: Made, tmp_path: Path
) -> None:
    """A cancelled download leaves no target and no connection."""
    # Slow enough that more connections are worth it on a busy machine, too.
    store.set_rate(2e6)
    task = asyncio.ensure_future(made().download(tmp_path / "members.csv"))
    await until(lambda: store.most > 1)
    await asyncio.sleep(0.05)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert not (tmp_path / "members.csv").exists()
    await until(lambda: not store.open)


async def test_a_full_disk_ends_all_of_them(
    store: RangedStore, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write that fails ends the download, and all connections with it."""
    real = os.pwrite

    def full(file: int, data: memoryview, start: int) -> int:
        if start > 20_000_000:
            raise OSError(28, "No space left on device")
        return real(file, data, start)

    monkeypatch.setattr("amplitude_cohorts_async._io.sinks.part_file.os.pwrite", full)

    with pytest.raises(errors.StorageError, match="No space left"):
        await made().download(tmp_path / "members.csv")

    assert not (tmp_path / "members.csv").exists()
    await until(lambda: not store.open)


async def test_a_file_in_the_answer_after_links_voids_them(
    store: RangedStore, server: FaultServer, made: Made, tmp_path: Path
) -> None:
    """
    A service that suddenly sends the file itself is believed, from its first byte.
    """
    small = b'"user_id"\n"ann"\n'
    server.on(FILE, redirect(store.url), reply(200, small))
    store.whim = lambda number, _: "refuse" if number > 5 else "serve"
    saved = await made().download(tmp_path / "members.csv")

    assert saved.path.read_bytes() == small
