"""The commands that compare: sync, diff."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import attrs
import typer

from .. import CohortsClient, diff_ids
from ..errors import ExportExpiredError, ExportFailedError
from ..models import IdType, MembershipReport, SyncReport
from . import render
from .common import Connection, Output
from .id_options import (
    Column,
    CountGroup,
    Ids,
    Kind,
    MaxRemoved,
    MembershipChange,
    Skipped,
    Yes,
    id_source,
    show_members,
    skipped_to,
)
from .resume_hints import (
    OptionValue,
    StartedJobs,
    command_line,
    option_arguments,
    resume_hints,
    spending_told,
)
from .running import run
from .spending import (
    Fresh,
    OnUnknown,
    Reuse,
    ReuseWithin,
    Unknown,
    months_rest,
    say_what_was_spent,
    spending_facts,
)

__all__ = ("diff", "sync")


def sync(
    connection: Connection,
    cohort_id: Annotated[str, typer.Argument(metavar="ID", help="The cohort.")],
    ids: Ids,
    *,
    column: Column = None,
    id_type: Kind = IdType.USER_ID,
    current: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The present members: a saved export, or ids. No export is spent.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done.")
    ] = False,
    yes: Yes = False,
    max_removed: MaxRemoved = 0.5,
    count_group: CountGroup = "User",
    on_disk: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Compare in this folder, with little memory."),
    ] = None,
    skipped: Skipped = None,
    list_ids: Annotated[
        bool,
        typer.Option(
            "--list-ids", help="With --json: list the ids, not only count them."
        ),
    ] = False,
    fresh: Fresh = False,
    reuse_within: ReuseWithin = None,
    on_unknown: OnUnknown = None,
) -> None:
    """
    Make a cohort's members equal to the ids of a file; spends one export.

    If something fails before anything is written, the same command goes on with
    that export. The last lines are two commands that never spend another: one
    saves it, one syncs with it as --current.
    """
    if not (yes or dry_run or sys.stdin.isatty()):
        raise typer.BadParameter(
            "stdin is not a terminal to confirm at: pass --yes or --dry-run"
        )

    source = id_source(connection, ids, column)
    reuse = Reuse.of(fresh=fresh, within=reuse_within, on_unknown=on_unknown)
    jobs = StartedJobs(announced=connection.announces)

    def compare(on_unknown: Unknown) -> tuple[SyncReport, int | None]:
        """Change the cohort, or report what would change."""

        async def work(client: CohortsClient) -> tuple[SyncReport, int | None]:
            """Do so, and ask what is left of the month."""
            async with skipped_to(skipped) as on_skipped:
                report = await client.sync_membership(
                    cohort_id,
                    source,
                    id_type=id_type,
                    current=current,
                    dry_run=not yes,
                    max_removed=max_removed,
                    count_group=count_group,
                    on_disk=on_disk,
                    reuse_within=reuse.seconds,
                    on_unknown=on_unknown,
                    on_skipped=on_skipped,
                )
            jobs.is_saved = True
            return report, (await months_rest(client) if current is None else None)

        return connection.run(work, hook=jobs)

    def commands(*, dry_run: bool) -> list[str]:
        """Return those that go on with the export, and spend no other."""
        return _resume_commands(
            connection,
            jobs,
            cohort_id,
            str(ids),
            column=column,
            id_type=id_type.value,
            dry_run=dry_run,
            yes=yes,
            max_removed=max_removed,
            count_group=count_group,
            on_disk=on_disk,
            skipped=skipped,
        )

    with (
        spending_told(jobs),
        resume_hints(
            lambda error: (
                []
                if isinstance(error, ExportFailedError | ExportExpiredError)
                else commands(dry_run=dry_run)
            ),
            jobs,
            lambda found: _again(connection, reuse, found, writes=yes),
            are_steps=True,
        ),
    ):
        report, remaining = reuse.asking(connection, compare)

        if not (yes or dry_run):
            report.check_removals(max_removed)

            if _confirm(report):
                change = MembershipChange(
                    cohort_id, id_type, count_group, False, skipped
                )
                report = _apply(connection, change, report)

    facts = _facts(report, list_ids=list_ids)
    facts |= {"spent": jobs.spent, **spending_facts(jobs, remaining)}
    # What was only compared is delivered: the real run would spend another export.
    resume = commands(dry_run=False) if report.applied is None else []
    facts["resume"] = resume
    connection.print("sync", facts, lambda _: _show_sync(report))

    if current is None:
        say_what_was_spent(connection, jobs.spent, remaining)

    if connection.announces:
        render.say_how_to_resume(
            resume, to="To sync without another export", are_steps=True
        )


def diff(
    output: Output,
    before: Annotated[Path, typer.Argument(metavar="A", help="Members or ids.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Members or ids.")],
    *,
    folder: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The folder for the files."),
    ] = Path(),
    id_type: Kind = IdType.USER_ID,
    count_group: CountGroup = "User",
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Compare on disk, with little memory.")
    ] = False,
) -> None:
    """
    Compare two files: saved exports (.csv, .csv.gz, .parquet) or ids, one a line.

    Writes entering.txt (in B only), exiting.txt (in A only) and existing.txt.
    """
    result = run(
        diff_ids(
            before,
            after,
            folder,
            id_type=id_type,
            count_group=count_group,
            on_disk=on_disk,
        )
    )
    counts = {
        "entering": len(result.add),
        "exiting": len(result.remove),
        "existing": result.kept,
        "unnameable": result.unnameable,
        "unnameable_a": result.unnameable_before,
        "unnameable_b": result.unnameable_after,
    }
    output.print("diff", counts, _show_counts)


def _again(
    connection: Connection, reuse: Reuse, jobs: StartedJobs, *, writes: bool
) -> str | None:
    # After a write of ours a sync needs a new export.
    if jobs.is_saved or not connection.is_recorded:
        return None

    return f"{reuse.again(jobs)}{', unless it has begun to write' if writes else ''}"


def _resume_commands(
    connection: Connection,
    jobs: StartedJobs,
    cohort_id: str,
    ids: str,
    **options: OptionValue,
) -> list[str]:
    # Not ID.csv, which may well be the file of wanted ids.
    current = f"current-{quote(cohort_id, safe='')}.csv.gz"
    flags = [*option_arguments(**options), *connection.arguments]

    return [
        command
        for request_id in jobs.request_ids
        for command in (
            command_line("resume", request_id, "-o", current, *connection.arguments),
            command_line("sync", cohort_id, ids, "--current", current, *flags),
        )
    ]


def _apply(
    connection: Connection, change: MembershipChange, report: SyncReport
) -> SyncReport:
    async def work(client: CohortsClient) -> MembershipReport:
        if not (report.add or report.remove):
            return MembershipReport(cohort_id=report.cohort_id)

        if not report.remove_first:
            return await change.write(client, add=report.add, remove=report.remove)

        removed = await change.write(client, remove=report.remove)
        added = await change.write(client, add=report.add)

        return attrs.evolve(added, removed=removed.removed)

    return attrs.evolve(report, applied=connection.run(work))


def _confirm(report: SyncReport) -> bool:
    return typer.confirm(
        f"Add {len(report.add):,} to cohort {report.cohort_id}, remove "
        f"{len(report.remove):,}, keep {report.kept:,}?",
        err=True,
    )


def _show_sync(report: SyncReport) -> None:
    prefix = "" if report.applied is not None else "to "
    render.table(
        None,
        [
            [f"{prefix}add", len(report.add)],
            [f"{prefix}remove", len(report.remove)],
            ["kept", report.kept],
            ["without a valid id", report.unnameable],
        ],
    )

    if report.applied is not None:
        show_members(report.applied)


def _show_counts(counts: dict[str, int]) -> None:
    labels = {
        "unnameable_a": "without a valid id, in A",
        "unnameable_b": "without a valid id, in B",
    }
    render.table(
        None,
        [
            [labels.get(label, label), count]
            for label, count in counts.items()
            if label != "unnameable"
        ],
    )


def _facts(report: SyncReport, *, list_ids: bool) -> dict[str, object]:
    lists = {"add": list(report.add), "remove": list(report.remove)}
    counts = {name: len(ids) for name, ids in lists.items()}
    named = {f"{name}_ids": ids for name, ids in lists.items()} if list_ids else {}

    return render.facts(report) | counts | named
