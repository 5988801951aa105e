"""
The event loop in which blocking clients work: one a process, in a thread of its own.

It starts with the first call, is made anew after a fork, and ends with the process:
what is under way then is cancelled, clients that were left open are closed, and neither
is waited for longer than a few seconds.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from anyio.from_thread import BlockingPortal

from .._operations import Operations
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .._client import CohortsClient

_logger = logging.getLogger(__name__)

_EXIT_SECONDS = 5.0
"""How long the end of a process waits for what it has cancelled."""


class Portal:
    """A thread with an event loop, and anyio's portal into it."""

    def __init__(self) -> None:
        # In the calling thread: imports would keep the loop from its work.
        Operations.prepare()
        self._pid = os.getpid()
        self.lock: threading.Lock = threading.Lock()
        self._tasks: set[asyncio.Task[object]] = set()
        # Strongly, and from the frame of the thread: in a forked child, where the
        # thread is gone and its frame is not, no connection of the parent is closed.
        self._clients: set[CohortsClient] = set()
        self.is_stopping: bool = False
        ready: Future[tuple[BlockingPortal, asyncio.AbstractEventLoop]] = Future()
        self._thread = threading.Thread(
            target=lambda: _run(self._main(ready)),
            name="amplitude-cohorts",
            daemon=True,
        )
        self._thread.start()
        self._anyio, self._loop = ready.result()

    async def _main(
        self, ready: Future[tuple[BlockingPortal, asyncio.AbstractEventLoop]]
    ) -> None:
        async with BlockingPortal() as portal:
            ready.set_result((portal, asyncio.get_running_loop()))
            await portal.sleep_until_stopped()

    def check(self) -> None:
        """
        Raise `ConfigurationError` if the calling thread cannot wait for the loop.

        This process was forked since, or ends; or the thread is the loop's own.
        """
        if self._pid != os.getpid():
            raise ConfigurationError(
                "this was opened before the process was forked, and its connections "
                "are the parent's; open it again, for a job by "
                "`client.resume_export(job.token)`"
            )

        if self.is_stopping:
            raise ConfigurationError("this process is ending; nothing was sent")

        if self.is_here:
            raise ConfigurationError(
                "a blocking client was called in its own event loop, which would wait "
                "for itself; what runs there, as a limiter or a job store of yours, "
                "uses `amplitude_cohorts_async.CohortsClient`"
            )

    def start(self, work: Callable[[], Awaitable[object] | None]) -> None:
        """Start something in the loop, in the context of the calling thread."""
        self._anyio.start_task_soon(work)

    @property
    def is_gone(self) -> bool:
        """Whether the loop ends, or is that of a parent."""
        return self.is_stopping or self._pid != os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the loop's."""
        return threading.current_thread() is self._thread

    def working(self, task: asyncio.Task[object]) -> None:
        """Keep a task, which the end of the process cancels; called in the loop."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def opened(self, client: CohortsClient) -> None:
        """Keep a client, which the end of the process closes."""
        self._clients.add(client)

    def closed(self, client: CohortsClient) -> None:
        """Keep a client no longer."""
        self._clients.discard(client)

    def drop(self, client: CohortsClient) -> None:
        """Close a client that nobody can use any more, without waiting."""
        if self._pid != os.getpid() or client not in self._clients:
            return

        async def close() -> None:
            """Close it in the loop."""
            with suppress(Exception):
                await client.aclose()
            self._clients.discard(client)

        def begin() -> None:
            """Begin to; a collector may call from any thread, the loop's, too."""
            self.working(asyncio.get_running_loop().create_task(close()))

        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(begin)

    def stop(self) -> None:
        """Cancel what is under way, close the clients, and end the thread."""
        self.is_stopping = True

        with suppress(RuntimeError):  # it stops by itself
            self._anyio.start_task_soon(self._finish)

        self._thread.join(2 * _EXIT_SECONDS)

    async def _finish(self) -> None:
        tasks = self._tasks - {asyncio.current_task()}

        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_EXIT_SECONDS)

        closing = [asyncio.ensure_future(each.aclose()) for each in self._clients]
        if closing:
            await asyncio.wait(closing, timeout=_EXIT_SECONDS)
        for each in closing:
            if not each.cancelled() and each.done() and each.exception() is not None:
                _logger.debug("a client was not closed", exc_info=each.exception())

        await self._anyio.stop(cancel_remaining=True)


def _run(work: Coroutine[None, None, None]) -> None:
    # The other loop of Windows is refused by psycopg, for jobs in Postgres.
    is_windows = sys.platform == "win32"

    with asyncio.Runner(
        loop_factory=asyncio.SelectorEventLoop if is_windows else None
    ) as runner:
        runner.run(work)


_portal: Portal | None = None
_lock = threading.Lock()


def current_portal() -> Portal:
    """Return the portal of this process, and start it if there is none."""
    global _portal  # noqa: PLW0603 - one a process

    with _lock:
        if _portal is None:
            _portal = Portal()
            atexit.register(_portal.stop)

        return _portal


def _forget() -> None:
    # In a forked child, which has neither the thread nor its loop. Another thread may
    # have held the lock.
    global _portal, _lock

    if _portal is not None:
        atexit.unregister(_portal.stop)
        _forgotten.append(_portal)

    _portal, _lock = None, threading.Lock()


_forgotten: list[Portal] = []
"""Portals of parents, of which nothing is to be collected."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
