"""What the tests of the command share: a way to run it, here and as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from amplitude_cohorts_async.cli import main

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

# Without the extra there is only this to test: that it says so.
collect_ignore = [
    path.name
    for path in HERE.glob("test_*.py")
    if find_spec("typer") is None and path.name != "test_extra.py"
]


class Result(NamedTuple):
    """How the command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def data_folder(home: Path) -> Path:
    """Where the command keeps what it records, in a home of its own for each test."""
    return home / "data" / "amplitude-cohorts"


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], no_waiting: None
) -> Callable[..., Result]:
    """Run the command in this process, without waiting for anything."""

    def run(*words: object) -> Result:
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return run


@contextmanager
def default_signals() -> Iterator[None]:
    """
    Let children start with the default signals, whatever this process ignores.

    A shell has its background jobs ignore SIGINT, and nohup SIGHUP. What a process
    ignores, its children ignore as well; what it handles is the default to them.
    """
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    ignored = [each for each in numbers if signal.getsignal(each) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command as a process of its own, ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: object, **options: object) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-m", "amplitude_cohorts_async", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # As this process finds the package, its child has to find it.
        path = os.pathsep.join(filter(None, sys.path))
        env = {**os.environ, "PYTHONPATH": path} | options.pop("env", {})
        # Without a buffer, Python does not notice a reader that left; and a
        # terminal's width is what the terminal says.
        for name in ("PYTHONUNBUFFERED", "COLUMNS", "LINES"):
            env.pop(name, None)
        with default_signals():
            started.append(
                subprocess.Popen(arguments, text=True, env=env, **{**pipes, **options})
            )
        return started[-1]

    yield start

    for each in started:
        each.kill()
        each.communicate()
