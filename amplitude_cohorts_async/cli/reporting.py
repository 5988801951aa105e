"""
How the command ends: what it tells people.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import typer

from ..errors import CohortsError
from . import render
from .exits import exit_of

__all__ = ("reported",)


@contextmanager
def reported(*, as_json: bool) -> Generator[None]:
    """
    Tell of what goes wrong inside, in a paragraph, and leave with its code.
    """
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
