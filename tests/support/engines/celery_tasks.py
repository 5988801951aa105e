"""
Celery on a real Valkey, as in its recipe, but quick to find what a killed worker had.

Run as a module this is a worker.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

from amplitude_cohorts_async.jobs import JobRecord

from ..valkey import Valkey
from .dying import Moment, arm
from .engine import DONE, Engine, Workers, Workspace
from .recipes import recipe

T = TypeVar("T")

NOT_ACKNOWLEDGED = 2


class CeleryEngine(Engine):
    """A queue in a Valkey, and workers that each have two processes."""

    restarts: ClassVar[bool] = True

    def __init__(self, workspace: Workspace, server: Valkey) -> None:
        super().__init__(workspace)
        workspace.environment["CELERY_BROKER_URL"] = server.url
        self._workers = Workers(workspace, __name__)
        self._recipe = recipe("celery_app", workspace.environment)
        self._thread = ThreadPoolExecutor(1)

    async def __aexit__(self, *_: object) -> None:
        await self._workers.end()
        await self._in_thread(self._close)
        self._thread.shutdown()

    async def start_worker(self, dies: Moment | None = None) -> None:
        """Start one more worker."""
        await self._workers.start(dies=dies)

    async def submit(self, record: JobRecord) -> None:
        """Send the first task; the result of an earlier one is over."""
        asked = (record.cohort_id, str(record.to), str(record.occurrence))

        await self._in_thread(self._result(record).forget)
        await self._in_thread(self._recipe.export, *asked)

    async def ended(self, record: JobRecord) -> str:
        """Wait for the result of its task."""
        result = self._result(record)

        while not await self._in_thread(result.ready):  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.05)

        if await self._in_thread(result.successful):
            return DONE

        return _name(await self._in_thread(lambda: str(result.result)))

    async def restart(self) -> None:
        """Kill the workers, and start one."""
        await self._workers.end()
        await self.start_worker()

    def _result(self, record: JobRecord) -> Any:
        return self._recipe.app.AsyncResult(record.key)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call in the one thread whose connections are closed in the end."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *args)

    def _close(self) -> None:
        app = self._recipe.app
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()
        app.pool.force_close_all()
        app.close()


def _name(error: str) -> str:
    """Return the class of an error that Celery could not make again from JSON."""
    found = re.search(r"\berrors\.(\w+)", error)
    return found[1] if found else error


def work() -> None:
    """Work until killed."""
    arm()
    app = recipe("celery_app").app
    app.conf.broker_transport_options.update(
        visibility_timeout=NOT_ACKNOWLEDGED, unacked_restore_interval=1
    )
    app.worker_main(["worker", "--concurrency=2", "--loglevel=ERROR"])


if __name__ == "__main__":
    work()
