"""
The floor plan, as import-linter sees it.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import amplitude_cohorts_async

ROOT = Path(__file__).parents[2]


def test_imports_point_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    All contracts of pyproject.toml are kept.
    """
    monkeypatch.setattr(sys, "path", sys.path.copy())

    status = lint_imports(str(ROOT / "pyproject.toml"), no_cache=True)

    assert 0 == status, capsys.readouterr().out


def test_the_command_may_use_no_private_module() -> None:
    """
    Its contract forbids all there are.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {
        contract["name"]: contract
        for contract in project["tool"]["importlinter"]["contracts"]
    }
    forbidden = contracts["The command is a user of the library"]["forbidden_modules"]
    package = Path(amplitude_cohorts_async.__file__).parent
    private = {path.stem for path in package.glob("_[!_]*") if "__" not in path.name}

    assert {f"{package.name}.{name}" for name in private} == set(forbidden)
