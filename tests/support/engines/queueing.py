"""A queue in this process, whose messages are made by processes of their own."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TypeAlias

from amplitude_cohorts_async.jobs import JobRecord

from .dying import Moment
from .engine import DONE, Engine, Workspace
from .forking import in_process

Work: TypeAlias = Callable[[str], str | tuple[str, float]]
"""What a process does with a record: its end, or the next one and when it is due."""


class ProcessEngine(Engine):
    """A queue in this process, whose workers start a process for each message."""

    restarts = False

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self._queue = asyncio.Queue[str]()
        self._workers: list[asyncio.Task[None]] = []
        self._sleeping: set[asyncio.Task[None]] = set()
        self._open = Counter[str]()
        self._ends = defaultdict[str, list[str]](list)

    async def __aexit__(self, *_: object) -> None:
        for task in [*self._workers, *self._sleeping]:
            task.cancel()
        await asyncio.gather(*self._workers, *self._sleeping, return_exceptions=True)
        self._workers.clear()

    async def start_worker(self, dies: Moment | None = None) -> None:
        """Start one more worker."""
        self._workers.append(asyncio.create_task(self._run(dies)))

    async def submit(self, record: JobRecord) -> None:
        """Put the record into the queue."""
        self._ends[record.key].clear()
        self._put(record.to_json())

    async def ended(self, record: JobRecord) -> str:
        """Wait for the last step of all who asked; return what went wrong, if any."""
        ends = self._ends[record.key]
        while self._open[record.key] or not ends:  # noqa: ASYNC110 - two conditions
            await asyncio.sleep(0.02)

        return next((end for end in ends if end != DONE), DONE)

    async def restart(self) -> None:
        """End the workers, and lose what they had; the queue is kept."""
        for task in self._workers:
            task.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers.clear()
        await self.start_worker()

    @property
    @abstractmethod
    def work(self) -> Work:
        """What a process does with a message."""

    def _put(self, text: str) -> None:
        self._open[_key(text)] += 1
        self._queue.put_nowait(text)

    async def _run(self, dies: Moment | None) -> None:
        environment = self.workspace.of_worker(dies)
        while True:
            text = await self._queue.get()
            try:
                answer = await in_process(self.work, text, environment)
                if answer is None:
                    # Killed, and its message with it.
                    return
                self._go_on(_key(text), answer)
            finally:
                self._open[_key(text)] -= 1

    def _go_on(self, key: str, answer: str | tuple[str, float]) -> None:
        if isinstance(answer, str):
            self._ends[key].append(answer)
            return

        self._open[key] += 1
        task = asyncio.create_task(self._later(*answer))
        self._sleeping.add(task)
        task.add_done_callback(self._sleeping.discard)

    async def _later(self, text: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._open[_key(text)] -= 1
        self._put(text)


def _key(text: str) -> str:
    return JobRecord.from_json(text).key
