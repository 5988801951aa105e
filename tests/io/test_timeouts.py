"""Time limits that a busy event loop does not use up."""

from __future__ import annotations

import asyncio
import time

import pytest

from amplitude_cohorts_async._io.timeouts import (
    LagTolerantTimeout,
    lag_tolerant_timeout,
)
from support.virtual_loop import run_virtually


def test_it_expires_in_time() -> None:
    """And raises what `asyncio.timeout()` does."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with lag_tolerant_timeout(2.0):
                await asyncio.sleep(60)
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == pytest.approx(2.0)


def test_who_is_done_in_time_hears_nothing() -> None:
    """Not even later."""

    async def main() -> list[str]:
        heard = list[str]()
        with LagTolerantTimeout(2.0, lambda: heard.append("over")) as timeout:
            await asyncio.sleep(1.9)
        await asyncio.sleep(10)
        return [*heard, *(["over"] if timeout.expired else [])]

    assert [] == run_virtually(main())


async def test_a_loop_that_is_busy_uses_up_next_to_nothing() -> None:
    """An answer that came meanwhile is read first."""
    with LagTolerantTimeout(0.4) as timeout:
        time.sleep(0.5)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not timeout.expired


async def test_a_cancellation_from_outside_is_none_of_it() -> None:
    """It comes through."""

    async def wait() -> None:
        async with lag_tolerant_timeout(60.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
