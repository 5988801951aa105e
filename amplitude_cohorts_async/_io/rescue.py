"""
What was paid for is brought in, even if the buyer has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from .threads import to_the_end

T = TypeVar("T")


async def brought_in(work: Awaitable[T], *, seconds: float) -> T:
    """
    Wait for *work*; a cancellation is heard when it is done, or after *seconds*.

    For a request that costs something: cancelled at once, its answer would be
    lost and with it the only name of what was bought.
    """
    task = asyncio.ensure_future(work)

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _patiently(task, seconds)
        raise
    finally:
        if not task.done():
            task.cancel()
            await to_the_end(asyncio.wait([task]))
        if not task.cancelled():
            # Read, so that nobody is told of an exception never retrieved.
            task.exception()


async def _patiently(task: asyncio.Future[T], seconds: float) -> None:
    # Nobody gets out of here by cancelling once more.
    with suppress(asyncio.CancelledError):
        await to_the_end(asyncio.wait([task], timeout=seconds))
