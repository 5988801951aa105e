"""
Values into text: tables for people, tabs for pipes, JSON for programs.

A terminal gets tables. Anything else gets one line each with TABs between and
no header, for ``cut`` and ``grep``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import cast

import attrs
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ..models import Cohort, SavedExport, Usage

__all__ = (
    "JSON_VERSION",
    "cohort",
    "cohorts",
    "document",
    "failure",
    "printable",
    "saved",
    "table",
    "usage",
)

JSON_VERSION = 1
"""
Raised when a key of the JSON goes away or changes its meaning. New keys may
come at any time.
"""


def document(name: str, value: object) -> None:
    """
    Print a JSON document: the version, and *value* under its *name*.
    """
    _print_json({"version": JSON_VERSION, name: value})


def failure(error: BaseException, code: int, *, as_json: bool) -> None:
    """
    Print an error on stderr; its notes are commands that go on from it.
    """
    message = _message(error)
    go_on: Sequence[str] = getattr(error, "__notes__", ())

    if as_json:
        facts = {
            "code": int(code),
            "type": type(error).__name__,
            "message": message,
            "token": getattr(error, "token", None),
            "resume": list(go_on),
        }
        text = json.dumps({"version": JSON_VERSION, "error": facts})
    else:
        text = "\n".join(
            [f"amplitude-cohorts: {message}", *(f"To go on: {note}" for note in go_on)]
        )

    sys.stderr.write(f"{text}\n")


def cohorts(found: Sequence[Cohort]) -> None:
    """
    Print a list of cohorts.
    """
    table(
        ["ID", "NAME", "SIZE", "TYPE", "COMPUTED"],
        [
            [each.id, each.name, each.size, each.type, each.last_computed]
            for each in found
        ],
    )


def cohort(found: Cohort) -> None:
    """
    Print all that is known of a cohort but its definition.
    """
    hidden = {"definition", "extra", "metadata", "syncs"}
    rows = [
        [name.replace("_", " "), value]
        for name, value in attrs.asdict(found, recurse=False).items()
        if name not in hidden and value is not None and value != ()
    ]
    table(None, rows)


def usage(found: Usage) -> None:
    """
    Print how many of the month's exports are spent.
    """
    limit = "unlimited" if found.limit is None else found.limit
    table(
        None,
        [
            ["limit", limit],
            ["used", found.used],
            ["remaining", limit if found.remaining is None else found.remaining],
            ["resets at", found.resets_at],
        ],
    )


def saved(file: SavedExport) -> None:
    """
    Print what a saved file is.
    """
    rows = "" if file.rows is None else f", {file.rows:,} rows"
    links = "1 link" if file.links == 1 else f"{file.links} links"
    _print(
        f"{printable(str(file.path))}: {decimal(file.size)}{rows}, "
        f"{decimal(file.downloaded)} received over {links}, sha256 {file.sha256}"
    )


def table(header: Sequence[str] | None, rows: Sequence[Sequence[object]]) -> None:
    """
    Print rows: aligned on a terminal, with TABs and no header elsewhere.
    """
    if not sys.stdout.isatty():
        for row in rows:
            _print("\t".join(_cell(value) for value in row))
        return

    shown = Table(*header or (), box=None, show_header=header is not None)

    for row in rows:
        # Text, or a name like "[red]" would be taken for an instruction.
        shown.add_row(*(Text(_cell(value)) for value in row))

    Console().print(shown)


def printable(text: str) -> str:
    """
    Return *text* without anything that a terminal would obey.
    """
    if text.isprintable():
        return text

    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"

    if isinstance(value, bool):
        return "yes" if value else "no"

    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(each) for each in cast("Sequence[object]", value))

    return "" if value is None else printable(str(value))


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"

    # An error of typer's says only here which option it is about.
    words = getattr(error, "format_message", error.__str__)()

    return printable(" ".join(words.split()))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _print_json(value: object) -> None:
    indent = 2 if sys.stdout.isatty() else None
    _print(json.dumps(value, default=_plain, indent=indent))


def _plain(value: object) -> object:
    kind = type(value)

    if attrs.has(kind):
        names = [field.name for field in attrs.fields(kind)]
        # Users of the JSON should not have to subtract.
        names += ["remaining"] if isinstance(value, Usage) else []
        return {name: getattr(value, name) for name in names}

    if isinstance(value, datetime):
        return value.isoformat()

    return value.name.lower() if isinstance(value, Enum) else str(value)
