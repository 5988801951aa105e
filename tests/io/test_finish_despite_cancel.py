"""Work that ends before its cancelled caller does."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from amplitude_cohorts_async._io.cancellation import finish_despite_cancel


class Work:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.end = ""

    async def run(self) -> str:
        """Wait, and note how it ended."""
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.end = "cancelled"
            raise
        self.end = "done"

        return "result"


async def turns(count: int = 5) -> None:
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_result_is_passed_on() -> None:
    """Without a cancellation it is an ordinary await."""
    work = Work()
    work.may_end.set()

    assert "result" == await finish_despite_cancel(work.run())


async def test_a_failure_is_passed_on() -> None:
    """So are exceptions."""

    async def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await finish_despite_cancel(fail(), grace=1.0)


@pytest.mark.parametrize("grace", [60.0, float("inf")])
async def test_a_cancelled_caller_waits(grace: float) -> None:
    """However often it is cancelled, the work ends first."""
    work = Work()
    caller = asyncio.create_task(finish_despite_cancel(work.run(), grace=grace))

    for _ in range(3):
        await turns()
        caller.cancel()
    await turns()
    assert not caller.done()
    work.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert "done" == work.end


async def test_the_grace_period_has_an_end() -> None:
    """Work that does not end in time is cancelled, and waited for all the same."""
    work = Work()
    caller = asyncio.create_task(finish_despite_cancel(work.run(), grace=0.01))
    await turns()
    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert "cancelled" == work.end


@pytest.mark.parametrize("grace", [60.0, float("inf")])
async def test_a_scope_waits_as_well(grace: float) -> None:
    """anyio cancels again and again; the work is not disturbed by it."""
    work = Work()

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: finish_despite_cancel(work.run(), grace=grace))
        await turns()
        group.cancel_scope.cancel()
        asyncio.get_running_loop().call_later(0.01, work.may_end.set)

    assert "done" == work.end


async def test_a_cancellation_of_asyncio_is_not_lost_in_a_scope() -> None:
    """A scope must not take the cancellation of its whole task for its own."""
    work = Work()

    async def run() -> None:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            await finish_despite_cancel(work.run(), grace=60.0)

    caller = asyncio.create_task(run())
    await turns()
    caller.cancel()
    await turns()
    work.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
