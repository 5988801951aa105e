"""Bytes from the loop to a disk that may be slow."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._io.sinks.disk_writer import (
    DiskThread,
    DiskWriter,
    InlineWritePolicy,
)

MIB = 1024 * 1024


class Disk:
    """A sink that remembers who wrote how much, and when."""

    is_light = True

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.size = 0
        self.threads: list[int] = []

    def write(self, data: bytes | memoryview) -> None:
        if self.seconds:
            time.sleep(self.seconds)
        self.size += len(data)
        self.threads.append(threading.get_ident())


def feeding(disk: Disk) -> DiskWriter:
    """Return a writer with a policy of its own."""
    return DiskWriter(disk, DiskThread())


async def fill(feed: DiskWriter, size: int, bite: int = 100_000) -> int:
    """Receive bytes into lent buffers, and return how often it had to wait."""
    waits = 0
    buffer = await feed.get_buffer()

    while size:
        count = min(size, bite, len(buffer))
        size -= count
        next_buffer = feed.buffer_filled(count)
        if next_buffer is None:
            waits += 1
            next_buffer = await feed.get_buffer()
        buffer = next_buffer

    return waits


async def test_a_fast_disk_is_written_on_the_loop():
    """After one measured write in a worker thread the loop writes by itself."""
    disk = Disk()
    feed = feeding(disk)
    await fill(feed, 64 * MIB)
    await feed.flush()

    assert 64 * MIB == disk.size
    assert disk.threads.count(threading.get_ident()) > len(disk.threads) / 2


@pytest.mark.parametrize("is_lent", [True, False])
async def test_a_slow_disk_never_stops_the_loop(is_lent: bool):
    """No slow write is made on the loop, and what is not written yet is bounded."""
    disk = Disk(seconds=0.005)
    feed = feeding(disk)
    tracemalloc.start()
    if is_lent:
        assert 0 < await fill(feed, 16 * MIB)
    else:
        for _ in range(160):
            await feed.take(bytes(MIB // 10))
    await feed.flush()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert disk.size in {16 * MIB, 160 * (MIB // 10)}
    assert threading.get_ident() not in disk.threads
    assert peak < 4 * MIB


async def test_lent_buffers_are_never_small():
    """A loop that finds little room when a connection ends would lose bytes."""
    feed = feeding(Disk())
    buffer = await feed.get_buffer()

    for _ in range(1000):
        assert len(buffer) >= 256 * 1024
        buffer = feed.buffer_filled(77_777) or await feed.get_buffer()

    await feed.drop()


async def test_pieces_and_lent_bytes_keep_their_order():
    """Whichever way bytes come, they are written in the order they came."""
    written = bytearray()
    disk = Disk()
    disk.write = written.extend  # type: ignore[method-assign]
    feed = feeding(disk)

    for number in range(50):
        await feed.take(b"%05d" % number * 1000)
        buffer = await feed.get_buffer()
        buffer[:5000] = b"%05d" % (number + 50_000) * 1000
        feed.buffer_filled(5000)

    await feed.flush()

    assert written == b"".join(
        b"%05d" % number * 1000 + b"%05d" % (number + 50_000) * 1000
        for number in range(50)
    )


async def test_a_failure_is_told_at_the_next_chance():
    """What a worker thread failed with is raised where the bytes come in."""

    class Full(Disk):
        def write(self, data: bytes | memoryview) -> None:
            time.sleep(0.01)
            raise OSError(28, "No space left on device")

    feed = feeding(Full())

    with pytest.raises(OSError, match="No space left"):
        for _ in range(100):
            await feed.take(bytes(MIB))

    await feed.drop()


async def test_a_cancelled_wait_leaves_the_writing_alone():
    """Dropping waits for the write under way, so nothing goes on in secret."""
    disk = Disk(seconds=0.1)
    feed = feeding(disk)
    task = asyncio.ensure_future(fill(feed, 64 * MIB))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await feed.drop()
    size = disk.size
    await asyncio.sleep(0.15)

    assert size == disk.size


BRIEF = 0.0005
LONG = 0.05


def test_the_first_write_is_made_in_a_thread():
    """The first write is not the loop's; one brief write makes the next one so."""
    policy = InlineWritePolicy()
    assert not policy.allows

    policy.record(BRIEF)
    assert policy.allows


def test_a_slow_disk_is_never_written_on_the_loop():
    """Writes that are slow each time are never made on the loop."""
    policy = InlineWritePolicy()
    for _ in range(1000):
        policy.record(LONG)
        assert not policy.allows


@given(st.integers(2, 40))
def test_a_disk_that_stalls_now_and_then_holds_up_ever_more_rarely(period: int):
    """One slow write in every few: fewer and fewer of them happen on the loop."""
    policy = InlineWritePolicy()
    on_the_loop = [0, 0]

    for number in range(20_000):
        is_slow = number % period == 0
        if is_slow and policy.allows:
            on_the_loop[number >= 10_000] += 1
        policy.record(LONG if is_slow else BRIEF)

    assert on_the_loop[1] <= on_the_loop[0] <= 20
