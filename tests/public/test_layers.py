"""The floor plan, as import-linter sees it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import amplitude_cohorts_async

ROOT = Path(__file__).parents[2]

LINT = (
    "import sys; from importlinter.cli import lint_imports; "
    "sys.exit(lint_imports('pyproject.toml', no_cache=True))"
)


def test_imports_point_down() -> None:
    """All contracts of pyproject.toml are kept."""
    # In a process of its own, because it disables all loggers there are.
    linted = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == linted.returncode, linted.stdout + linted.stderr


def test_the_command_may_use_no_private_module() -> None:
    """Its contract forbids all there are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {
        contract["name"]: contract
        for contract in project["tool"]["importlinter"]["contracts"]
    }
    forbidden = contracts["The command and the engines are users of the library"][
        "forbidden_modules"
    ]
    package = Path(amplitude_cohorts_async.__file__).parent
    private = {path.stem for path in package.glob("_[!_]*") if "__" not in path.name}

    assert {f"{package.name}.{name}" for name in private} == set(forbidden)
