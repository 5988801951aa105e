"""
What a shell offers at TAB: reads local files alone, and loads no command.

The commands and their options are in `completions.json`, which is generated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

__all__ = ("FILES", "candidates", "print_candidates")

FILES = ":files"
"""The only line where the shell itself completes the names of files."""

_TABLE = Path(__file__).with_name("completions.json")
_LONGEST = 60
"""Characters of a description."""


class Node(TypedDict):
    """
    A command of the table.

    Attributes:
        commands: The help of its own commands by name.
        options: Kind of the value ("-" for a switch) and help, by name.
        arguments: Kinds of its arguments; the last one may be repeated.
    """

    commands: Mapping[str, str]
    options: Mapping[str, Sequence[str]]
    arguments: Sequence[str]


def print_candidates(words: Sequence[str]) -> None:
    """Print the candidates for the last of the words behind the command's name."""
    for line in candidates(words):
        sys.stdout.write(f"{line}\n")


def candidates(words: Sequence[str]) -> list[str]:
    """
    Return lines of a value, a TAB and its description; or `FILES` alone.

    Args:
        words: Those typed so far; the last one, which may be empty, is completed.
    """
    *before, current = _whole(words) or [""]
    line = _CommandLine.after(before)
    found: list[tuple[str, str]]

    if line.awaited is not None:
        found = list(_values(line.awaited, line.given))
    elif current.startswith("--") and "=" in current:
        name = current.partition("=")[0]
        kind = line.node["options"].get(name, ("", ""))[0]
        found = [
            (value if value == FILES else f"{name}={value}", text)
            for value, text in _values(kind, line.given)
        ]
    elif current.startswith("-"):
        found = [(name, about[1]) for name, about in line.node["options"].items()]
    elif line.node["commands"]:
        found = list(line.node["commands"].items())
    else:
        found = list(_values(line.argument, line.given))

    if FILES in dict(found):
        return [FILES]

    return [
        f"{value}\t{_line(text)}" for value, text in found if value.startswith(current)
    ]


def _whole(words: Sequence[str]) -> list[str]:
    # bash takes "--region=eu" apart at the "=".
    found: list[str] = []

    for word in words:
        is_value = len(found) > 1 and found[-1] == "=" and found[-2].startswith("--")

        if is_value:
            found[-1] = word
        else:
            found.append(word)

    return ["" if word == "=" else word for word in found]


class _CommandLine:
    """
    A command line as far as the word at the cursor.

    Attributes:
        awaited: The kind of the value of the option before it, if that has one.
        given: The values of the options before it.
    """

    def __init__(self) -> None:
        self.table: Mapping[str, Node] = json.loads(_TABLE.read_text("utf-8"))
        self.path: list[str] = []
        self.awaited: str | None = None
        self.given: dict[str, str] = {}
        self._option = ""
        self._count = 0

    @classmethod
    def after(cls, words: Sequence[str]) -> _CommandLine:
        """Return the command line of some words."""
        line = cls()

        for word in words:
            line.step(word)

        return line

    @property
    def node(self) -> Node:
        """The command."""
        return self.table[" ".join(self.path)]

    @property
    def argument(self) -> str:
        """The kind of the next argument; empty for none."""
        kinds = self.node["arguments"]

        if self._count < len(kinds):
            return kinds[self._count]

        return kinds[-1] if kinds and kinds[-1].endswith("...") else ""

    def step(self, word: str) -> None:
        """Go on behind a word."""
        if self.awaited is not None:
            self.given[self._option] = word
            self.awaited = None
        elif word.startswith("-") and len(word) > 1:
            self._option, equals, value = word.partition("=")
            kind = self.node["options"].get(self._option, ("-", ""))[0]
            if equals:
                self.given[self._option] = value
            elif kind != "-":
                self.awaited = kind
        elif word in self.node["commands"]:
            self.path.append(word)
        else:
            self._count += 1


def _values(kind: str, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    kind = kind.removesuffix("...")

    if kind == "file":
        yield FILES, ""
    elif kind == "cohort":
        yield from _cohorts(given)
    elif kind == "profile":
        yield from _profiles()
    else:
        for choice in filter(None, kind.split("|")):
            yield choice, ""


def _cohorts(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    from .cohort_cache import known_cohorts  # noqa: PLC0415 - only where it is needed
    from .keys import project_hash  # noqa: PLC0415

    known = known_cohorts(
        project_hash(
            given.get("--profile"),
            region=given.get("--region"),
            base_url=given.get("--base-url"),
        )
    )

    for cohort_id, name in known.items():
        # A shell might read anything else as more than a word.
        if (
            cohort_id.isascii()
            and cohort_id.replace("-", "").replace("_", "").isalnum()
        ):
            yield cohort_id, name


def _profiles() -> Iterator[tuple[str, str]]:
    from .profile_file import read_profiles  # noqa: PLC0415 - only where it is needed

    for name, profile in read_profiles().by_name.items():
        yield name, profile.region or ""


def _line(text: str) -> str:
    # Names of cohorts are of anybody's making.
    shown = "".join(char if char.isprintable() else " " for char in text)

    return shown[:_LONGEST].strip()
