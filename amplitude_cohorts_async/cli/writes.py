"""The commands that write ids: upload, members."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from .. import CohortsClient
from ..errors import CohortsError, InvalidInputError
from ..models import IdType, MembershipReport, UploadReport
from . import render
from .common import Connection
from .exits import Exit
from .id_options import (
    Column,
    CountGroup,
    Ids,
    Kind,
    MaxRemoved,
    MembershipChange,
    Skipped,
    Strict,
    Yes,
    id_source,
    show_members,
    skipped_to,
)
from .resume_hints import (
    OptionValue,
    announce,
    command_line,
    option_arguments,
    resume_hints,
)

__all__ = ("add", "remove", "upload")

Journal: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Record each batch in this new file, to resume after a crash.",
    ),
]
Resume: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Resume from the journal in this file."),
]

SkippedOfUpload: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Append the skipped ids to this file; of those among the first 100,000 "
        "ids, the service names only a sample.",
    ),
]


def upload(
    connection: Connection,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the cohort.")],
    ids: Ids,
    *,
    column: Column = None,
    id_type: Kind,
    app_id: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Overrides AMPLITUDE_APP_ID."),
    ] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="EMAIL", help="Overrides AMPLITUDE_OWNER.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The group type of the ids, as in company."),
    ] = None,
    replace: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Replace the members of this cohort instead of creating one.",
        ),
    ] = None,
    max_removed: MaxRemoved = 0.5,
    yes: Yes = False,
    unpublished: Annotated[
        bool, typer.Option("--unpublished", help="Hide it from other users.")
    ] = False,
    validate_only: Annotated[
        bool,
        typer.Option("--validate-only", help="Check which ids match; save nothing."),
    ] = False,
    strict: Strict = False,
    skipped: SkippedOfUpload = None,
    journal: Journal = None,
    resume: Resume = None,
) -> None:
    """
    Upload a cohort of any size.

    Each upload without --replace makes a cohort: where there is one of this name, a
    terminal is asked, and others are told.

    A cohort that is replaced holds only the first 100,000 ids until the others
    are added. With --replace the command asks first, unless --yes is given.
    """
    source = id_source(connection, ids, column)
    log = _journal(journal, resume)

    if replace is not None and not (yes or validate_only):
        _confirm_replacement(replace, ids)

    is_new = replace is None and not (validate_only or resume)
    is_watched = sys.stdin.isatty() and str(ids) != "-" and not connection.as_json

    if is_new and is_watched and not yes:
        _confirm_namesake(connection, name)

    async def work(client: CohortsClient) -> UploadReport:
        """Upload, and keep the skipped ids."""
        async with skipped_to(skipped) as on_skipped:
            return await client.upload_cohort(
                name,
                source,
                id_type=id_type,
                app_id=app_id,
                owner=owner,
                published=not unpublished,
                group=group,
                replace=replace,
                skip_invalid_ids=not strict,
                validate_only=validate_only,
                max_removed=max_removed,
                journal=log,
                on_skipped=on_skipped,
            )

    with _resume_from_journal(
        connection,
        *("upload", name, str(ids)),
        column=column,
        id_type=id_type.value,
        app_id=app_id,
        owner=owner,
        group=group,
        replace=replace,
        max_removed=None if replace is None else max_removed,
        yes=replace is not None,
        unpublished=unpublished,
        strict=strict,
        skipped=skipped,
        resume=log,
    ):
        report = connection.run(work)

    connection.print("upload", report, _show_upload)

    if is_new and connection.announces and not is_watched:
        _tell_namesakes(connection, name, report.cohort_id)


def add(
    connection: Connection,
    cohort_id: Annotated[str, typer.Argument(metavar="ID", help="The cohort.")],
    ids: Ids,
    *,
    column: Column = None,
    id_type: Kind = IdType.USER_ID,
    count_group: CountGroup = "User",
    strict: Strict = False,
    skipped: Skipped = None,
    journal: Journal = None,
    resume: Resume = None,
) -> None:
    """Add ids to a cohort."""
    change = MembershipChange(cohort_id, id_type, count_group, strict, skipped)
    _update(
        connection, "add", change, ids, column=column, log=_journal(journal, resume)
    )


def remove(
    connection: Connection,
    cohort_id: Annotated[str, typer.Argument(metavar="ID", help="The cohort.")],
    ids: Ids,
    *,
    column: Column = None,
    id_type: Kind = IdType.USER_ID,
    count_group: CountGroup = "User",
    strict: Strict = False,
    skipped: Skipped = None,
    journal: Journal = None,
    resume: Resume = None,
) -> None:
    """Remove ids from a cohort."""
    change = MembershipChange(cohort_id, id_type, count_group, strict, skipped)
    _update(
        connection, "remove", change, ids, column=column, log=_journal(journal, resume)
    )


def _update(
    connection: Connection,
    operation: Literal["add", "remove"],
    change: MembershipChange,
    ids: Path,
    *,
    column: str | None,
    log: Path | None,
) -> None:
    source = id_source(connection, ids, column)

    def work(client: CohortsClient) -> Coroutine[object, object, MembershipReport]:
        if operation == "add":
            return change.write(client, add=source, journal=log)

        return change.write(client, remove=source, journal=log)

    with _resume_from_journal(
        connection,
        *("members", operation, change.cohort_id, str(ids)),
        column=column,
        id_type=change.id_type.value,
        count_group=change.count_group,
        strict=change.strict,
        skipped=change.skipped,
        resume=log,
    ):
        report = connection.run(work)

    connection.print("members", report, show_members)


def _confirm_replacement(cohort_id: str, ids: Path) -> None:
    # With piped ids, stdin cannot be asked.
    if not sys.stdin.isatty() or str(ids) == "-":
        raise typer.BadParameter("replacing a cohort asks first: pass --yes")

    question = f"Replace the members of cohort {cohort_id} by the ids of {ids}?"

    if not typer.confirm(question, err=True):
        raise typer.Exit(Exit.FAILURE)


def _confirm_namesake(connection: Connection, name: str) -> None:
    # The service makes another cohort of the same name each time.
    known = connection.run(lambda client: _named(client, name))

    if known and not typer.confirm(
        f"Make another one? There is a cohort of this name already "
        f"({', '.join(known)}); --replace {known[0]} replaces its members",
        err=True,
    ):
        raise typer.Exit(Exit.FAILURE)


def _tell_namesakes(connection: Connection, name: str, made: str | None) -> None:
    # It is made: whatever happens now ends the look only.
    with suppress(CohortsError):
        known = connection.run(lambda client: _named(client, name))
        others = [cohort_id for cohort_id in known if cohort_id != made]

        if others:
            announce(
                f"there were cohorts of this name already ({', '.join(others)}); "
                f"--replace {others[0]} replaces the members of one"
            )


async def _named(client: CohortsClient, name: str) -> list[str]:
    return [each.id for each in await client.list_cohorts() if each.name == name]


def _journal(journal: Path | None, resume: Path | None) -> Path | None:
    if journal is not None and resume is not None:
        raise typer.BadParameter("pass --journal for a new one or --resume, not both")

    if journal is not None and journal.exists():
        raise typer.BadParameter(f"{journal} exists; resume with --resume {journal}")

    if resume is not None and not resume.exists():
        raise typer.BadParameter(f"there is no journal {resume} to resume from")

    return journal or resume


def _resume_from_journal(
    connection: Connection, *arguments: str, **options: OptionValue
) -> AbstractContextManager[None]:
    def commands(error: BaseException) -> list[str]:
        journal = options["resume"]

        # Invalid input stays invalid.
        if not isinstance(journal, Path) or isinstance(error, InvalidInputError):
            return []

        flags = option_arguments(**options)
        line = command_line(*arguments, *flags, *connection.arguments)
        return [line] if journal.exists() else []

    return resume_hints(commands)


def _show_upload(report: UploadReport) -> None:
    named = len(report.skipped_ids) + len(report.invalid_sample)
    matched = report.total if report.matched is None else report.matched
    unnamed = report.total - matched - named
    render.table(
        None,
        [
            ["cohort", report.cohort_id or "none, validated only"],
            ["ids", report.total],
            ["matched", "unknown" if report.matched is None else report.matched],
            ["skipped ids known", named],
            *([["skipped ids not named", unnamed]] if unnamed > 0 else []),
            ["requests", report.batches],
            ["resumed requests", report.resumed],
        ],
    )
