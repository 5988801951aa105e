"""Which command goes on with what was left: a spent export is never spent twice."""

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
    "option_words",
    "resume_hints",
)


OptionValue: TypeAlias = str | float | Path | list[str] | None


class StartedJobs:
    """An event hook that remembers which jobs were requested."""

    def __init__(self) -> None:
        self.request_ids: list[str] = []

    def __call__(self, event: Event, /) -> None:
        """Remember the job, if the event is about a new one."""
        if isinstance(event, ExportRequested):
            self.request_ids.append(event.request_id)

    def left_by(self, error: BaseException) -> list[str]:
        """Return the request ids of the jobs that can go on after an error."""
        if isinstance(error, KeyboardInterrupt):
            return self.request_ids

        token = getattr(error, "token", None)

        if token is None or isinstance(error, ExportFailedError | ExportExpiredError):
            return []

        return [json.loads(token)["request_id"]]


@contextmanager
def resume_hints(commands: Callable[[BaseException], Iterable[str]]) -> Generator[None]:
    """
    Add to an error the commands that go on from there, as notes.

    Args:
        commands: Returns them for an error.
    """
    try:
        yield
    except (CohortsError, KeyboardInterrupt) as error:
        for command in commands(error):
            error.add_note(command)
        raise


def option_words(**options: OptionValue) -> list[str]:
    """Return options as words; None, False and empty lists are left out."""
    words: list[str] = []

    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"

        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [word for each in value for word in (flag, each)]
        elif value is not None and value is not False:
            words += [flag, str(value)]

    return words


def command_line(*words: str) -> str:
    """Return our command with these arguments, quoted for a shell."""
    return shlex.join(["amplitude-cohorts", *words])
