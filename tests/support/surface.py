"""
The public surface as text: every public name with its signature.

`python tests/support/surface.py > tests/public/api.txt` writes down a wanted change.
The adaptors of engines are not in it: no environment has all engines.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType

ROOT = "amplitude_cohorts_async"
PUBLIC = (
    *(
        "blocking",
        "destinations",
        "errors",
        "events",
        "jobs",
        "limiters",
        "limits",
        "models",
        "policies",
        "testing",
    ),
    "types",
)
ENGINES = ("airflow", "dagster", "dbos", "procrastinate")


class _Source(str):
    """An annotation, shown as it stands in the source."""

    __slots__ = ()
    __repr__ = str.__str__


def public_modules(*, engines: bool = True) -> list[str]:
    """Name the modules that a user may import, the adaptors of engines or not."""
    doors = importlib.import_module(f"{ROOT}.contrib")
    names = [ROOT, *(f"{ROOT}.{name}" for name in PUBLIC)]
    names += sorted(
        f"{doors.__name__}.{door.name}"
        for door in pkgutil.iter_modules(doors.__path__)
        if not door.name.startswith("_") and (engines or door.name not in ENGINES)
    )

    return names


def describe(module: ModuleType) -> str:
    """Describe what a module exports, one line for each name and each member."""
    lines = [module.__name__]
    for name in sorted(module.__all__):
        lines += (
            f"  {line}"
            for line in _describe(module.__name__, name, getattr(module, name))
        )

    return "\n".join(lines) + "\n"


def _describe(module: str, name: str, value: object) -> Iterator[str]:
    home = getattr(value, "__module__", module)
    if isinstance(value, ModuleType):
        yield f"module {name}"
    elif module != home in public_modules():
        yield f"{name}: see {home}"
    elif inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        yield f"class {name}({bases})"
        yield from (f"  {line}" for line in _members(value))
    elif inspect.isfunction(value):
        yield f"{_kind(value)} {name}{_signature(value)}"
    else:
        yield f"{name} = {_plain(value)!r}"


def _members(cls: type) -> Iterator[str]:
    if issubclass(cls, Enum):
        yield from (f"{each.name} = {each.value!r}" for each in cls)
        return

    for name, kind in sorted(inspect.get_annotations(cls).items()):
        if not name.startswith("_"):
            yield f"{name}: {kind}"

    for name, member in sorted(vars(cls).items()):
        if "__init__" == name or not name.startswith("_"):
            yield from _member(name, member)


def _member(name: str, member: object) -> Iterator[str]:
    if isinstance(member, property):
        result = inspect.signature(member.fget).return_annotation  # type: ignore[arg-type]
        yield f"property {name} -> {result}"
    elif isinstance(member, classmethod | staticmethod):
        yield (
            f"{type(member).__name__} {_kind(member.__func__)} "
            f"{name}{_signature(member.__func__)}"
        )
    elif inspect.isfunction(member):
        yield f"{_kind(member)} {name}{_signature(member)}"
    elif not inspect.isdatadescriptor(member):
        yield f"{name} = {member!r}"


def _signature(function: Callable[..., object]) -> str:
    bare = inspect.signature(function)
    parameters = [
        each.replace(annotation=_source(each.annotation), default=_plain(each.default))
        for each in bare.parameters.values()
    ]
    result = _source(bare.return_annotation)
    text = str(bare.replace(parameters=parameters, return_annotation=result))

    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _source(annotation: object) -> object:
    return _Source(annotation) if isinstance(annotation, str) else annotation


def _plain(value: object) -> object:
    # The order of a set differs from run to run.
    return (
        _Source(f"frozenset({sorted(value)})")
        if isinstance(value, frozenset)
        else value
    )


def _kind(function: object) -> str:
    awaited = inspect.iscoroutinefunction(function)
    return "async def" if awaited else "def"


if __name__ == "__main__":
    modules = map(importlib.import_module, public_modules(engines=False))
    sys.stdout.write("\n".join(map(describe, modules)))
