"""
Write the table that a shell's completion reads.

Run as a program, it brings `cli/completions.json` up to date.
"""

from __future__ import annotations

import json
from pathlib import Path

from typer.main import get_command

from amplitude_cohorts_async import cli
from amplitude_cohorts_async.cli.app import app

TABLE = Path(cli.__file__).with_name("completions.json")
PLACES = ("FILE", "PATH", "DIR", "FILE|URL", "A", "B")


def main() -> None:
    """Bring the table up to date."""
    TABLE.write_text(current())


def current() -> str:
    """Return the table as it should be."""
    table: dict[str, object] = {}
    _add(table, (), get_command(app))

    return json.dumps(table, indent=1, sort_keys=True) + "\n"


def _add(table: dict[str, object], path: tuple[str, ...], command) -> None:
    own = getattr(command, "commands", {})
    options = [each for each in command.params if "option" == each.param_type_name]
    table[" ".join(path)] = {
        "commands": {name: _sentence(each) for name, each in own.items()},
        "options": {
            name: ["-" if each.is_flag else _kind(each, path), _sentence(each)]
            for each in options
            for name in each.opts
            if each.help
        },
        "arguments": [
            _kind(each, path) + ("..." if -1 == each.nargs else "")
            for each in command.params
            if "option" != each.param_type_name
        ],
    }
    for name, each in own.items():
        _add(table, (*path, name), each)


def _sentence(of) -> str:
    return (of.help or "").splitlines()[0].partition("; ")[0].rstrip(".")


def _kind(param, path: tuple[str, ...]) -> str:
    metavar = (param.metavar or "").strip("[]")

    if "profile" == param.name or (("profiles",) == path[:1] and "name" == param.name):
        return "profile"

    if param.name in {"cohort_id", "cohort_ids", "replace"}:
        return "cohort"

    if metavar in PLACES or "ids" == param.name:
        return "file"

    choices = [word for word in metavar.split("|") if word.islower()]

    return "|".join(choices) if "|" in metavar else ""


if __name__ == "__main__":
    main()
