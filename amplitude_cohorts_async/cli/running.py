"""Runs a command, and handles Ctrl-C and its like, errors and exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO, TypeVar

import typer

from ..errors import CohortsError
from . import render
from .exits import exit_of

__all__ = ("reported", "run")

T = TypeVar("T")

_ENDS = [
    # Windows has no SIGHUP.
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]
"""The signals that end the command as Ctrl-C does."""


def run(work: Coroutine[object, object, T]) -> T:
    """
    Run *work* as `asyncio.run()` does, and handle Ctrl-C at any moment.

    Ctrl-C while the loop is being created would leave it incomplete, with warnings
    about unclosed parts. It is blocked until the loop can handle it.
    """

    async def interruptible() -> T:
        """Unblock Ctrl-C, which the loop can handle now."""
        _block_ctrl_c(block=False)
        return await work

    _block_ctrl_c(block=True)
    try:
        return asyncio.run(interruptible())
    finally:
        _block_ctrl_c(block=False)


def _block_ctrl_c(*, block: bool) -> None:
    # Windows has no signal masks.
    if hasattr(signal, "pthread_sigmask"):
        how = signal.SIG_BLOCK if block else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGINT, *_ENDS})


@contextmanager
def reported(*, as_json: bool) -> Generator[None]:
    """Print an error inside in one paragraph, and exit with its code."""
    try:
        with _signals_as_ctrl_c():
            yield
        sys.stdout.flush()
    except BrokenPipeError as error:
        _abandon(sys.stdout)
        raise typer.Exit(exit_of(error)) from None
    except (CohortsError, KeyboardInterrupt, OSError, typer.Abort) as error:
        render.failure(error, as_json=as_json)
        _abandon_closed_terminal()
        raise typer.Exit(exit_of(error)) from None


@contextmanager
def _signals_as_ctrl_c() -> Generator[None]:
    # `timeout` and a stopping container send SIGTERM, a closed terminal SIGHUP:
    # temporary files are removed and the way to go on is printed, exactly as after
    # Ctrl-C.
    def interrupt(_number: int, frame: FrameType | None) -> None:
        on_ctrl_c = signal.getsignal(signal.SIGINT)

        if not callable(on_ctrl_c):
            # The background job of a shell ignores Ctrl-C, but not SIGTERM.
            raise KeyboardInterrupt

        on_ctrl_c(signal.SIGINT, frame)

    # What nohup has this process ignore, it goes on ignoring.
    before = {
        number: signal.signal(number, interrupt)
        for number in _ENDS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _abandon_closed_terminal() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _abandon(stream)


def _abandon(stream: TextIO) -> None:
    # Otherwise the interpreter's last flush fails, prints a warning, and changes the
    # exit code.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)
