"""
Write the commands and their options into the page about them.

Run as a program, it brings `docs/cli.md` up to date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from typer.main import get_command

from amplitude_cohorts_async.cli.app import app
from amplitude_cohorts_async.cli.common import Connection

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
SHARED = {field.name for field in attrs.fields(Connection)}
GENERATED = re.compile(
    r"(?<=<!-- commands -->\n).*(?=<!-- end of commands -->)", re.DOTALL
)


def main() -> None:
    """Bring the page up to date."""
    PAGE.write_text(current(PAGE.read_text()))


def current(page: str) -> str:
    """Return the page as it should be."""
    found = list(commands())
    shared = [
        _row(param)
        for param in dict(found)["amplitude-cohorts list"].params
        if param.name in SHARED
    ]
    parts = "\n".join(
        [
            "Those that ask the service have these options; the others the first two.\n",
            _table(shared),
            *(_section(name, each) for name, each in found),
        ]
    )

    return GENERATED.sub(lambda _: f"\n{parts}\n", page)


def commands() -> Iterator[tuple[str, object]]:
    """Tell every command by its full name, those of groups included."""
    yield from _commands_of("amplitude-cohorts", get_command(app))


def _commands_of(name: str, command) -> Iterator[tuple[str, object]]:
    for word, each in command.commands.items():
        if hasattr(each, "commands"):
            if each.invoke_without_command:
                yield f"{name} {word}", each
            yield from _commands_of(f"{name} {word}", each)
        else:
            yield f"{name} {word}", each


def _section(name: str, command) -> str:
    own = [param for param in command.params if param.name not in SHARED]
    given = [_argument(param) for param in own if not _is_option(param)]
    usage = " ".join([name, *given, "[OPTIONS]"])

    return "\n".join(
        [
            f"### {name}\n",
            f"```text\n{usage}\n```\n",
            f"{command.help}\n",
            _table([_row(param) for param in own if _is_option(param)]),
        ]
    )


def _table(rows: list[str]) -> str:
    return "\n".join(["| option | |", "|---|---|", *rows, ""]) if rows else ""


def _argument(param) -> str:
    name = (param.metavar or param.name).upper()

    return f"{name}..." if -1 == param.nargs else name


def _row(param) -> str:
    names = ", ".join(f"`{name}`" for name in param.opts)
    metavar = "" if param.is_flag else f" {param.metavar or 'VALUE'}"
    default = (
        "" if param.is_flag or not param.default else f" Default: `{_word(param)}`."
    )

    return f"| {names}{metavar.replace('|', chr(92) + '|')} | {param.help}{default} |"


def _word(param) -> str:
    value = getattr(param.default, "value", param.default)

    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_option(param) -> bool:
    return "option" == param.param_type_name


if __name__ == "__main__":
    main()
