"""
The floor plan, as import-linter sees it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LINT = (
    "import sys; from importlinter.cli import lint_imports; "
    "sys.exit(lint_imports('pyproject.toml', no_cache=True))"
)


def test_imports_point_down() -> None:
    """
    All contracts of pyproject.toml are kept.
    """
    # In a process of its own, because it disables all loggers there are.
    linted = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == linted.returncode, linted.stdout + linted.stderr
