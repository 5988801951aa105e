"""The command ``amplitude-cohorts``; needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from ..errors import MissingExtraError

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Args:
        arguments: Those after the command's name; None takes the process's.

    Returns:
        The exit code; see `exits`.
    """
    if find_spec("typer") is None or find_spec("rich") is None:
        error = MissingExtraError("the command amplitude-cohorts", extra="cli")
        sys.stderr.write(f"{error}\n")
        return 2

    from .app import run  # noqa: PLC0415 - only now it is known to work

    return run(arguments)
