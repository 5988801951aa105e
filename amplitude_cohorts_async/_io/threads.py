"""
Work beside other work, without leaving any behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


async def in_thread(work: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
    """
    Do *work* in a worker thread; a cancellation is heard when it is done.

    Whoever is cancelled in here knows that nothing goes on in secret: no file
    is opened, written or renamed after the exception.

    Args:
        limiter: The caller's own, so that a program that blocks all threads
            it shares does not block this one.
    """
    return await to_the_end(anyio.to_thread.run_sync(work, limiter=limiter))


async def to_the_end(work: Awaitable[T]) -> T:
    """
    Wait for *work* to end, however often the waiting is cancelled.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None

    # The scope keeps anyio's cancellations out, the loop asyncio's own.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error

    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # or asyncio calls it forgotten
        raise cancelled

    return task.result()


@asynccontextmanager
async def background(work: Awaitable[None]) -> AsyncGenerator[None]:
    """
    Keep *work* going while the context is entered; leaving it ends the work.
    """
    task = asyncio.ensure_future(work)

    try:
        yield
    finally:
        task.cancel()
        # Waits without being told of the task's end, which is of our making.
        await to_the_end(asyncio.wait([task]))
