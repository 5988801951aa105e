"""Every Python example of every document runs, unchanged, against the emulator."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sybil", reason="the group docs is not installed")

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator, pad
from sybil.parsers.markdown import CodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if "```python" in path.read_text()
)

pytestmark = [pytest.mark.usefixtures("world"), pytest.mark.slow]


class AwaitingEvaluator(PythonEvaluator):
    """Run Python that may await at its top level, as a notebook does."""

    def __init__(self, runner: asyncio.Runner) -> None:
        super().__init__()
        self._runner = runner

    def __call__(self, example: Example) -> None:
        """Compile the example so that errors name its lines, and run it."""
        code = compile(
            pad(example.parsed, example.line + example.parsed.line_offset),
            example.path,
            "exec",
            self.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        result = eval(code, example.namespace)
        if inspect.iscoroutine(result):
            self._runner.run(result)


@pytest.fixture
def sybil() -> Iterator[Sybil]:
    """A reader of documents, with one event loop for all examples of one document."""
    with asyncio.Runner() as runner:
        evaluator = AwaitingEvaluator(runner)
        yield Sybil([CodeBlockParser("python", evaluator), SkipParser()])


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_examples_run(path: Path, sybil: Sybil) -> None:
    """What a reader copies from the document works."""
    document = sybil.parse(path)

    for example in document.examples():
        example.evaluate()
