"""What a test needs besides the group `tests`, and what happens without it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def require(package: str) -> None:
    """Skip the test or the module without a package; fail where CI is set."""
    if find_spec(package) is None:
        _do_without(f"the package {package} is not installed")


def require_program(name: str) -> Path:
    """Return a program that a package brings; skip or fail as `require()` does."""
    program = Path(sys.executable).parent / name
    if not program.exists():
        _do_without(f"the program {name} is not installed")

    return program


def _do_without(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)

    pytest.skip(reason, allow_module_level=True)
