"""
Prints values: tables on a terminal, lines in a pipe, JSON on request.

A line has TABs between its cells, for ``cut`` and ``grep``; there is no header.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from typing import cast

import attrs
import typer
from rich.cells import cell_len
from rich.console import Console, OverflowMethod
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ..errors import StorageError
from ..models import (
    Cohort,
    ExportOutcome,
    ExportPlan,
    JobDelivery,
    JobRecord,
    SavedExport,
    Usage,
)
from .command_words import in_command_words, refused_ids
from .exits import Exit, exit_of
from .records import place_of, state_of

__all__ = (
    "JSON_VERSION",
    "cohort",
    "cohorts",
    "csv_table",
    "document",
    "facts",
    "failure",
    "jobs",
    "json_lines",
    "moment",
    "outcome",
    "plan",
    "printable",
    "resume_commands",
    "saved",
    "say_how_to_resume",
    "table",
    "usage",
)

# What is of use only in Python: the file's own facts, and what a tick is told.
_UNSHOWN: Mapping[type, Sequence[str]] = {
    SavedExport: ["file"],
    JobRecord: ["to", "format", "on_unknown", "delivery_id"],
}
_PROPERTIES: Mapping[type, Sequence[str]] = {
    Usage: ["remaining"],
    SavedExport: ["sha256", "rows"],
}

_WHOLE = ("ID", "COHORT", "PROFILE")
"""Columns of ids and names, which other commands need: never cut."""

_SHORTENED = ("NAME", "TARGET", "SYNCED TO", "SKIPPED")
"""Columns that are cut where a terminal is narrow, with an ellipsis."""

_LEAST = 12
"""Characters that are left of them."""

_GAP = 2
"""Characters around a cell."""

_SHORT_DIGEST = 12
"""Hexadecimal digits of a check sum that a line has; JSON has all of them."""

JSON_VERSION = 2
"""
Incremented when a key of the JSON is removed or changes its meaning. New keys may
be added at any time.
"""


def document(name: str, value: object, **more: object) -> None:
    """Print a JSON document: the version, *value* under its *name*, and *more*."""
    _print_json({"version": JSON_VERSION, name: value, **more})


def json_lines(values: Sequence[object]) -> None:
    """Print a line of JSON for each value, without a version around them."""
    for value in values:
        _print(json.dumps(value, default=_plain))


def csv_table(columns: Sequence[str], values: Sequence[object]) -> None:
    """Print some attributes of values as CSV with a header; times are ISO 8601."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [_csv_cell(getattr(each, name)) for name in columns] for each in values
    )


def facts(value: object) -> dict[str, object]:
    """Return what JSON shows of a value of an attrs class."""
    kind = cast("type[attrs.AttrsInstance]", type(value))
    unshown = _UNSHOWN.get(kind, ())
    names = [each.name for each in attrs.fields(kind) if each.name not in unshown]
    names += _PROPERTIES.get(kind, ())

    return {name: _read(value, name) for name in names}


def failure(error: BaseException, *, as_json: bool) -> None:
    """Print an error on stderr; its notes are commands that resume."""
    # A terminal that was closed takes no more text.
    with suppress(OSError):
        if as_json:
            shown = {"version": JSON_VERSION, "error": _facts(error)}
            sys.stderr.write(f"{json.dumps(shown)}\n")
            return

        sys.stderr.write(f"amplitude-cohorts: {_message(error)}\n")

        resume_commands(error)


def resume_commands(error: BaseException) -> None:
    """Print on stderr the commands that resume, which are the notes of an error."""
    if (again := _again(error)) is not None:
        sys.stderr.write(f"To go on: {again}\n")

    say_how_to_resume(_notes(error), are_steps=getattr(error, "are_steps", False))


def say_how_to_resume(
    commands: Sequence[str], *, to: str = "To resume", are_steps: bool = False
) -> None:
    """
    Print on stderr some commands that resume.

    Args:
        to: What they are for.
        are_steps: Whether each but the first needs the one before it.
    """
    for number, command in enumerate(commands):
        label = "And then" if are_steps and number else to
        sys.stderr.write(f"{label}: {printable(command)}\n")


def cohorts(found: Sequence[Cohort], *, sync_info: bool = False) -> None:
    """Print a list of cohorts, if asked with the targets of their syncs."""
    header = ["ID", "NAME", "SIZE", "TYPE", "COMPUTED", "SYNCED TO"]
    columns = len(header) if sync_info else len(header) - 1
    rows = [
        [
            *(cohort.id, cohort.name, cohort.size, cohort.type, cohort.last_computed),
            [sync.target for sync in cohort.syncs],
        ]
        for cohort in found
    ]
    table(header[:columns], [row[:columns] for row in rows])


def cohort(found: Cohort) -> None:
    """Print a cohort without its definition."""
    hidden = {"definition", "extra", "metadata", "syncs"}
    rows = [
        [name.replace("_", " "), value]
        for name, value in attrs.asdict(found, recurse=False).items()
        if name not in hidden and value is not None and value != ()
    ]
    table(None, rows)


def usage(found: Usage) -> None:
    """Print the usage of the monthly quota."""
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
    """Print the facts of a saved file."""
    if file.unchanged:
        _print(f"{printable(_place_of(file))}: unchanged, no export spent")
        return

    rows = (
        ""
        if file.rows is None
        else f", {file.rows:,} {'row' if file.rows == 1 else 'rows'}"
    )
    links = {0: "", 1: " over 1 link"}.get(file.links, f" over {file.links} links")
    _print(
        f"{printable(_place_of(file))}: {decimal(file.size)}{rows}, "
        f"{decimal(file.downloaded)} received{links}{_digest_text(file)}"
    )


def _place_of(file: SavedExport) -> str:
    return file.location or str(file.path)


def _digest_text(file: SavedExport) -> str:
    # Whoever waits for the file may have taken it by now.
    try:
        return f", sha256 {file.sha256[:_SHORT_DIGEST]}"
    except StorageError:
        return ""


def outcome(found: ExportOutcome) -> None:
    """Print the outcome of one of many exports: errors on stderr, files on stdout."""
    if found.saved is not None:
        saved(found.saved)

    if found.error is not None:
        text = f"cohort {found.cohort_id}: {_message(found.error)}"
        sys.stderr.write(f"amplitude-cohorts: {printable(text)}\n")


def jobs(found: Sequence[JobRecord]) -> None:
    """Print exports of the job store, the newest first."""
    table(
        ["ID", "COHORT", "STATE", "OPEN", "REQUESTED", "TARGET"],
        [
            [
                record.request_id or record.id,
                record.cohort_id,
                state_of(record),
                record.is_open,
                record.requested_at,
                [_target(each) for each in record.deliveries],
            ]
            for record in found
        ],
    )


def _target(delivery: JobDelivery) -> str:
    return "a stream (no file)" if delivery.target is None else place_of(delivery)


def plan(found: ExportPlan) -> None:
    """Print a plan of exports."""
    table(
        ["ID", "NAME", "SIZE", "STARTS IN", "READY IN", "SKIPPED"],
        [
            [
                export.cohort_id,
                export.name,
                export.size,
                _seconds(export.starts_in),
                _seconds(export.ends_in),
                export.skipped,
            ]
            for export in found.exports
        ],
    )
    _print("")
    table(
        None,
        [
            ["exports needed", found.needed],
            [
                "left after",
                "unlimited" if found.left_after is None else found.left_after,
            ],
            ["all ready in", _seconds(found.ends_in)],
            ["unknown", list(found.unknown) or "none"],
        ],
    )


def table(header: Sequence[str] | None, rows: Sequence[Sequence[object]]) -> None:
    """Print rows: as a table on a terminal, else with TABs and no header."""
    if not sys.stdout.isatty():
        for row in rows:
            _print("\t".join(_cell(value) for value in row))
        return

    console = Console()
    cells = [[_cell(value) for value in row] for row in rows]
    shown = Table(box=None, show_header=header is not None)

    if header is None:
        shown.add_column(no_wrap=True)
        shown.add_column(overflow="fold")
    else:
        widths = _widths(header, cells, room=console.width)
        cells = [row[: len(widths)] for row in cells]
        for name, width in zip(header, widths, strict=False):
            overflow: OverflowMethod = "fold" if name in _WHOLE else "ellipsis"
            is_line = name not in _WHOLE
            shown.add_column(name, width=width, overflow=overflow, no_wrap=is_line)

    for row in cells:
        # As Text, because rich would take a name like "[red]" for markup.
        shown.add_row(*map(Text, row))

    console.print(shown)


def _widths(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, room: int
) -> list[int]:
    """
    Return the widths of the columns that fit; one column may be cut, ids never.

    What does not fit is left out from the right: `--json`, and a pipe, have it all.
    """
    needed = [
        max(cell_len(text) for text in (name, *(row[place] for row in rows)))
        for place, name in enumerate(header)
    ]
    least = [
        min(width, _LEAST) if name in _SHORTENED else width
        for name, width in zip(header, needed, strict=True)
    ]
    shown = len(header)

    while shown > 1 and sum(least[:shown]) + _GAP * shown > room:
        shown -= 1

    left = room - _GAP * shown - sum(least[:shown])
    widths: list[int] = []

    for least_width, width in zip(least[:shown], needed, strict=False):
        more = max(0, min(left, width - least_width))
        left -= more
        widths.append(least_width + more)

    # An id that is wider than the terminal goes on in the next line.
    return [min(width, max(1, room - _GAP)) for width in widths]


def printable(text: str) -> str:
    """Return *text* without control characters."""
    if text.isprintable():
        return text

    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def moment(at: datetime) -> str:
    """Return a time of today as its hour and minute, another with its date."""
    is_today = at.date() == datetime.now(UTC).date()

    return f"{at:%H:%M} UTC" if is_today else f"{at:%Y-%m-%d %H:%M} UTC"


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"

    if isinstance(value, bool):
        return "yes" if value else "no"

    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in cast("Sequence[object]", value))

    return "" if value is None else printable(str(value))


def _csv_cell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"

    if isinstance(value, datetime):
        return value.isoformat()

    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, cast("Sequence[object]", value)))

    text = "" if value is None else str(value)

    # A name must not command a terminal; a file has it as it is.
    return printable(text) if sys.stdout.isatty() else text


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s"


def _facts(error: BaseException) -> dict[str, object]:
    code = exit_of(error)
    is_interruption = code == Exit.INTERRUPTED
    refused = refused_ids(error)

    return {
        "code": int(code),
        "type": "Interrupted" if is_interruption else type(error).__name__,
        "message": _message(error),
        "token": getattr(error, "token", None),
        "resume": list(_notes(error)),
        "again": _again(error),
        **({"sample": refused.sample} if refused else {}),
    }


def _notes(error: BaseException) -> Sequence[str]:
    return getattr(error, "__notes__", ())


def _again(error: BaseException) -> str | None:
    return getattr(error, "again", None)


def _message(error: BaseException) -> str:
    if exit_of(error) == Exit.INTERRUPTED:
        return "interrupted"

    # Only format_message() of a typer error names the option; without one, it calls
    # the message an invalid value, which it may not be.
    is_of_option = getattr(error, "param", None) or getattr(error, "param_hint", None)
    if isinstance(error, typer.BadParameter) and not is_of_option:
        text = error.message
    else:
        text = getattr(error, "format_message", lambda: in_command_words(error))()

    if (context := getattr(error, "ctx", None)) is not None:
        text = f"{text.rstrip('.')}; see `{context.command_path} --help`"

    return printable(" ".join(text.split()))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _print_json(value: object) -> None:
    indent = 2 if sys.stdout.isatty() else None
    _print(json.dumps(value, default=_plain, indent=indent))


def _plain(value: object) -> object:
    kind = type(value)

    if attrs.has(kind):
        return facts(value)

    if isinstance(value, BaseException):
        return _facts(value)

    if isinstance(value, datetime):
        return value.isoformat()

    return value.name.lower() if isinstance(value, Enum) else str(value)


def _read(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except StorageError:  # the digest of a file that somebody has taken
        return None
