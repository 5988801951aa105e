"""The examples of other clients in `docs/howto/moving.md`, with these clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator

pytest.importorskip("amplitude_data_wrapper", reason="the group docs is not installed")
pytest.importorskip("pyamplitude", reason="the group docs is not installed")

ROOT = Path(__file__).parents[2]
CHAPTER = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SKIPPED = re.compile(
    r"^<!-- skip: next -->\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL
)
RUN = """
import ast, asyncio, inspect, sys
code = compile(sys.stdin.read(), "moving.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
if inspect.iscoroutine(result := eval(code)):
    asyncio.run(result)
"""


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["From amplitude-data-wrapper", "From pyamplitude"])
def test_old_code_runs(chapter: str, tmp_path: Path) -> None:
    """At the emulator's address each brings a file, for one export."""
    chapters = dict(CHAPTER.findall((ROOT / "docs/howto/moving.md").read_text()))
    address, old = (
        "\n".join(SKIPPED.findall(chapters[each])) for each in ("Side by side", chapter)
    )

    with CohortsEmulator(job_seconds=0) as emulator:
        emulator.add_cohort("26umsb5", members=["ann"])
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            input=f"{address}\n{old}",
            cwd=tmp_path,
            env={**os.environ, **emulator.environment(), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert 0 == done.returncode, done.stderr
    assert "ann" in (tmp_path / "members.csv").read_text()
    assert 1 == emulator.spent
