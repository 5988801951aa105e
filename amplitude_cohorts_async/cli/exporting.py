"""The command export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import attrs
import typer

from .. import CohortsClient
from ..models import ExportOutcome, SavedExport
from . import render
from .common import Connection
from .destination import STDOUT, check_stdout, to_stdout
from .exits import Exit, exit_of
from .file_options import (
    JOB_TIMEOUT,
    FileMode,
    Format,
    Timeout,
    file_named,
    octal_text,
    place_text,
    resume_commands,
    saving_hints,
    tell,
)
from .resume_hints import (
    StartedJobs,
    command_line,
    option_arguments,
    resumable_id,
    resume_hints,
    spending_told,
)
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

__all__ = (
    "AllProperties",
    "Properties",
    "exit_with",
    "export",
    "wanted_properties",
)

Properties = Annotated[
    list[str] | None,
    typer.Option(
        "--property", "-p", metavar="NAME", help="A user property; repeatable."
    ),
]
AllProperties = Annotated[
    bool, typer.Option("--properties", help="All user properties.")
]


def export(
    connection: Connection,
    cohort_ids: Annotated[list[str], typer.Argument(metavar="ID", help="The cohorts.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file, a directory for several cohorts, or - for stdout; by "
            "default ID.csv here.",
        ),
    ] = None,
    named: Properties = None,
    all_properties: AllProperties = False,
    format: Format = None,  # noqa: A002 - named like the option
    file_mode: FileMode = None,
    timeout: Timeout = JOB_TIMEOUT,
    max_concurrency: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="COUNT",
            help="For a directory: how many exports to run at once.",
        ),
    ] = 8,
    skip_unchanged: Annotated[
        bool,
        typer.Option(
            "--skip-unchanged",
            help="Skip cohorts that are unchanged since they were saved there.",
        ),
    ] = False,
    no_clobber: Annotated[
        bool,
        typer.Option(
            "--no-clobber", help="For a file: refuse to replace one, and spend nothing."
        ),
    ] = False,
    manifest: Annotated[
        bool,
        typer.Option(
            "--manifest", help="For a file: write NAME.manifest.json beside it."
        ),
    ] = False,
    occurrence: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="For a file: one time of a repeated export, such as its date; the "
            "same key is the same export for seven days.",
        ),
    ] = None,
    fresh: Fresh = False,
    reuse_within: ReuseWithin = None,
    on_unknown: OnUnknown = None,
) -> None:
    """
    Export cohorts to files; each spends one export of the monthly quota.

    After an interruption, an error or a killed process the same command goes on
    with the same export. The last lines say so, and are the commands that resume
    it elsewhere.
    """
    is_directory = output is not None and output.is_dir()
    into_directory = len(cohort_ids) > 1 or is_directory

    if into_directory and output is not None and not is_directory:
        raise typer.BadParameter(
            f"several cohorts need -o with a directory that is there, and "
            f"{place_text(output)} "
            + ("is a file" if output.exists() else "is none")
            + "; make one with mkdir, or export one cohort to that file"
        )

    if fresh and occurrence is not None:
        raise typer.BadParameter(
            "--fresh and --occurrence contradict each other: an occurrence is the same "
            "export each time; name another one for a new export"
        )

    options = _Options(
        cohort_ids=cohort_ids,
        output=output,
        properties=wanted_properties(named, all_properties),
        format=format,
        file_mode=file_mode,
        timeout=timeout,
        max_concurrency=max_concurrency,
        skip_unchanged=skip_unchanged,
        no_clobber=no_clobber,
        manifest=manifest,
        occurrence=occurrence,
        reuse=Reuse.of(fresh=fresh, within=reuse_within, on_unknown=on_unknown),
    )

    if into_directory:
        options.refuse("a directory", "no_clobber", "manifest", "occurrence")
        _into_directory(connection, options)
    else:
        if output == STDOUT:
            options.refuse(
                *("stdout", "skip_unchanged", "no_clobber", "manifest", "occurrence")
            )
            check_stdout(connection, format)
        if skip_unchanged and connection.no_jobs:
            raise typer.BadParameter(
                "--skip-unchanged of a file needs the record of what was saved: leave "
                "--no-jobs out"
            )
        _into_file(connection, options)


def wanted_properties(
    named: list[str] | None, all_properties: bool
) -> bool | list[str]:
    """Return the client's argument for the two options about properties."""
    if named and all_properties:
        raise typer.BadParameter("pass either --property or --properties")

    return all_properties or named or False


@attrs.frozen(kw_only=True)
class _Options:
    cohort_ids: list[str]
    output: Path | None
    properties: bool | list[str]
    format: str | None
    file_mode: int | None
    timeout: float
    max_concurrency: int
    skip_unchanged: bool
    no_clobber: bool
    manifest: bool
    occurrence: str | None
    reuse: Reuse

    def refuse(self, target: str, *names: str) -> None:
        """Refuse options that do nothing for a target."""
        for name in names:
            if getattr(self, name) not in {None, False}:
                flag = f"--{name.replace('_', '-')}"
                raise typer.BadParameter(f"{flag} does nothing for {target}")

    def again(self, jobs: StartedJobs) -> str | None:
        """Return how the same command goes on with what was spent."""
        if jobs.is_saved:
            return None

        # An occurrence is the same export for as long as its file is there.
        return "the same command" if self.occurrence else self.reuse.again(jobs)


def _into_file(connection: Connection, options: _Options) -> None:
    (cohort_id,) = options.cohort_ids
    to = options.output or file_named(cohort_id, options.format)
    jobs = StartedJobs(announced=connection.announces)

    if options.no_clobber and os.path.lexists(to):
        raise typer.BadParameter(f"{to} exists, and --no-clobber keeps it")

    def save(on_unknown: Unknown) -> tuple[SavedExport | None, int | None]:
        """Save the file, and ask what is left of the month."""

        async def work(client: CohortsClient) -> tuple[SavedExport | None, int | None]:
            """Do so with a client."""
            saved = await _save(client, options, to, on_unknown)
            jobs.is_saved = jobs.is_done = True
            return saved, await months_rest(client)

        return connection.run(work, hook=jobs, file_mode=options.file_mode)

    with (
        spending_told(jobs),
        saving_hints(
            connection,
            jobs,
            to=lambda: to,
            format=options.format,
            file_mode=options.file_mode,
            again=options.again if connection.is_recorded else lambda _: None,
        ),
    ):
        saved, remaining = options.reuse.asking(connection, save)

    tell(connection, saved, **spending_facts(jobs, remaining))
    say_what_was_spent(connection, jobs.spent, remaining)


async def _save(
    client: CohortsClient, options: _Options, to: Path, on_unknown: Unknown
) -> SavedExport | None:
    (cohort_id,) = options.cohort_ids

    if to == STDOUT:
        job = await client.request_export(
            cohort_id,
            properties=options.properties,
            join=True,
            reuse_within=options.reuse.seconds,
            on_unknown=on_unknown,
        )
        await to_stdout(job, format=options.format, timeout=options.timeout)
        return None

    return await client.export(
        cohort_id,
        to,
        properties=options.properties,
        timeout=options.timeout,
        format=options.format,
        skip_unchanged=options.skip_unchanged,
        manifest=options.manifest,
        occurrence=options.occurrence,
        reuse_within=options.reuse.seconds,
        on_unknown=on_unknown,
    )


def _into_directory(connection: Connection, options: _Options) -> None:
    jobs = StartedJobs(announced=connection.announces, is_one=False)
    outcomes: list[ExportOutcome] = []

    async def work(client: CohortsClient) -> int | None:
        """Export, tell each outcome, and ask what is left of the month."""

        async with client.export_many(
            options.cohort_ids,
            options.output or Path(),
            properties=options.properties,
            timeout=options.timeout,
            format=options.format or "csv",
            max_concurrency=options.max_concurrency,
            skip_unchanged=options.skip_unchanged,
            reuse_within=options.reuse.seconds,
            on_unknown=options.reuse.on_unknown or "raise",
        ) as batch:
            async for outcome in batch:
                _add_hint(connection, options, outcome)
                outcomes.append(outcome)
                if not connection.as_json:
                    render.outcome(outcome)

        return await months_rest(client)

    with (
        spending_told(jobs),
        resume_hints(
            lambda error: (
                [_same_command(connection, options)]
                if isinstance(error, KeyboardInterrupt)
                else []
            )
        ),
    ):
        remaining = connection.run(work, hook=jobs, file_mode=options.file_mode)

    errors = [outcome.error for outcome in outcomes if outcome.error is not None]

    if connection.as_json:
        render.document("exports", outcomes, remaining=remaining)

    spent = sum(outcome.spent for outcome in outcomes)
    say_what_was_spent(connection, spent, remaining)

    if not connection.as_json:
        for error in errors:
            render.resume_commands(error)

    exit_with(outcomes)


def exit_with(outcomes: list[ExportOutcome], *, otherwise: Exit = Exit.OK) -> None:
    """Exit with the code of what failed; *otherwise* with another one."""
    codes = {exit_of(each.error) for each in outcomes if each.error is not None}

    # Failures with the same exit code keep it.
    if code := Exit.FAILURE if len(codes) > 1 else next(iter(codes), otherwise):
        raise typer.Exit(code)


def _add_hint(
    connection: Connection, options: _Options, outcome: ExportOutcome
) -> None:
    # The same command would be a new run, and spend an export for each saved file.
    if outcome.error is None or (request_id := resumable_id(outcome.error)) is None:
        return

    (command,) = resume_commands(
        connection,
        [request_id],
        to=(options.output or Path()) / file_named(outcome.cohort_id, options.format),
        format=options.format,
        file_mode=options.file_mode,
    )
    outcome.error.add_note(command)


def _same_command(connection: Connection, options: _Options) -> str:
    arguments = option_arguments(
        property=options.properties if isinstance(options.properties, list) else None,
        properties=options.properties is True,
        format=options.format,
        file_mode=octal_text(options.file_mode),
        skip_unchanged=options.skip_unchanged,
    )
    folder = str(options.output or Path())

    return command_line(
        *("export", *options.cohort_ids, "-o", folder),
        *(*arguments, *options.reuse.arguments, *connection.arguments),
    )
