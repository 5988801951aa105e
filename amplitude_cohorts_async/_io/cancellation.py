"""
Work in tasks and threads, and its behaviour under cancellation.

asyncio raises `CancelledError` in a task that waits. Work that must not stop halfway
(a request that costs an export, a rename in a thread) runs in a task of its own,
which its caller waits for even when cancelled.
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
"""Seconds of work before other tasks get a turn."""

T = TypeVar("T")


async def finish_despite_cancel(work: Awaitable[T], *, grace: float = math.inf) -> T:
    """
    Return the result of *work*; a cancellation is raised after the work has ended.

    Args:
        grace: Seconds after a cancellation in which the work may still end; then
            it is cancelled as well.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    cancelled: asyncio.CancelledError | None = None
    deadline = math.inf

    # The shield keeps anyio's cancellations out, which are raised again and again.
    # With a grace period the first one has to come through, because it starts it.
    with anyio.CancelScope(shield=grace == math.inf) as scope:
        while not task.done():
            left = None if deadline == math.inf else max(0, deadline - loop.time())

            try:
                done, _ = await asyncio.wait([task], timeout=left)
            except asyncio.CancelledError as error:
                if cancelled is None:
                    deadline = loop.time() + grace
                # Keep the latest: one of asyncio must not be taken for one of a scope.
                cancelled, scope.shield = error, True
            else:
                if not done:
                    task.cancel()
                    deadline = math.inf

    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio logs that it never was
        raise cancelled

    return task.result()


async def in_thread(
    work: Callable[[], T], limiter: anyio.CapacityLimiter | None = None
) -> T:
    """
    Return the result of *work*, run in a worker thread to its end, even if cancelled.

    So no file is opened, written or renamed after a cancelled call has returned. Each
    caller has its own *limiter*, so that a program that blocks all of anyio's shared
    threads does not block this one.
    """
    own = limiter or anyio.CapacityLimiter(1)
    return await finish_despite_cancel(anyio.to_thread.run_sync(work, limiter=own))


@asynccontextmanager
async def background(work: Awaitable[None]) -> AsyncGenerator[None]:
    """Run *work* in a task until the context is left, which cancels it."""
    task = asyncio.ensure_future(work)

    try:
        yield
    finally:
        task.cancel()
        # Awaiting the task itself would raise the cancellation that we caused.
        await finish_despite_cancel(asyncio.wait([task]))


@asynccontextmanager
async def closed_after(
    generator: AsyncGenerator[T],
) -> AsyncGenerator[AsyncGenerator[T]]:
    """
    Close a generator when the context is left.

    Not while another task waits in it, which ends it: that would raise. Nor is it left
    to the end of the loop, which closes all generators side by side: those that read
    one another then report that they are running.
    """
    try:
        yield generator
    finally:
        if not getattr(generator, "ag_running", False):
            await generator.aclose()


async def collect_cooperatively(items: Iterator[T]) -> list[T]:
    """Return the items of an iterator as a list, without blocking the event loop."""
    found: list[T] = []
    # Collecting young objects often keeps the garbage collector from going through
    # the whole heap, several times while 5,000 cohorts are built: that took a quarter
    # of the time, and 25 to 50 ms at once.
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
