"""Examples for newcomers run as they are pasted into `python -m asyncio`."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from code import InteractiveConsole
from pathlib import Path
from types import CodeType, FunctionType
from typing import NoReturn

import pytest

from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.demo import add_demo_cohorts

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Prompt(InteractiveConsole):
    """`python -m asyncio` without its terminal: what goes wrong is raised."""

    def __init__(self, runner: asyncio.Runner) -> None:
        super().__init__({"__name__": "__main__"})
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._runner = runner

    def runcode(self, code: CodeType) -> None:
        """Run a statement."""
        result = FunctionType(code, self.locals)()
        if inspect.iscoroutine(result):
            self._runner.run(result)

    def showsyntaxerror(self, *_args: object, **_options: object) -> NoReturn:
        """Raise it: called where it is handled."""
        raise  # noqa: PLE0704

    def paste(self, block: str) -> None:
        """Enter the lines of a block, and an empty one that ends it."""
        for line in block.splitlines():
            self.push(line)

        assert not self.push(""), "the block is not complete"


@pytest.mark.slow
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_examples_run_at_a_prompt(name: str) -> None:
    """One after the other, statement by statement: an empty line ends a block."""
    blocks = BLOCK.findall((ROOT / name).read_text())

    with asyncio.Runner() as runner:
        prompt = Prompt(runner)
        for block in blocks:
            prompt.paste(block)

    assert blocks


def test_the_command_emulates_the_examples_cohorts(world: CohortsEmulator) -> None:
    """So that they can be tried with `amplitude-cohorts emulate`."""
    emulator = CohortsEmulator()
    add_demo_cohorts(emulator, size=1)

    assert {*world.cohort_ids} <= {*emulator.cohort_ids}
