"""
What to type to go on with what was left: a spent export is never spent twice.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager

from .._core.tokens import from_token
from ..errors import CohortsError, ExportExpiredError, ExportFailedError
from ..events import Event, ExportRequested

__all__ = ("Jobs", "command_line", "saying_how_to_go_on")

_NO_USE = (ExportFailedError, ExportExpiredError)
"""
Errors that only another export can help.
"""


class Jobs:
    """
    An event hook that keeps in mind which jobs were requested.
    """

    def __init__(self, *request_ids: str) -> None:
        self.request_ids: list[str] = list(request_ids)

    def __call__(self, event: Event, /) -> None:
        """
        Note the job, if this is one.
        """
        if isinstance(event, ExportRequested):
            self.request_ids.append(event.request_id)


@contextmanager
def saying_how_to_go_on(
    jobs: Jobs, resumption: Callable[[str], str]
) -> Generator[None]:
    """
    Note on whatever goes wrong inside which command goes on from there.

    Args:
        jobs: Those to go on with after an interruption.

        resumption: Tells the command for a request id.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        for request_id in jobs.request_ids:
            stop.add_note(resumption(request_id))
        raise
    except CohortsError as error:
        if error.token is not None and not isinstance(error, _NO_USE):
            error.add_note(resumption(from_token(error.token).request_id))
        raise


def command_line(*words: str) -> str:
    """
    Return our command with these arguments, as a shell reads it.
    """
    return shlex.join(["amplitude-cohorts", *words])
