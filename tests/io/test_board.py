"""
The board of one process, which may have several threads.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from amplitude_cohorts_async._io.board import LocalBoard
from amplitude_cohorts_async._io.clock import SystemClock


@pytest.fixture
def hasty() -> Iterator[None]:
    """
    Threads that take turns as often as can be.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
def test_no_thread_loses_the_export_of_another() -> None:
    """
    Whoever put a token up finds it, whatever others do meanwhile.
    """
    board = LocalBoard(SystemClock())

    async def lost(thread: int) -> int:
        missing = 0

        for number in range(1_500):
            key = f"{thread}-{number % 300}"
            await board.put(key, "token", seconds=1_000)
            missing += await board.find(key) != "token"

        return missing

    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(asyncio.run, lost(thread)) for thread in range(4)]

    assert [0, 0, 0, 0] == [run.result() for run in runs]
