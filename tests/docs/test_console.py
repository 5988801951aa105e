"""The commands of the tutorial and the README run as they are typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.demo import add_demo_cohorts

pytest.importorskip("typer", reason="the extra cli is not installed")

ROOT = Path(__file__).parents[2]
TYPED = re.compile(r"^\$ amplitude-cohorts (?!emulate|demo)(.+)$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_commands_run(name: str, tmp_path: Path) -> None:
    """With the cohorts that `emulate` has; each ends with 0."""
    typed = TYPED.findall((ROOT / name).read_text())
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }

    with CohortsEmulator() as emulator:
        add_demo_cohorts(emulator, size=1)
        for words in typed:
            done = subprocess.run(
                f"{sys.executable} -m amplitude_cohorts_async {words}",
                shell=True,
                cwd=tmp_path,
                env={**environment, **emulator.environment()},
                capture_output=True,
                text=True,
                check=False,
            )
            assert 0 == done.returncode, done.stderr

    assert typed
