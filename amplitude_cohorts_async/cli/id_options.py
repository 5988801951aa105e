"""What writing commands share: where ids come from, and where skipped ids go."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import anyio.to_thread
import attrs
import typer

from .. import CohortsClient, read_ids
from ..models import IdType, MembershipReport, OperationReport
from ..types import IdSource, OnSkipped
from . import render
from .common import Connection

__all__ = (
    "Column",
    "CountGroup",
    "Ids",
    "Kind",
    "MaxRemoved",
    "MembershipChange",
    "Skipped",
    "Strict",
    "Yes",
    "id_source",
    "show_members",
    "skipped_to",
)

Ids: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Ids, one a line, or a table with --column; - reads stdin."
    ),
]
Column: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column of the ids, where FILE is a CSV or Parquet table."
    ),
]
Kind: TypeAlias = Annotated[
    IdType,
    typer.Option(
        "--id-type",
        metavar="user|amplitude",
        help="Your user ids, or Amplitude ids.",
    ),
]
CountGroup: TypeAlias = Annotated[
    str,
    typer.Option(metavar="NAME", help="What the cohort counts: User, or a group type."),
]
Strict: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="Fail on ids that Amplitude does not know.")
]
MaxRemoved: TypeAlias = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar="SHARE",
        help="Largest share of the members that may be removed, 0 to 1.",
    ),
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Skipped: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Append the skipped ids to this file."),
]


@attrs.frozen
class MembershipChange:
    """The options of a change of a cohort's members."""

    cohort_id: str
    id_type: IdType
    count_group: str
    strict: bool
    skipped: Path | None

    async def write(
        self,
        client: CohortsClient,
        *,
        add: IdSource = (),
        remove: IdSource = (),
        journal: Path | None = None,
    ) -> MembershipReport:
        """Add and remove members."""
        async with skipped_to(self.skipped) as on_skipped:
            return await client.update_membership(
                self.cohort_id,
                add=add,
                remove=remove,
                id_type=self.id_type,
                count_group=self.count_group,
                skip_invalid_ids=not self.strict,
                journal=journal,
                on_skipped=on_skipped,
            )


def id_source(connection: Connection, ids: Path, column: str | None) -> IdSource:
    """Return the ids of a file, of a column of one, or of stdin."""
    if str(ids) != "-":
        return ids if column is None else read_ids(ids, column=column)

    if column is not None:
        raise typer.BadParameter("--column needs a file: stdin has one id a line")

    if connection.secret_key_stdin:
        raise typer.BadParameter("stdin cannot hold both the secret key and the ids")

    return read_ids(sys.stdin.buffer)


@asynccontextmanager
async def skipped_to(path: Path | None) -> AsyncGenerator[OnSkipped | None]:
    """Open a file for skipped ids, and yield a callback for them; None yields None."""
    if path is None:
        yield None
        return

    # The same lines on every system: Windows would end them in two characters.
    file = await anyio.to_thread.run_sync(
        lambda: path.open("a", encoding="utf-8", newline="\n")
    )

    def append(ids: Sequence[str]) -> None:
        """Write the ids, one a line."""
        file.writelines(f"{id_}\n" for id_ in ids)
        file.flush()

    async def append_in_thread(ids: Sequence[str]) -> None:
        """Write the ids without blocking the loop."""
        await anyio.to_thread.run_sync(append, ids)

    try:
        yield append_in_thread
    finally:
        file.close()


def show_members(report: MembershipReport) -> None:
    """Print what was added and removed."""
    for label, operation in (("added", report.added), ("removed", report.removed)):
        if operation.batches:
            render.table(None, _rows(label, operation))


def _rows(label: str, operation: OperationReport) -> list[list[object]]:
    return [
        [label, operation.sent - len(operation.skipped_ids)],
        ["skipped", len(operation.skipped_ids)],
        ["requests", operation.batches],
    ]
