"""
The public surface as text: every public name with its signature.

`python tests/support/surface.py > tests/public/api.txt` writes down a wanted change.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType

ROOT = "amplitude_cohorts_async"
PUBLIC = ("errors", "events", "limits", "models", "policies", "protocols", "testing")


def public_modules() -> list[str]:
    """
    Name the modules that a user may import.
    """
    doors = importlib.import_module(f"{ROOT}.contrib")
    names = [ROOT, *(f"{ROOT}.{name}" for name in PUBLIC)]
    names += sorted(
        f"{doors.__name__}.{door.name}"
        for door in pkgutil.iter_modules(doors.__path__)
        if not door.name.startswith("_")
    )

    return names


def describe(module: ModuleType) -> str:
    """
    Describe what a module exports, one line for each name and each member.
    """
    lines = [module.__name__]
    for name in sorted(module.__all__):
        lines += (f"  {line}" for line in _describe(name, getattr(module, name)))

    return "\n".join(lines) + "\n"


def _describe(name: str, value: object) -> Iterator[str]:
    if isinstance(value, ModuleType):
        yield f"module {name}"
    elif inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        yield f"class {name}({bases})"
        yield from (f"  {line}" for line in _members(value))
    elif callable(value) and hasattr(value, "__name__"):
        yield f"{_kind(value)} {name}{inspect.signature(value)}"
    else:
        yield f"{name} = {value!r}"


def _members(cls: type) -> Iterator[str]:
    for name, kind in sorted(vars(cls).get("__annotations__", {}).items()):
        if not name.startswith("_"):
            yield f"{name}: {kind}"

    for name, member in sorted(vars(cls).items()):
        # Enumerations and the values of attrs make some methods by themselves.
        if "__init__" == name or not name.startswith("_"):
            yield from _member(name, member)


def _member(name: str, member: object) -> Iterator[str]:
    if isinstance(member, property):
        result = inspect.signature(member.fget).return_annotation  # type: ignore[arg-type]
        yield f"property {name} -> {result}"
    elif isinstance(member, classmethod | staticmethod):
        yield (
            f"{type(member).__name__} {_kind(member.__func__)} "
            f"{name}{inspect.signature(member.__func__)}"
        )
    elif inspect.isfunction(member):
        yield f"{_kind(member)} {name}{inspect.signature(member)}"
    elif not inspect.isdatadescriptor(member):
        yield f"{name} = {member!r}"


def _kind(function: object) -> str:
    awaited = inspect.iscoroutinefunction(function)
    return "async def" if awaited else "def"


if __name__ == "__main__":
    modules = map(importlib.import_module, public_modules())
    sys.stdout.write("\n".join(map(describe, modules)))
