"""Processes of the tests: started with a module of theirs, or forked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

TESTS = Path(__file__).parents[1]


async def start_module(module: str, *words: object) -> asyncio.subprocess.Process:
    """Start a Python that runs a module of the tests."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *map(str, words),
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@contextmanager
def spoken_to(
    *words: object, env: Mapping[str, str]
) -> Iterator[tuple[IO[str], IO[str]]]:
    """
    Run a Python meanwhile; yields its stdin and stdout.

    Its stdin ends with this process, even if that is killed: then it has to end.
    """
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    with process:
        try:
            yield process.stdin, process.stdout
        finally:
            process.stdin.close()


async def run_in_group(
    *words: object, env: Mapping[str, str], cwd: Path | None = None
) -> int:
    """
    Run a command in a process group of its own, and leave nothing of it.

    Returns:
        Its exit code, a negative one if it was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        env=env,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )

    try:
        return await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def in_child(work: Callable[[], None]) -> int:
    """Fork, work in the child, and tell how it ended."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)
