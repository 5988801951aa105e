"""
How the command ends: what it tells the shell, and what it tells people.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType

import typer

from .. import errors
from . import render

__all__ = ("Exit", "exit_of", "reported")


class Exit(IntEnum):
    """
    The exit codes, which are a promise.

    Attributes:
        FAILURE: Anything without a code of its own.

        USAGE: The command makes no sense as written, or is not set up.

        AUTHENTICATION: The keys are not accepted, or may not do this.

        NOT_FOUND: No such cohort, or no such export any more.

        TRANSPORT: The service gave no usable answer; later it may.

        QUOTA: A limit is reached: the month's, a window's, the service's.

        UNFINISHED: Begun, not finished, and can go on from where it is.

        INTERRUPTED: Ctrl-C or SIGTERM.

        UNREAD: Whoever read our output went away, as ``head`` does.
    """

    OK = 0
    FAILURE = 1
    USAGE = 2
    AUTHENTICATION = 3
    NOT_FOUND = 4
    TRANSPORT = 5
    QUOTA = 6
    UNFINISHED = 7
    INTERRUPTED = 130
    UNREAD = 141


_CODES: tuple[tuple[Exit, tuple[type[errors.CohortsError], ...]], ...] = (
    (
        Exit.USAGE,
        (errors.ConfigurationError, errors.InvalidInputError, errors.MissingExtraError),
    ),
    (Exit.AUTHENTICATION, (errors.AuthenticationError, errors.PermissionDeniedError)),
    (Exit.NOT_FOUND, (errors.NotFoundError, errors.ExportExpiredError)),
    (Exit.TRANSPORT, (errors.TransportError, errors.ServerError)),
    (Exit.QUOTA, (errors.QuotaError, errors.RateLimitedError)),
    (
        Exit.UNFINISHED,
        (
            errors.ExportTimeoutError,
            errors.IncompleteDownloadError,
            errors.StorageError,
            errors.PartialUploadError,
        ),
    ),
)


def exit_of(error: BaseException) -> Exit:
    """
    Tell the exit code for an error.
    """
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED

    if isinstance(error, BrokenPipeError):
        return Exit.UNREAD

    return next((code for code, kinds in _CODES if isinstance(error, kinds)), Exit(1))


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
    except (errors.CohortsError, KeyboardInterrupt, OSError) as error:
        code = exit_of(error)
        render.failure(error, code, as_json=as_json)
        raise typer.Exit(code) from None


@contextmanager
def _sigterm_as_ctrl_c() -> Generator[None]:
    # So that `timeout` and a stopped container leave nothing behind, and the
    # log says how to go on, exactly as after Ctrl-C.
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

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
