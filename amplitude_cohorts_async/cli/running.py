"""How the command runs and ends: Ctrl-C, SIGTERM, errors and exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import typer

from ..errors import CohortsError
from . import render
from .exits import exit_of

__all__ = ("reported", "run")

T = TypeVar("T")


def run(work: Coroutine[object, object, T]) -> T:
    """
    Run *work* as `asyncio.run()` does, so that Ctrl-C always finds it in order.

    Ctrl-C while the loop is being made would leave it half made, with warnings
    about the parts. It is held back until the loop can handle it.
    """

    async def reachable() -> T:
        """Let Ctrl-C through, now that there is a loop to handle it."""
        _hold_ctrl_c(hold=False)
        return await work

    _hold_ctrl_c(hold=True)
    try:
        return asyncio.run(reachable())
    finally:
        _hold_ctrl_c(hold=False)


def _hold_ctrl_c(*, hold: bool) -> None:
    # Windows cannot.
    if hasattr(signal, "pthread_sigmask"):
        how = signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGINT, signal.SIGTERM})


@contextmanager
def reported(*, as_json: bool) -> Generator[None]:
    """Print what goes wrong inside as a paragraph, and exit with its code."""
    try:
        with _sigterm_as_ctrl_c():
            yield
        sys.stdout.flush()
    except BrokenPipeError as error:
        _abandon_stdout()
        raise typer.Exit(exit_of(error)) from None
    except (CohortsError, KeyboardInterrupt, OSError, typer.Abort) as error:
        render.failure(error, as_json=as_json)
        raise typer.Exit(exit_of(error)) from None


@contextmanager
def _sigterm_as_ctrl_c() -> Generator[None]:
    # So that `timeout` and a stopped container leave nothing behind, and the
    # log says how to go on, exactly as after Ctrl-C.
    def interrupt(_number: int, frame: FrameType | None) -> None:
        on_ctrl_c = signal.getsignal(signal.SIGINT)

        if not callable(on_ctrl_c):
            # A shell's background job: Ctrl-C is not for it, SIGTERM is.
            raise KeyboardInterrupt

        on_ctrl_c(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _abandon_stdout() -> None:
    # Or the interpreter would complain when it flushes the rest at its end.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
