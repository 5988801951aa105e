"""Fairness among apps: in order within each, and none waits for a whole queue."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from amplitude_cohorts_async._io.fairness import FairQueue, FairSemaphore


class Asking:
    """Tasks that have a turn for one round of the loop, and the order of their turns."""

    def __init__(self, places: int) -> None:
        self.semaphore = FairSemaphore(places)
        self.order: list[str] = []

    def ask(self, app: str, name: str = "") -> asyncio.Task[None]:
        """Start a task."""

        async def asking() -> None:
            async with self.semaphore.acquire(app):
                self.order.append(name or app)
                await asyncio.sleep(0)

        return asyncio.create_task(asking())


def test_apps_take_turns() -> None:
    """In the order in which they began; one whose queue was empty begins anew."""
    queue = FairQueue[str]()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)
    got = [queue.get() for _ in range(4)]
    queue.put("b", "b2")
    while queue:
        got.append(queue.get())

    assert ["a1", "b1", "c1", "a2", "c2", "a3", "b2"] == got


def test_what_is_urgent_comes_first() -> None:
    """In queues of its own, which are served in turn as well."""
    queue = FairQueue[str]()
    for item in ("a1", "b1", "c1", "b2", "b3"):
        queue.put(item[0], item, urgent=item[0] != "a")
    got = [queue.get() for _ in range(5)]

    assert ["b1", "c1", "b2", "b3", "a1"] == got
    assert not queue


@pytest.mark.parametrize("places", [1, 4])
async def test_one_waits_for_one_of_each_other_app(places: int) -> None:
    """Not for all 500 of them."""
    asking = Asking(places)
    tasks = [asking.ask("many") for _ in range(500)]
    await asyncio.sleep(0)
    tasks.append(asking.ask("single"))
    await asyncio.gather(*tasks)

    assert asking.order.index("single") <= 2 * places + 1


async def test_an_app_that_is_alone_has_all_places_in_order() -> None:
    """First come, first served."""
    asking = Asking(2)
    names = [f"{number}" for number in range(9)]
    tasks = [asking.ask("app", name) for name in names]
    await asyncio.sleep(0)
    begun = len(asking.order)
    await asyncio.gather(*tasks)

    assert (2, names) == (begun, asking.order)


async def test_a_cancelled_one_takes_no_turn() -> None:
    """Neither while it waits, nor in the moment in which its turn comes."""
    asking = Asking(1)

    for turns_of_loop in range(6):
        first, second, third = (asking.ask("app", name) for name in "123")
        for _ in range(turns_of_loop):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, third)
        with suppress(asyncio.CancelledError):
            await second
        await asking.ask("app", "last")

    assert 6 == asking.order.count("last")


async def test_an_error_fails_those_who_wait() -> None:
    """Who has a turn keeps it, and the next one gets it."""
    asking = Asking(1)
    first, second = asking.ask("a"), asking.ask("b")
    await asyncio.sleep(0)
    asking.semaphore.fail_waiters(TimeoutError)

    await first
    with pytest.raises(TimeoutError):
        await second
    await asking.ask("c")
    assert ["a", "c"] == asking.order
