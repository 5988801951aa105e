"""Every program in `examples` runs as it stands."""

from __future__ import annotations

import asyncio
import inspect
import runpy
from pathlib import Path

import pytest

pytest.importorskip("sybil", reason="the group docs is not installed")

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(ROOT.glob("examples/*.py"))

# Two million are written in tests/emulator/test_writes.py.
ARGUMENTS = {"two_million_ids.py": ["150000"]}

pytestmark = [pytest.mark.usefixtures("world"), pytest.mark.slow]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_program_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program finds its keys in the environment and ends without an error."""
    monkeypatch.setattr("sys.argv", [path.name, *ARGUMENTS.get(path.name, [])])

    names = runpy.run_path(str(path))

    if inspect.iscoroutinefunction(main := names.get("main")):
        asyncio.run(main())
