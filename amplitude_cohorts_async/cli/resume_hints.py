"""Builds the commands that resume, so that no export is spent twice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from ..errors import CohortsError, ExportExpiredError, ExportFailedError
from ..events import Event, ExportRequested

__all__ = (
    "OptionValue",
    "StartedJobs",
    "command_line",
    "option_arguments",
    "resume_hints",
)


OptionValue: TypeAlias = str | float | Path | list[str] | None


class StartedJobs:
    """An event hook that records the requested jobs."""

    def __init__(self) -> None:
        self.request_ids: list[str] = []

    def __call__(self, event: Event, /) -> None:
        """Record the job of an `ExportRequested`."""
        if isinstance(event, ExportRequested):
            self.request_ids.append(event.request_id)

    def resumable_after(self, error: BaseException) -> list[str]:
        """Return the request ids of the jobs that can be resumed after an error."""
        if isinstance(error, KeyboardInterrupt):
            return self.request_ids

        token = getattr(error, "token", None)

        if token is None or isinstance(error, ExportFailedError | ExportExpiredError):
            return []

        return [json.loads(token)["request_id"]]


@contextmanager
def resume_hints(commands: Callable[[BaseException], Iterable[str]]) -> Generator[None]:
    """Add *commands* of an error, which resume, to it as notes."""
    try:
        yield
    except (CohortsError, KeyboardInterrupt) as error:
        for command in commands(error):
            error.add_note(command)
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
