"""What the scenes ask of an engine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

import attrs

from amplitude_cohorts_async.jobs import JobRecord

from ..processes import TESTS
from .dying import MARK, MOMENT, Moment

DONE = "done"


@attrs.frozen(kw_only=True)
class Workspace:
    """
    Where an engine works.

    Attributes:
        folder: For its files; the scene's files are there, too.
        environment: What points a worker's client to the service, the job store and
            the limits.
    """

    folder: Path
    environment: dict[str, str]

    @property
    def mark(self) -> Path:
        """The file that is there when a worker has killed itself."""
        return self.folder / "killed"

    def of_worker(self, dies: Moment | None) -> dict[str, str]:
        """Return the environment of a worker, which is to die at a moment."""
        environment = {**self.environment, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
        environment[MARK] = str(self.mark)
        if dies is not None:
            environment[MOMENT] = dies

        return environment

    async def killed(self) -> None:
        """Wait until a worker has killed itself."""
        while not self.mark.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)


class Engine(ABC):
    """
    One engine, its workers, and who starts the next attempt.

    A subclass starts what it needs in `__aenter__()`, and ends all of it in
    `__aexit__()`. Each worker is a process group of its own that calls `dying.arm()`
    before it works.

    Attributes:
        restarts: Whether a killed worker's export is taken up by another worker. If
            not, the scene calls `submit()` again, as a user or a schedule does.
    """

    restarts: ClassVar[bool]

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    async def __aenter__(self) -> Self:
        return self

    @abstractmethod
    async def __aexit__(self, *_: object) -> None:
        """End all workers, and the engine."""

    @abstractmethod
    async def start_worker(self, dies: Moment | None = None) -> None:
        """Start one more worker, which kills itself at a moment."""

    @abstractmethod
    async def submit(self, record: JobRecord) -> None:
        """Ask for an export, once more if it was asked for before."""

    @abstractmethod
    async def ended(self, record: JobRecord) -> str:
        """Wait for its end; return "done", or the name of the error's class."""

    @abstractmethod
    async def restart(self) -> None:
        """End the engine and its workers, and start it with one worker."""


@attrs.define(eq=False)
class Workers:
    """Processes that run a module of the tests, each in a group of its own."""

    workspace: Workspace
    module: str
    _running: list[asyncio.subprocess.Process] = attrs.field(factory=list)

    async def start(self, *words: str, dies: Moment | None = None) -> None:
        """Start one."""
        self._running.append(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self.module, *words),
                env=self.workspace.of_worker(dies),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    async def end(self) -> None:
        """Kill all of them that run, and what they started."""
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        self._running.clear()
