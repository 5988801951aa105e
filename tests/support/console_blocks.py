"""The commands of a document: what is typed in its console blocks, and what is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

BLOCK = re.compile(r"^```(?:console|sh|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "$ "
COMMENT = re.compile(r"\s{2,}# .*")
WITH_A_DIGIT = re.compile(r"\S*\d\S*")
ANYTHING = "..."


@attrs.frozen
class Typed:
    """A command of a document, and the lines that are shown below it."""

    text: str
    line: int
    shown: Sequence[str] = ()


def typed_in(document: Path) -> Iterator[Typed]:
    """Tell the commands of a document, in its order."""
    text = document.read_text()

    for block in BLOCK.finditer(text):
        yield from _typed_in(block[1], text.count("\n", 0, block.start(1)) + 1)


def missing_lines(shown: Sequence[str], printed: str) -> list[str]:
    """
    Return the shown lines that were not printed, in that order, with others between.

    A word with a digit stands for any word, and "..." for any text.
    """
    lines = iter(printed.splitlines())

    return [each for each in shown if not _is_among(each, lines)]


def _typed_in(block: str, first: int) -> Iterator[Typed]:
    # A block without a prompt has nothing but commands.
    is_prompted = block.startswith(PROMPT)
    lines = enumerate(block.splitlines(), first)
    typed: Typed | None = None

    for number, line in lines:
        if is_prompted and not line.startswith(PROMPT):
            assert typed, f"line {number} is below no command"
            typed = attrs.evolve(typed, shown=[*typed.shown, line])
            continue
        if typed:
            yield typed
        text = line.removeprefix(PROMPT)
        while text.endswith("\\"):
            text = f"{text[:-1].rstrip()} {next(lines)[1].strip()}"
        typed = Typed(COMMENT.sub("", text), number)

    if typed:
        yield typed


def _is_among(shown: str, lines: Iterable[str]) -> bool:
    pattern = re.compile(r"\s+".join(map(_pattern, shown.split())))

    return any(pattern.fullmatch(line.strip()) for line in lines)


def _pattern(word: str) -> str:
    if WITH_A_DIGIT.fullmatch(word) and ANYTHING not in word:
        return r"\S+"

    return ".*".join(map(re.escape, word.split(ANYTHING)))
