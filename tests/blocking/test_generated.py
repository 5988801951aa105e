"""The blocking client has all that the async one has, and says so in its words."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from pathlib import Path

import pytest

import amplitude_cohorts_async
from amplitude_cohorts_async import blocking
from amplitude_cohorts_async.blocking import _generated
from amplitude_cohorts_async.types import ExportBatch

TOOL = Path(__file__).parents[2] / "tools/generate_blocking.py"
PACKAGE = Path(amplitude_cohorts_async.__file__).parent

PAIRS = [
    (amplitude_cohorts_async.CohortsClient, blocking.CohortsClient),
    (amplitude_cohorts_async.ExportJob, blocking.ExportJob),
    (amplitude_cohorts_async.MemberStream, blocking.MemberStream),
    (ExportBatch, blocking.ExportBatch),
]
TWINS = {
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
SIGNED = [
    pytest.param(getattr(ours, name), getattr(theirs, TWINS.get(name, name)), id=name)
    for ours, theirs in PAIRS
    for name in vars(ours)
    if not name.startswith("_")
    and inspect.isroutine(getattr(ours, name))
    and hasattr(theirs, TWINS.get(name, name))
]


def test_the_file_is_what_the_tool_writes() -> None:
    """`python tools/generate_blocking.py` changes nothing but the layout."""
    written = runpy.run_path(str(TOOL))["generated"](PACKAGE)
    kept = Path(_generated.__file__).read_text()

    assert ast.dump(tidy(written)) == ast.dump(tidy(kept))


def tidy(text: str) -> ast.Module:
    """Return the tree of a module without its imports, which a tool sorts."""
    tree = ast.parse(text)
    tree.body = [
        each for each in tree.body if not isinstance(each, ast.Import | ast.ImportFrom)
    ]
    return tree


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda each: each.__name__)
def test_nothing_is_missing(ours: type, theirs: type) -> None:
    """Each public method, property and protocol of the async class has a twin."""
    public = {name for name in vars(ours) if not name.startswith("_") or name in TWINS}

    assert public
    assert [] == [
        name for name in sorted(public) if not hasattr(theirs, TWINS.get(name, name))
    ]


@pytest.mark.parametrize("name", ["diff_ids", "export_cohort"])
def test_functions_have_twins(name: str) -> None:
    """So do the functions of the root that are async."""
    ours = getattr(amplitude_cohorts_async, name)

    assert inspect.iscoroutinefunction(ours)
    assert parameters_of(ours) == parameters_of(getattr(blocking, name))


@pytest.mark.parametrize(("ours", "theirs"), SIGNED)
def test_arguments_are_the_same(ours: object, theirs: object) -> None:
    """Names, kinds and defaults; a method that is awaited here is plain there."""
    assert parameters_of(ours) == parameters_of(theirs)
    assert not inspect.iscoroutinefunction(theirs)


def parameters_of(function: object) -> list[tuple[object, ...]]:
    """Return what a signature says, without its types."""
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("name", blocking.__all__)
def test_no_text_speaks_of_await(name: str) -> None:
    """What `help()` shows has no word of the other client."""
    value = getattr(blocking, name)
    members = vars(value).values() if inspect.isclass(value) else ()
    texts = [inspect.getdoc(each) or "" for each in (value, *members)]

    assert [] == [
        text for text in texts if re.search(r"\basync\b|\bawait|aclose", text)
    ]
