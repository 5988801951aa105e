"""
The figures in docs/limits.md are those of the code.
"""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_is_current():
    """
    `python benchmarks/limits/schedule.py --write` would change nothing.
    """
    table = runpy.run_path(str(ROOT / "benchmarks" / "limits" / "schedule.py"))["table"]

    assert table() in (ROOT / "docs" / "limits.md").read_text()
