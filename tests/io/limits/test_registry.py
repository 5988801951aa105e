"""One limiter for each app in a process."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from amplitude_cohorts_async._io.limits import registry
from amplitude_cohorts_async._io.limits.registry import limiter_for
from amplitude_cohorts_async.limits import DOCUMENTED, LEAVE_ROOM, Limits, Rate
from amplitude_cohorts_async.testing.clock import FakeClock
from support.counting import most_in_any
from support.virtual_loop import run_virtually

QUICK = Limits(
    exports=Rate(2, per=0.3), in_flight=2, clock_margin=0.02, release_delay=0.05
)


@pytest.fixture
def app() -> str:
    """An app nobody else knows."""
    return uuid.uuid4().hex


async def export(app: str, count: int, starts: list[float]) -> None:
    """Send so many exports through the app's limiter."""
    limiter = limiter_for(app, QUICK)

    async def one() -> None:
        async with limiter.slot("export"):
            starts.append(time.monotonic())
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())


def test_clients_of_an_app_share_a_limiter(app: str):
    """The same key gives the same limiter, another key another one."""
    limiter = limiter_for(app, DOCUMENTED)

    assert limiter is limiter_for(app, DOCUMENTED)
    assert limiter is not limiter_for(app + "2", DOCUMENTED)


def test_the_first_clients_limits_hold(app: str, caplog: pytest.LogCaptureFixture):
    """A client that joins with other limits is told so."""
    limiter = limiter_for(app, LEAVE_ROOM)

    assert LEAVE_ROOM == limiter_for(app, DOCUMENTED).limits
    assert limiter.limits == LEAVE_ROOM
    assert ["this app's limiter has other limits; these apply to all its clients"] == (
        caplog.messages
    )


def test_one_run_after_another_keeps_the_windows(app: str):
    """A new event loop knows what the last one sent."""
    starts: list[float] = []

    for _ in range(3):
        asyncio.run(export(app, 2, starts))
        gc.collect()

    assert 2 == most_in_any(starts, 0.3)
    assert starts[-1] - starts[0] < 1.0


def test_loops_in_several_threads_keep_the_windows_together(app: str):
    """Four threads with a loop each send no more than one would."""
    starts: list[float] = []

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(asyncio.run, export(app, 2, starts))

    assert 8 == len(starts)
    assert 2 == most_in_any(starts, 0.3)
    assert max(starts) - min(starts) < 1.6


@pytest.mark.slow
def test_places_in_flight_are_handed_over_between_threads(app: str):
    """A thread's waiter gets the place another thread's request gave back."""
    in_flight, peak, mutex = 0, 0, threading.Lock()

    async def poll() -> None:
        nonlocal in_flight, peak
        for _ in range(20):
            async with limiter_for(app, QUICK).slot("poll"):
                with mutex:
                    in_flight += 1
                    peak = max(peak, in_flight)
                await asyncio.sleep(0.001)
                with mutex:
                    in_flight -= 1

    keep = limiter_for(app, QUICK)
    with ThreadPoolExecutor(5) as threads:
        done = [threads.submit(asyncio.run, poll()) for _ in range(5)]

    assert [None] * 5 == [each.result() for each in done]
    assert 2 == peak
    assert 100 == keep.statistics()["started.poll"]


def test_a_pause_outlives_the_client_it_was_told_to(app: str):
    """What the service said holds for the app's next client too."""

    async def refused() -> None:
        async with limiter_for(app, QUICK).slot("poll") as permit:
            permit.throttled(0.4)

    started = time.monotonic()
    asyncio.run(refused())
    gc.collect()
    asyncio.run(export(app, 1, []))

    assert time.monotonic() - started >= 0.4


def test_an_app_is_forgotten_when_nothing_matters_any_more(
    app: str, monkeypatch: pytest.MonkeyPatch
):
    """A process that serves many keys does not keep them all."""
    asyncio.run(export(app, 1, []))
    gc.collect()
    assert app in registry._states

    monkeypatch.setattr(registry, "_FORGOTTEN_AFTER", 0.0)
    monkeypatch.setattr(registry, "_LOOKS_EVERY", 0.0)
    other = limiter_for(app + "2", QUICK)

    assert app not in registry._states
    assert other.limits == QUICK


def test_a_loop_with_a_time_of_its_own_is_a_world_of_its_own(app: str):
    """Moments of a virtual loop mean nothing in another one."""

    async def main() -> float:
        limiter = limiter_for(app, DOCUMENTED)
        assert limiter is limiter_for(app, DOCUMENTED)
        for _ in range(4):
            async with limiter.slot("export"):
                pass
        return asyncio.get_running_loop().time()

    assert [0.0, 0.0] == [run_virtually(main()), run_virtually(main())]


def test_a_clock_of_the_callers_is_a_world_of_its_own(app: str):
    """Clients share a limiter if they share the clock."""
    clock = FakeClock()
    limiter = limiter_for(app, DOCUMENTED, clock)

    assert limiter is limiter_for(app, DOCUMENTED, clock)
    assert limiter is not limiter_for(app, DOCUMENTED)
    assert limiter is not limiter_for(app, DOCUMENTED, FakeClock())
