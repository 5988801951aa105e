"""The command's exit codes."""

from __future__ import annotations

from enum import IntEnum
from typing import cast

import typer

from .. import errors

__all__ = ("Exit", "NoSuchJobError", "UsageError", "exit_of")


class NoSuchJobError(errors.CohortsError):
    """The job store has no such export, or none that is open."""


class Exit(IntEnum):
    """
    The exit codes, which are stable.

    Attributes:
        FAILURE: Any failure without another code, and a refused removal.
        USAGE: Wrong arguments, or a wrong or missing configuration.
        AUTHENTICATION: The keys are invalid, or lack a permission.
        NOT_FOUND: The cohort or the export does not exist, or not any more.
        TRANSPORT: There was no usable response; a later try may succeed.
        QUOTA: A limit is reached: the monthly quota, a window, or a 429.
        UNFINISHED: Partly done; it can be resumed.
        INTERRUPTED: Ctrl-C, SIGTERM or SIGHUP.
        UNREAD: The reader of stdout has closed it, as ``head`` does.
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


# typer does not export the base class of its usage errors, so it is found by name.
UsageError: type[Exception] = next(
    cast("type[Exception]", kind)
    for kind in typer.BadParameter.__mro__
    if kind.__name__ == "UsageError"
)

_CODES: tuple[tuple[Exit, tuple[type[errors.CohortsError], ...]], ...] = (
    # Requests were sent, and a sync has spent its export: not the usage's code.
    (Exit.FAILURE, (errors.RemovalGuardError,)),
    (
        Exit.USAGE,
        (errors.ConfigurationError, errors.InvalidInputError, errors.MissingExtraError),
    ),
    (Exit.AUTHENTICATION, (errors.AuthenticationError, errors.PermissionDeniedError)),
    (
        Exit.NOT_FOUND,
        (errors.NotFoundError, errors.ExportExpiredError, NoSuchJobError),
    ),
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
    # typer raises Abort when a question is answered by Ctrl-C or the end of stdin.
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Exit.INTERRUPTED

    if isinstance(error, BrokenPipeError):
        return Exit.UNREAD

    if isinstance(error, UsageError):
        return Exit.USAGE

    return next(
        (code for code, kinds in _CODES if isinstance(error, kinds)), Exit.FAILURE
    )
