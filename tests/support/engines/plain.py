"""
The plainest engines: a process for each step, and a process for each attempt.

A message of a queue that a killed process took is lost, and a schedule starts no run
before its time: the next attempt is somebody's who asks again.
"""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import TypeAlias

import aiohttp
import anyio._backends._asyncio
import cattrs

from amplitude_cohorts_async import CohortsClient, _operations
from amplitude_cohorts_async.cli import main
from amplitude_cohorts_async.errors import CohortsError
from amplitude_cohorts_async.jobs import JobRecord

from .dying import Moment
from .engine import DONE, Engine, Place
from .forking import in_process

Work: TypeAlias = Callable[[str], object]

# A client imports these when it is entered: here they come before the fork.
PRELOADED = (aiohttp, anyio._backends._asyncio, cattrs, _operations, main)


class ProcessEngine(Engine):
    """A queue in this process, whose workers start a process for each message."""

    restarts = False

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._queue = asyncio.Queue[str]()
        self._workers: list[asyncio.Task[None]] = []
        self._ends: dict[str, asyncio.Future[str]] = {}
        self._sleeping: set[asyncio.Task[None]] = set()

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
        self._end_of(record.key, anew=True)
        self._queue.put_nowait(record.to_json())

    async def ended(self, record: JobRecord) -> str:
        """Wait for the step that is the last."""
        return await self._end_of(record.key)

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
        """What a process does with a message: a result, or when to go on."""

    def _end_of(self, key: str, *, anew: bool = False) -> asyncio.Future[str]:
        end = self._ends.get(key)
        if end is None or (anew and end.done()):
            end = self._ends[key] = asyncio.get_running_loop().create_future()

        return end

    async def _run(self, dies: Moment | None) -> None:
        while True:
            text = await self._queue.get()
            environment = self.place.of_worker(dies)
            answer = await in_process(self.work, text, environment)
            if answer is None:
                # Killed, and its message with it.
                return
            if isinstance(answer, str):
                end = self._end_of(JobRecord.from_json(text).key)
                if not end.done():
                    end.set_result(answer)
                continue
            record, due_in = answer
            task = asyncio.create_task(self._later(record, due_in))
            self._sleeping.add(task)
            task.add_done_callback(self._sleeping.discard)

    async def _later(self, text: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._queue.put_nowait(text)


class TickEngine(ProcessEngine):
    """A process for each tick: a task of Celery's, which is queued anew."""

    @property
    def work(self) -> Work:
        """One tick."""
        return tick


class CommandEngine(ProcessEngine):
    """A process for each attempt: `jobs run`, and the command that asked if need be."""

    @property
    def work(self) -> Work:
        """One attempt."""
        return _attempt


def tick(text: str) -> str | tuple[str, float]:
    """Make one step; return the end of the export, or when to go on."""

    async def step() -> str | tuple[str, float]:
        async with CohortsClient.from_env() as client:
            made = await client.tick(JobRecord.from_json(text))
        return DONE if made.due_in is None else (made.record.to_json(), made.due_in)

    try:
        return asyncio.run(step())
    except CohortsError as error:
        return type(error).__name__


def _attempt(text: str) -> str:
    """Finish what was left; then export what was not spent, as before."""
    record = JobRecord.from_json(text)
    said = StringIO()

    with redirect_stderr(said):
        main(["jobs", "run", "--quiet"])
        if record.to is not None and record.to.exists():
            return DONE

        status = main(
            [
                *("export", record.cohort_id, "-o", str(record.to)),
                *("--occurrence", str(record.occurrence), "--json"),
            ]
        )

    return (
        DONE
        if status == 0
        else str(json.loads(said.getvalue().splitlines()[-1])["error"]["type"])
    )
