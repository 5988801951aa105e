"""
Processes forked from one that has imported what all of them need.

A scene starts four of them or more, and to import an engine takes up to a second.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import attrs

from ..processes import TESTS
from .dying import Moment, arm
from .engine import Workspace

PRELOADED = (
    # A client imports these when it is entered.
    *("amplitude_cohorts_async._operations", "anyio._backends._asyncio", "cattrs"),
    *("support.engines.plain", "support.engines.service"),
    *("support.engines.dagster_run", "support.engines.dbos_worker"),
    *("support.engines.procrastinate_jobs", "support.engines.airflow_tries"),
)
"""Modules; one whose packages are not installed is left out."""

_context = multiprocessing.get_context("forkserver")


def forked(
    work: Callable[..., object], *args: object, environment: Mapping[str, str]
) -> BaseProcess:
    """Start a process that leads a group of its own and calls a function."""
    _preload()
    process = _context.Process(target=_child, args=(work, args, {**environment}))
    process.start()

    return process


def end(process: BaseProcess) -> None:
    """Kill a process and all of its group; it may be dead already."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # It may not lead its group yet.
    process.kill()
    process.join()
    process.close()


async def in_process(
    work: Callable[[str], object], text: str, environment: Mapping[str, str]
) -> str | tuple[str, float] | None:
    """Run a function in a process; return its answer, None if it was killed."""
    ours, theirs = pipe()
    process = forked(_answer, work, text, theirs, environment=environment)
    theirs.close()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(process.sentinel, ended.set)

    try:
        await ended.wait()
        try:
            return ours.recv() if ours.poll() else None
        except EOFError:
            return None
    finally:
        loop.remove_reader(process.sentinel)
        end(process)
        ours.close()


def pipe() -> tuple[Connection, Connection]:
    """Return both ends of a pipe; whoever forks closes the other's."""
    return _context.Pipe()


@attrs.define(eq=False)
class ForkedWorkers:
    """Workers that run a function, which begins with `arm()`, until they are killed."""

    workspace: Workspace
    work: Callable[..., object]
    running: list[BaseProcess] = attrs.field(factory=list)

    def start(self, *words: str, dies: Moment | None = None) -> None:
        """Start one."""
        environment = self.workspace.of_worker(dies)
        self.running.append(forked(self.work, *words, environment=environment))

    def end(self) -> None:
        """Kill all of them that run, and what they started."""
        for process in self.running:
            end(process)
        self.running.clear()


def _preload() -> None:
    """Let the server that forks import, before it forks for the first time."""
    _context.set_forkserver_preload([*PRELOADED])
    path = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    if path not in os.environ.get("PYTHONPATH", ""):
        os.environ["PYTHONPATH"] = path


def _child(
    work: Callable[..., object], args: tuple[object, ...], environment: dict[str, str]
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    work(*args)


def _answer(work: Callable[[str], object], text: str, words: Connection) -> None:
    arm()
    try:
        words.send(work(text))
    except Exception as error:
        # It is no kill: a scene that waits for its end is told.
        words.send(repr(error))
        raise
