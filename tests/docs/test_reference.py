"""The reference names what is public: all of it, and nothing else."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob, MemberStream
from amplitude_cohorts_async.errors import MissingExtraError
from support.surface import public_modules

PAGE = (Path(__file__).parents[2] / "docs/reference.md").read_text()
CHAPTER = re.compile(r"^#{2,3} `([\w.]+)`$(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
CHAPTERS: dict[str, str] = dict(CHAPTER.findall(PAGE))
FIRST_CELL = re.compile(r"^\| (.+?) \|", re.MULTILINE)
NAME = re.compile(r"`(\w+)(?:\(\))?`")


def names_in(chapter: str) -> set[str]:
    """Return the names in the first column of a chapter's table."""
    return {
        name
        for cell in FIRST_CELL.findall(CHAPTERS[chapter])
        for name in NAME.findall(cell)
    }


def test_every_public_module_has_a_chapter() -> None:
    """And each chapter is about a module, or a class with methods."""
    classes = {"CohortsClient", "ExportJob", "MemberStream"}

    assert classes | {*public_modules()} == set(CHAPTERS)


@pytest.mark.parametrize("name", public_modules())
def test_names_of_a_module_are_in_its_chapter(name: str) -> None:
    """The table has the names of `__all__`."""
    try:
        module = importlib.import_module(name)
    except MissingExtraError as error:
        pytest.skip(str(error))

    assert set(module.__all__) == names_in(name)


@pytest.mark.parametrize("kind", [CohortsClient, ExportJob, MemberStream])
def test_methods_of_a_class_are_in_its_chapter(kind: type) -> None:
    """The table has the public methods and properties."""
    public = {name for name in vars(kind) if not name.startswith("_")}

    assert public == names_in(kind.__name__)
