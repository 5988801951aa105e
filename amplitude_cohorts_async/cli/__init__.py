"""The command ``amplitude-cohorts``; needs the extra ``cli``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import CohortsError, MissingExtraError

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command and return its exit code; see `exits`.

    Args:
        arguments: Those after the command's name; None takes `sys.argv`.
    """
    try:
        _open_missing_streams()
        arguments = sys.argv[1:] if arguments is None else list(arguments)

        if arguments == ["--version"]:
            # Without the modules that only other commands need.
            from .release import print_version  # noqa: PLC0415

            print_version()
            return 0

        if arguments[:1] == ["__complete"]:
            return _complete(arguments[1:])

        return _run(arguments)
    except KeyboardInterrupt:
        # Loading the modules takes half a second, in which Ctrl-C may come.
        sys.stderr.write("amplitude-cohorts: interrupted\n")
        return 130


def _open_missing_streams() -> None:
    # Python has None for a stream that is closed, as by `>&-`, and the next file or
    # socket gets its number: what is written to the stream would end up there.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


def _complete(words: Sequence[str]) -> int:
    # At TAB a shell shows nothing but candidates: whatever fails, there are none.
    try:
        # No other command needs it.
        from .completion_candidates import print_candidates  # noqa: PLC0415

        print_candidates(words)
    except (CohortsError, ImportError, OSError):
        return 1

    return 0


def _run(arguments: Sequence[str]) -> int:
    if None in map(find_spec, ("platformdirs", "rich", "typer")):
        error = MissingExtraError("the command amplitude-cohorts", extra="cli")
        sys.stderr.write(f"{error}\n")
        return 2

    from .app import run  # noqa: PLC0415 - needs the extra

    return run(arguments)
