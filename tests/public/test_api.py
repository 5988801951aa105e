"""The public surface changes on purpose only."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

import pytest

from amplitude_cohorts_async.errors import MissingExtraError
from support.surface import describe, public_modules

PROMISED = Path(__file__).with_name("api.txt")
MODULES = public_modules()
WITHOUT_ENGINES = public_modules(engines=False)


@pytest.mark.parametrize("name", WITHOUT_ENGINES)
def test_surface_is_as_promised(name: str) -> None:
    """
    Every public name has the signature that is written down in api.txt.

    A wanted change is written down by tests/support/surface.py.
    """
    try:
        module = importlib.import_module(name)
    except MissingExtraError as error:
        pytest.skip(str(error))

    promises = PROMISED.read_text().split("\n\n")
    promised = {promise.partition("\n")[0]: promise.rstrip() for promise in promises}

    assert promised.get(name) == describe(module).rstrip()


@pytest.mark.parametrize("name", MODULES)
def test_names_exist_once(name: str) -> None:
    """`__all__` is a tuple of names that exist, each of them once."""
    try:
        module = importlib.import_module(name)
        missing = [each for each in module.__all__ if not hasattr(module, each)]
    except MissingExtraError as error:
        pytest.skip(str(error))

    assert isinstance(module.__all__, tuple)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [] == missing


PRIVATE_CONSTRUCTORS = {"ExportBatch", "ExportJob", "MemberStream"}
"""Classes that a user is given and never makes."""


def test_every_type_in_a_signature_can_be_imported() -> None:
    """What an annotation names of this package has a public home."""
    try:
        modules = [importlib.import_module(name) for name in WITHOUT_ENGINES]
    except MissingExtraError as error:
        pytest.skip(str(error))

    public = {name for module in modules for name in module.__all__}
    named = {
        name
        for module in modules
        for each in module.__all__
        for name in private_names_in(getattr(module, each))
    }

    # What our own limiters and clients hand each other is not for users.
    assert {"LimiterState"} == named - public


def private_names_in(value: object) -> Iterator[str]:
    """Yield what the signatures of a class or function name of private modules."""
    if inspect.isclass(value) or inspect.isfunction(value):
        private = private_names_of(sys.modules[value.__module__])

        for text in annotations_of(value):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Name) and node.id in private:
                    yield node.id


def annotations_of(value: object) -> list[str]:
    """Return the annotations of a function, or of a class and its public methods."""
    found = [*inspect.get_annotations(value).values()]  # type: ignore[arg-type]

    for name, member in vars(value).items() if inspect.isclass(value) else ():
        constructs = "__init__" == name and value.__name__ not in PRIVATE_CONSTRUCTORS
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)

        if inspect.isfunction(function) and (constructs or not name.startswith("_")):
            function = inspect.unwrap(function)
            found += inspect.get_annotations(function).values()

    return [text for text in found if isinstance(text, str)]


def private_names_of(module: ModuleType) -> set[str]:
    """Return the names in a module that come from a private module of the package."""
    names: set[str] = set()

    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and node.level:
            path = "." * node.level + (node.module or "")
            home = resolve_name(path, module.__package__)
            aliases = [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.ClassDef):
            home, aliases = module.__name__, [node.name]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            home, aliases = module.__name__, [node.target.id]
        else:
            continue

        if any(part.startswith("_") for part in home.split(".")):
            names |= set(aliases)

    return names
