"""Builds the commands that resume, so that no export is spent twice."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import typer

from ..errors import CohortsError, ExportExpiredError, ExportFailedError
from ..events import Event, ExportRequested
from .render import printable

__all__ = (
    "OptionValue",
    "StartedJobs",
    "command_line",
    "option_arguments",
    "resumable_id",
    "resume_hints",
)


OptionValue: TypeAlias = str | float | Path | list[str] | None


class StartedJobs:
    """
    An event hook that records the requested jobs.

    Args:
        announced: Whether to name each on stderr: should the process be killed, no
            other line tells how to resume.
    """

    def __init__(self, *, announced: bool = False) -> None:
        self.request_ids: list[str] = []
        self._announced = announced

    def __call__(self, event: Event, /) -> None:
        """Record the job of an `ExportRequested`."""
        if not isinstance(event, ExportRequested):
            return

        self.request_ids.append(event.request_id)

        if self._announced:
            text = f"requested export {event.request_id} of cohort {event.cohort_id}"
            # Nobody may read stderr any more; the export goes on.
            with suppress(OSError):
                sys.stderr.write(f"amplitude-cohorts: {printable(text)}\n")

    def resumable_after(self, error: BaseException) -> list[str]:
        """Return the request ids of the jobs that can be resumed after an error."""
        if isinstance(error, KeyboardInterrupt):
            return self.request_ids

        request_id = resumable_id(error)

        return [] if request_id is None else [request_id]


def resumable_id(error: BaseException) -> str | None:
    """Return the id of the job that an error tells of, if it can be resumed."""
    token = getattr(error, "token", None)

    if token is None or isinstance(error, ExportFailedError | ExportExpiredError):
        return None

    return str(json.loads(token)["request_id"])


@contextmanager
def resume_hints(
    commands: Callable[[BaseException], Iterable[str]],
    jobs: StartedJobs | None = None,
) -> Generator[None]:
    """
    Add *commands* of an error, which resume, to it as notes.

    An error without a token, such as an interruption, gets the id of its job.
    """
    try:
        yield
    except (CohortsError, KeyboardInterrupt, OSError, typer.Abort) as error:
        found = list(commands(error))

        for command in found:
            error.add_note(command)

        if found and jobs is not None and getattr(error, "token", None) is None:
            vars(error)["token"] = jobs.request_ids[0]
        raise


def option_arguments(**options: OptionValue) -> list[str]:
    """Return options as arguments; None, False and empty lists are left out."""
    arguments: list[str] = []

    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"

        if value is True:
            arguments.append(flag)
        elif isinstance(value, list):
            arguments += [text for item in value for text in (flag, item)]
        elif value is not None and value is not False:
            arguments += [flag, str(value)]

    return arguments


def command_line(*arguments: str) -> str:
    """Return the command with these arguments, quoted for a shell."""
    return shlex.join(["amplitude-cohorts", *arguments])
