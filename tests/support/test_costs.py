"""The measures of the hostile tests see what they are for."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from .costs import measured

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


async def test_a_callback_that_works_is_seen() -> None:
    """By the CPU time of the loop's thread, however long it took."""
    with measured() as costs:
        await asyncio.sleep(0)
        until = time.thread_time() + 0.06
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0)

    assert 0.06 <= costs.longest_callback


async def test_waiting_and_other_threads_are_not_seen() -> None:
    """Neither is work of the loop's thread."""

    def work() -> None:
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            pass

    with measured() as costs:
        await asyncio.to_thread(work)
        await asyncio.sleep(0.06)

    assert costs.longest_callback < 0.2


async def test_memory_is_seen_at_its_peak() -> None:
    """Also when it is given back meanwhile."""
    with measured() as costs:
        bytearray(64 << 20).count(0)

    assert 60 << 20 < costs.memory < 80 << 20
