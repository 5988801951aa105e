"""
Work beside other work, and what becomes of it under cancellation.

asyncio throws `CancelledError` into whatever waits. Work that must not stop in the
middle (a request that costs an export, a rename in a thread) runs in a task of its
own, which its caller waits for even while it is cancelled.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

_SLICE = 0.001
"""Seconds of work between two turns for the other tasks."""

T = TypeVar("T")


async def finish_despite_cancel(work: Awaitable[T], *, grace: float = math.inf) -> T:
    """
    Return the result of *work*, and let a cancellation through only when it is done.

    Args:
        grace: Seconds after a cancellation in which the work may still end; then
            it is cancelled as well.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    cancelled: asyncio.CancelledError | None = None
    deadline = math.inf

    # The shield keeps anyio's cancellations out, which come again and again; with
    # a grace period the first one has to be heard, because it starts that.
    with anyio.CancelScope(shield=grace == math.inf) as scope:
        while not task.done():
            left = None if deadline == math.inf else max(0, deadline - loop.time())

            try:
                done, _ = await asyncio.wait([task], timeout=left)
            except asyncio.CancelledError as error:
                if cancelled is None:
                    deadline = loop.time() + grace
                # The latest: asyncio's own must not be taken for that of a scope.
                cancelled, scope.shield = error, True
            else:
                if not done:
                    task.cancel()
                    deadline = math.inf

    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio logs it as lost
        raise cancelled

    return task.result()


async def in_thread(work: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
    """
    Return what *work* returns in a worker thread, which always runs to its end.

    After the exception of a cancelled call no file is opened, written or renamed.

    Args:
        limiter: The caller's own, so that a program that blocks all the threads
            anyio shares does not block this one.
    """
    return await finish_despite_cancel(anyio.to_thread.run_sync(work, limiter=limiter))


@asynccontextmanager
async def background(work: Awaitable[None]) -> AsyncGenerator[None]:
    """Run *work* while the context is entered; leaving it cancels the work."""
    task = asyncio.ensure_future(work)

    try:
        yield
    finally:
        task.cancel()
        # Waiting for the task itself would raise its end, which is of our making.
        await finish_despite_cancel(asyncio.wait([task]))


async def collect_cooperatively(items: Iterator[T]) -> list[T]:
    """
    Return the items of an iterator as a list, without keeping the loop from others.
    """
    found: list[T] = []
    # What is seen while it is young gives the collector no reason to go through
    # the whole program's heap, several times while 5,000 cohorts are made: that
    # took a quarter of the time, and 25 to 50 ms in one go.
    young = gc.get_threshold()[0] // 2 if gc.isenabled() else 0
    turn_ends = time.perf_counter() + _SLICE

    for item in items:
        found.append(item)

        if gc.get_count()[0] > young > 0:
            gc.collect(0)

        if time.perf_counter() >= turn_ends:
            await checkpoint()
            turn_ends = time.perf_counter() + _SLICE

    return found
