"""The command's exit codes."""

from __future__ import annotations

from enum import IntEnum
from typing import cast

import typer

from .. import errors

__all__ = ("Exit", "UsageError", "exit_of")


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

        UNREAD: The reader of our output has gone, as ``head`` does.
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


# typer does not export the parent of its usage errors; the name finds it.
UsageError: type[Exception] = next(
    cast("type[Exception]", kind)
    for kind in typer.BadParameter.__mro__
    if kind.__name__ == "UsageError"
)

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
            errors.PartialWriteError,
        ),
    ),
)


def exit_of(error: BaseException) -> Exit:
    """Return the exit code for an error."""
    # A question that Ctrl-C or the end of stdin answers is typer's Abort.
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Exit.INTERRUPTED

    if isinstance(error, BrokenPipeError):
        return Exit.UNREAD

    if isinstance(error, UsageError):
        return Exit.USAGE

    return next(
        (code for code, kinds in _CODES if isinstance(error, kinds)), Exit.FAILURE
    )
