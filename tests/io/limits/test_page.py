"""The figures in docs/limits.md are those of the code."""

from __future__ import annotations

import runpy

import pytest

pytestmark = pytest.mark.slow


def test_the_table_is_current(pytestconfig: pytest.Config):
    """`python benchmarks/limits/schedule.py --write` would change nothing."""
    root = pytestconfig.rootpath
    benchmark = runpy.run_path(str(root / "benchmarks" / "limits" / "schedule.py"))

    assert benchmark["table"]() in (root / "docs" / "limits.md").read_text()
