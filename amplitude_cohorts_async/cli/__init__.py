"""The command ``amplitude-cohorts``; needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from ..errors import MissingExtraError

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command and return its exit code; see `exits`.

    Args:
        arguments: Those after the command's name; None takes `sys.argv`.
    """
    if find_spec("typer") is None or find_spec("rich") is None:
        error = MissingExtraError("the command amplitude-cohorts", extra="cli")
        sys.stderr.write(f"{error}\n")
        return 2

    from .app import run  # noqa: PLC0415 - needs the extra

    return run(arguments)
