"""Locks for any event loop."""

from __future__ import annotations

import asyncio

from amplitude_cohorts_async._io.fifo_lock import FifoLock, KeyedLock


async def test_a_waiter_cancelled_at_the_handover_passes_it_on():
    """Between being woken and running a waiter may be cancelled."""
    lock, order = FifoLock(), list[str]()

    async def take(name: str) -> None:
        async with lock:
            order.append(name)

    async with lock:
        unlucky = asyncio.create_task(take("unlucky"))
        lucky = asyncio.create_task(take("lucky"))
        await asyncio.sleep(0)
        assert 2 == len(lock._waiters)
    # The lock is handed over by now, and no task has run since.
    unlucky.cancel()
    await asyncio.gather(unlucky, lucky, return_exceptions=True)

    assert ["lucky"] == order
    assert not lock._is_held


async def test_a_waiter_cancelled_before_is_passed_over():
    """A waiter that is gone is skipped."""
    lock, order = FifoLock(), list[int]()

    async def take(number: int) -> None:
        async with lock:
            order.append(number)

    async with lock:
        tasks = [asyncio.create_task(take(number)) for number in range(4)]
        await asyncio.sleep(0)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)

    assert [2, 3] == order


async def test_a_key_not_in_use_takes_no_memory():
    """The last holder to leave removes the key."""
    locks = KeyedLock()

    async with locks.hold("one"), locks.hold("two"):
        assert 2 == len(locks)

    assert 0 == len(locks)
