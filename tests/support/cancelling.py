"""The ways in which a call is cancelled at one of its awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from .stepping import Stepped

Way = Callable[[Coroutine[Any, Any, object], int], Coroutine[Any, Any, bool]]
"""Cancels a coroutine at its n-th await; returns whether it ended before."""


async def by_task(work: Coroutine[Any, Any, object], at: int) -> bool:
    """Cancel the task, as a framework that shuts down does."""

    async def run() -> int:
        this = asyncio.current_task()
        assert this is not None
        stepped = Stepped(work, at=at, act=this.cancel)
        await stepped
        return stepped.steps

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])

    return not task.cancelled() and task.result() < at


async def by_task_twice(work: Coroutine[Any, Any, object], at: int) -> bool:
    """Cancel the task, and once more while it cleans up."""

    async def run() -> int:
        this = asyncio.current_task()
        assert this is not None

        def twice() -> None:
            this.cancel()
            asyncio.get_running_loop().call_soon(this.cancel)

        stepped = Stepped(work, at=at, act=twice)
        await stepped
        return stepped.steps

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])

    return not task.cancelled() and task.result() < at


async def by_scope(work: Coroutine[Any, Any, object], at: int) -> bool:
    """Cancel an anyio scope around it, which goes on cancelling until it is left."""
    with anyio.CancelScope() as scope:
        stepped = Stepped(work, at=at, act=scope.cancel)
        await stepped

    return not scope.cancel_called


async def by_timeout(work: Coroutine[Any, Any, object], at: int) -> bool:
    """Let `asyncio.timeout` run out."""
    try:
        async with asyncio.timeout(None) as deadline:
            now = asyncio.get_running_loop().time()
            stepped = Stepped(work, at=at, act=lambda: deadline.reschedule(now))
            await stepped
    except TimeoutError:
        return False

    return not deadline.expired() and stepped.steps < at


WAYS = [by_task, by_task_twice, by_scope, by_timeout]
