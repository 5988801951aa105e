"""Functions of the library, before or after which a process kills itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Literal, TypeAlias, TypeVar

from amplitude_cohorts_async._io.sinks.part_file import PartFile
from amplitude_cohorts_async._writes import writer

T = TypeVar("T")

When: TypeAlias = Literal["before", "after"]
What: TypeAlias = Literal["transaction", "bytes", "rename", "journal"]


def die_at(what: What, when: When, number: int) -> None:
    """Kill this process before or after the n-th time that something is done to a file."""
    match what:
        case "bytes":
            PartFile.append_to = _deadly(PartFile.append_to, when, number)  # type: ignore[method-assign]
        case "rename":
            PartFile._rename = _deadly(PartFile._rename, when, number)  # type: ignore[method-assign]
        case "journal":
            writer._append = _deadly(writer._append, when, number)
        case _:
            raise AssertionError(f"{what} is none of a file")


def _deadly(function: Callable[..., T], when: When, number: int) -> Callable[..., T]:
    left = number

    @wraps(function)
    def deadly(*args: object) -> T:
        """Do it, or die."""
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

        return result

    return deadly
