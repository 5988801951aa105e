"""Tells which release this is, without the modules that other commands need."""

from __future__ import annotations

import sys

from .. import __version__

__all__ = ("print_version",)


def print_version() -> None:
    """Print the version on stdout."""
    sys.stdout.write(f"{__version__}\n")
