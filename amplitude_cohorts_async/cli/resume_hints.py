"""Builds the commands that resume, so that no export is spent twice."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import typer

from ..errors import CohortsError, ExportExpiredError, ExportFailedError
from ..events import BatchWritten, Event, ExportAdopted, ExportRequested
from .render import moment, printable

__all__ = (
    "OptionValue",
    "StartedJobs",
    "announce",
    "command_line",
    "option_arguments",
    "resumable_id",
    "resume_hints",
    "spending_told",
    "spent_text",
)


OptionValue: TypeAlias = str | float | Path | list[str] | None


class StartedJobs:
    """
    An event hook that records the exports that were requested or taken up.

    Args:
        announced: Whether to name each on stderr: should the process be killed, no
            other line tells how to resume.
        is_one: Whether there is one export at most; of many, only those that are
            taken up are named.

    Attributes:
        request_ids: Of all of them, in order.
        spent: How many were requested.
        adopted: The last one that was taken up.
        since: When the last one was requested; aware UTC.
        is_saved: Whether the file was saved, or something written: that ends the adoption
            of its export.
        is_done: Whether nothing is left to go on with.
    """

    def __init__(self, *, announced: bool = False, is_one: bool = True) -> None:
        self.request_ids: list[str] = []
        self.spent: int = 0
        self.adopted: ExportAdopted | None = None
        self.since: datetime | None = None
        self.is_saved: bool = False
        self.is_done: bool = False
        self._announced = announced
        self._is_one = is_one

    def __call__(self, event: Event, /) -> None:
        """Record the export of an `ExportRequested` or an `ExportAdopted`."""
        match event:
            case ExportRequested(cohort_id=cohort_id, request_id=request_id):
                self.spent += 1
                self.since = datetime.now(UTC)
                text = f"requested export {request_id} of cohort {cohort_id}"
            case ExportAdopted(request_id=request_id, requested_at=requested_at):
                self.adopted, self.since = event, requested_at
                text = (
                    f"took up the export of {moment(requested_at)} ({request_id}); "
                    f"--fresh for a new one"
                )
            case BatchWritten():
                self.is_saved = True
                return
            case _:
                return

        self.request_ids.append(request_id)

        if self._announced and (self._is_one or isinstance(event, ExportAdopted)):
            announce(text)

    def tell_spent(self) -> None:
        """Name in a line on stderr how many were requested, if any were."""
        if self._announced and self.spent:
            announce(spent_text(self.spent))

    def resumable_after(self, error: BaseException) -> list[str]:
        """Return the request ids of the jobs that can be resumed after an error."""
        if self.is_done:
            return []

        if isinstance(error, KeyboardInterrupt):
            return self.request_ids

        request_id = resumable_id(error)

        return [] if request_id is None else [request_id]


@contextmanager
def spending_told(jobs: StartedJobs) -> Generator[None]:
    """Name in a line on stderr what was spent before an error."""
    try:
        yield
    except BaseException:
        jobs.tell_spent()
        raise


def spent_text(count: int) -> str:
    """Return how many exports were spent, in words."""
    return {0: "no export", 1: "1 export"}.get(count, f"{count:,} exports") + " spent"


def announce(text: str) -> None:
    """Print a line on stderr; nobody may read it any more, and the work goes on."""
    with suppress(OSError):
        sys.stderr.write(f"amplitude-cohorts: {printable(text)}\n")


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
    again: Callable[[StartedJobs], str | None] = lambda _: None,
    *,
    are_steps: bool = False,
) -> Generator[None]:
    """
    Add *commands* of an error, which resume, to it as notes.

    An error without a token, such as an interruption, gets the id of its job.

    Args:
        again: Returns how the same command goes on with what was spent, if it does.
        are_steps: Whether each command but the first needs the one before it.
    """
    try:
        yield
    except (CohortsError, KeyboardInterrupt, OSError, typer.Abort) as error:
        found = list(commands(error))

        for command in found:
            error.add_note(command)

        if found and jobs is not None:
            vars(error).update({"again": again(jobs), "are_steps": are_steps})

            if getattr(error, "token", None) is None:
                vars(error)["token"] = jobs.request_ids[-1]
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
