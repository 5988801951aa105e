"""Processes of the tests: started with a module of theirs, or forked."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

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
