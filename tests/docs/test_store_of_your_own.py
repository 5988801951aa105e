"""The store of one's own in `docs/jobs.md`, and its tests, as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHAPTER = "## A store of your own"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_printed_tests_pass(tmp_path: Path) -> None:
    """In a folder of their own, with the option that the page names."""
    page = (ROOT / "docs/jobs.md").read_text()
    blocks = BLOCK.findall(page[page.index(CHAPTER) :])
    (tmp_path / "test_store.py").write_text("\n".join(blocks))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "anyio_mode=auto"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE)
