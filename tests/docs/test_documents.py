"""Every Python example of every document runs, unchanged, against the emulator."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
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

OTHER_BLOCK = re.compile(r"^```(?!python)(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Where, beside this module: test_console.py, tests/browser/test_fastapi_page.py.
TESTED = {"console", "js", "json", "text"}
JSON_BLOCK = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)

# How many examples of a page do not run here, and what runs them.
SKIPPED = {
    "docs/howto/buckets.md": (2, "a bucket: tests/services/test_buckets.py"),
    "docs/howto/engines.md": (4, "tests/engines, with the engine"),
    "docs/howto/fleet.md": (1, "keys of two projects: tests/test_many_projects.py"),
    "docs/howto/moving.md": (4, "other clients: test_moving.py"),
}

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


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_is_skipped_has_a_reason(path: Path) -> None:
    """No example is skipped unseen."""
    count, _ = SKIPPED.get(str(path.relative_to(ROOT)), (0, ""))

    assert count == path.read_text().count("<!-- skip:")


def test_each_language_is_tested() -> None:
    """Text is what a program prints: no example is hidden in it."""
    texts = [
        path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    ]
    blocks = [block for text in texts for block in OTHER_BLOCK.findall(text)]

    assert TESTED >= {language for language, _ in blocks}
    assert [] == [
        text
        for language, text in blocks
        if language == "text" and re.search(r"\b(?:await|import|from_env)\b", text)
    ]


def test_settings_are_json() -> None:
    """Those that a reader hands to another service."""
    texts = [path.read_text() for path in ROOT.glob("docs/**/*.md")]
    blocks = [block for text in texts for block in JSON_BLOCK.findall(text)]

    assert blocks
    assert all(map(json.loads, blocks))
