"""The contents for programs are those of the navigation."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="the group docs is not installed")

ROOT = Path(__file__).parents[2]


def test_the_contents_are_current() -> None:
    """`python tools/llms.py` writes them."""
    tool = runpy.run_path(str(ROOT / "tools/llms.py"))

    assert tool["current"]() == (ROOT / "docs/llms.txt").read_text()
