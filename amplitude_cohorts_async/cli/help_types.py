"""Commands whose help tells no type as Python calls it, as ``<bool>`` or ``<str>``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

__all__ = ("Command", "Group")


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return its parameters, that of help included."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A command with commands of its own."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return its parameters, that of help included."""
        return _without_types(super().get_params(ctx))


def _without_types(params: Iterable[object]) -> list[Any]:
    found = list(params)

    for each in found:
        # A switch takes no value; an argument's name says what it is.
        if isinstance(each, TyperOption) and each.is_flag:
            each.metavar = ""
        elif isinstance(each, TyperArgument):
            vars(each)["display_type_rich"] = _no_type

    return found


def _no_type(ctx: object) -> str:  # noqa: ARG001 - typer passes it by its name
    return ""
