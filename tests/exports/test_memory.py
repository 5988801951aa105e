"""The running exports of one process, which may have several threads."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from amplitude_cohorts_async._exports.memory import LocalRunningJobs
from amplitude_cohorts_async._io.context import SystemClock


@pytest.fixture
def hasty() -> Iterator[Executor]:
    """Four threads that run, and take turns as often as can be."""
    all_run = threading.Barrier(4)
    interval = sys.getswitchinterval()

    with ThreadPoolExecutor(4) as threads:
        # A tracer cannot be put in while threads take turns that often.
        list(threads.map(lambda _: all_run.wait(), range(4)))
        sys.setswitchinterval(1e-6)
        yield threads
        sys.setswitchinterval(interval)


def test_no_thread_loses_the_export_of_another(hasty: Executor) -> None:
    """What was recorded is found, whatever others do meanwhile."""
    jobs = LocalRunningJobs(SystemClock())

    async def lost(thread: int) -> int:
        missing = 0

        for number in range(1_500):
            key = f"{thread}-{number % 300}"
            await jobs.record(key, "token", seconds=1_000)
            missing += await jobs.find(key) != "token"

        return missing

    runs = [hasty.submit(asyncio.run, lost(thread)) for thread in range(4)]

    assert [0, 0, 0, 0] == [run.result() for run in runs]
