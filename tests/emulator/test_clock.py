"""The clock that jumps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async.testing import FakeClock
from amplitude_cohorts_async.testing.clock import SystemClock

# Seconds that a loop's timer may be early: uvloop counts whole milliseconds.
GRAIN = 0.001


async def test_an_hour_takes_a_moment(clock: FakeClock) -> None:
    """Sleeping moves time, and no more: the test ends before its time-out."""
    await clock.sleep(3600)

    assert 3600 == clock.now()


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=8))
@settings(deadline=None, max_examples=25)
def test_sleepers_wake_in_order(seconds: list[float]) -> None:
    """Whoever is due first wakes first, at the very moment it asked for."""
    clock = FakeClock()
    woken: list[tuple[float, float]] = []

    async def sleeper(duration: float) -> None:
        await clock.sleep(duration)
        woken.append((duration, clock.now()))

    async def run() -> None:
        await asyncio.gather(*map(sleeper, seconds))

    asyncio.run(run())

    assert [(duration, duration) for duration in sorted(seconds)] == woken


async def test_a_sleeper_may_sleep_again_before_the_next_wakes(
    clock: FakeClock,
) -> None:
    """Time does not jump over what a woken task asks for next."""
    woken: list[str] = []

    async def short() -> None:
        for number in range(3):
            await clock.sleep(10)
            woken.append(f"short {number}")

    async def long() -> None:
        await clock.sleep(25)
        woken.append("long")

    await asyncio.gather(long(), short())

    assert ["short 0", "short 1", "long", "short 2"] == woken


async def test_a_cancelled_sleeper_holds_nobody_up(clock: FakeClock) -> None:
    """Time goes to the next deadline, not to that of a task that has gone."""
    clock.advance(1)
    first = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    first.cancel()
    await clock.sleep(10)

    assert 11 == clock.now()
    assert first.cancelled()


async def test_without_jumps_only_advance_moves_time() -> None:
    """`jumps=False` leaves the sleepers to the test."""
    clock = FakeClock(jumps=False)
    tasks = [asyncio.create_task(clock.sleep(each)) for each in (10, 20)]
    await asyncio.sleep(0.02)
    clock.advance(9.5)
    await asyncio.sleep(0.02)
    assert [False, False] == [task.done() for task in tasks]

    clock.advance(0.5)
    await tasks[0]
    assert not tasks[1].done()

    clock.advance(100)
    await tasks[1]
    assert 110 == clock.now()


def test_threads_share_it() -> None:
    """Sleepers in other threads, each with a loop of its own, wake in order too."""
    clock = FakeClock()
    woken: list[int] = []
    all_there = threading.Barrier(3)

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    def run(seconds: int) -> None:
        with clock.busy():
            all_there.wait()
        asyncio.run(sleeper(seconds))

    with clock.busy():
        threads = [threading.Thread(target=run, args=(each,)) for each in (30, 10, 20)]
        for thread in threads:
            thread.start()
        # Time stands still until all of them sleep.
        while len(clock._sleepers) < len(threads):
            time.sleep(0.001)

    for thread in threads:
        thread.join()

    assert [10, 20, 30] == woken


async def test_time_stands_still_while_work_goes_on(clock: FakeClock) -> None:
    """What runs within `busy()` takes no time, whoever sleeps meanwhile."""
    sleeper = asyncio.create_task(clock.sleep(60))

    with clock.busy():
        await asyncio.sleep(0.05)
        assert 0 == clock.now()

        with clock.idle():
            await sleeper

    assert 60 == clock.now()


async def test_time_is_not_patient_for_ever(clock: FakeClock) -> None:
    """After a real second, time goes on beside work that does not end."""
    with clock.busy():
        await clock.sleep(60)

    assert 60 == clock.now()


async def test_a_flowing_clock_does_both() -> None:
    """Real time passes on it, and sleeping jumps all the same."""
    clock = FakeClock(flows=True)
    began = clock.now()
    await asyncio.sleep(0.02)
    assert 0.02 - GRAIN <= clock.now() - began < 5

    await clock.sleep(3600)
    assert 3600 <= clock.now() - began < 3605


async def test_the_wall_agrees_with_the_watch() -> None:
    """`utcnow()` moves with `now()`, from the moment it was set to."""
    clock = FakeClock(start=500, utc=datetime(2026, 1, 31, 23, tzinfo=UTC))
    await clock.sleep(7200)

    assert 7700 == clock.now()
    assert datetime(2026, 2, 1, 1, tzinfo=UTC) == clock.utcnow()


def test_time_does_not_go_back(clock: FakeClock) -> None:
    """A negative step is refused."""
    with pytest.raises(ValueError, match="go back"):
        clock.advance(-1)


def test_a_flowing_clock_has_to_jump() -> None:
    """Real time cannot be stopped, so the two options exclude each other."""
    with pytest.raises(ValueError, match="jumps=True"):
        FakeClock(flows=True, jumps=False)


async def test_the_system_clock_is_the_real_time() -> None:
    """The emulator's default clock is no trick."""
    clock = SystemClock()
    began, wall = clock.now(), clock.utcnow()
    await clock.sleep(0.01)

    assert 0.01 - GRAIN <= clock.now() - began
    assert timedelta(0) < clock.utcnow() - wall
    assert UTC is wall.tzinfo


def test_a_closed_loop_holds_nobody_up() -> None:
    """Time goes on after the loop of a sleeper was closed without its leave."""
    clock = FakeClock()
    abandoned = asyncio.new_event_loop()
    sleeper = clock.sleep(5)
    abandoned.run_until_complete(_begin(sleeper))
    abandoned.close()
    asyncio.run(clock.sleep(60))
    sleeper.close()

    assert 60 == clock.now()


async def _begin(sleeper: Coroutine[object, object, None]) -> None:
    sleeper.send(None)
