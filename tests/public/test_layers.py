"""
The floor plan, as import-linter sees it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

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
