"""
Waiting in line, in any event loop.
"""

from __future__ import annotations

import asyncio

from amplitude_cohorts_async._io.limits.turns import Turn, Turns


async def test_who_is_cancelled_when_the_turn_comes_passes_it_on():
    """
    Between being called and waking up a waiter may be cancelled.
    """
    turn, order = Turn(), list[str]()

    async def take(name: str) -> None:
        async with turn:
            order.append(name)

    async with turn:
        unlucky = asyncio.create_task(take("unlucky"))
        lucky = asyncio.create_task(take("lucky"))
        await asyncio.sleep(0)
        assert 3 == turn.ahead
    # The turn is handed over by now, and nobody has run since.
    unlucky.cancel()
    await asyncio.gather(unlucky, lucky, return_exceptions=True)

    assert ["lucky"] == order
    assert 0 == turn.ahead


async def test_who_was_cancelled_before_is_passed_over():
    """
    A place in line that nobody stands in is skipped.
    """
    turn, order = Turn(), list[int]()

    async def take(number: int) -> None:
        async with turn:
            order.append(number)

    async with turn:
        tasks = [asyncio.create_task(take(number)) for number in range(4)]
        await asyncio.sleep(0)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)

    assert [2, 3] == order


async def test_names_that_nobody_wants_cost_nothing():
    """
    The last one to leave takes the name along.
    """
    turns = Turns()

    async with turns.of("one"), turns.of("two"):
        assert 2 == len(turns)

    assert 0 == len(turns)
