"""A limiter in a forked process: nothing waits for requests of the parent."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from amplitude_cohorts_async import LocalLimiter
from amplitude_cohorts_async._io.limits import registry
from amplitude_cohorts_async.limits import Limits, Rate
from support.processes import in_child

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

LIMITS = Limits(
    exports=(Rate(6, per=60.0),), in_flight=5, max_wait=0.0, polls=None, writes=None
)


@contextmanager
def five_in_flight(limiter: LocalLimiter) -> Iterator[None]:
    """Let another thread have five exports under way, and a write to a cohort."""
    began, over = threading.Event(), threading.Event()

    async def hold() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(hold_one())

    async def hold_one() -> None:
        async with limiter.slot("export"):
            if 5 == limiter.statistics()["in_flight"]:
                began.set()
            await asyncio.to_thread(over.wait)

    async def work() -> None:
        async with limiter.cohort_lock("c"):
            await hold()

    thread = threading.Thread(target=asyncio.run, args=[work()])
    thread.start()

    try:
        assert began.wait(30)
        yield
    finally:
        over.set()
        thread.join()


async def take(limiter: LocalLimiter, kind: str) -> None:
    """Take a slot, within a time that is no verdict."""
    async with asyncio.timeout(30), limiter.slot(kind):  # type: ignore[arg-type]
        pass


def test_places_of_the_parent_are_free() -> None:
    """Five requests that are under way elsewhere hold no place here."""
    limiter = LocalLimiter(LIMITS)

    with five_in_flight(limiter):
        assert 0 == in_child(lambda: asyncio.run(take(limiter, "list")))


def test_windows_remember_the_parents_exports() -> None:
    """They were counted by the service, so a sixth starts and a seventh waits."""
    limiter = LocalLimiter(LIMITS)
    starts: list[float] = []

    async def look() -> None:
        starts[:] = limiter.expected_starts(2)
        await take(limiter, "export")
        assert starts[0] < 1
        assert 50 < starts[1] < 70

    with five_in_flight(limiter):
        assert 0 == in_child(lambda: asyncio.run(look()))


def test_a_cohort_of_the_parent_is_not_locked() -> None:
    """A write that is under way elsewhere holds up none here."""
    limiter = LocalLimiter(LIMITS)

    async def write() -> None:
        async with asyncio.timeout(30), limiter.cohort_lock("c"):
            pass

    with five_in_flight(limiter):
        assert 0 == in_child(lambda: asyncio.run(write()))


def test_locks_that_another_thread_held_are_free() -> None:
    """A fork copies a lock that is held, but not the thread that would release it."""
    limiter = LocalLimiter(LIMITS)
    locks = (
        *(registry._mutex, limiter._mutex, limiter._line._mutex),
        *(limiter._slots._mutex, limiter._state.counter._mutex),
    )

    async def work() -> None:
        registry.limiter_for("an app", LIMITS)
        await take(limiter, "export")

    for lock in locks:
        lock.acquire()
    try:
        assert 0 == in_child(lambda: asyncio.run(work()))
    finally:
        for lock in locks:
            lock.release()


def test_the_parent_keeps_its_places() -> None:
    """What the child dropped is its own."""
    limiter = LocalLimiter(LIMITS)

    with five_in_flight(limiter):
        in_child(lambda: None)
        assert 5 == limiter.statistics()["in_flight"]
        assert 0 == limiter._slots.idle
