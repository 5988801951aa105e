"""The commands that save files: export, resume."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import quote

import attrs
import typer

from .. import CohortsClient
from ..errors import JobStoreUnavailableError
from ..models import ExportOutcome, JobRecord, SavedExport
from . import render
from .common import FORMATS, Connection
from .destination import STDOUT, destination
from .exits import Exit, NoSuchJobError, exit_of
from .resume_hints import (
    StartedJobs,
    command_line,
    option_arguments,
    resumable_id,
    resume_hints,
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
    "JOB_TIMEOUT",
    "AllProperties",
    "FileMode",
    "Format",
    "Found",
    "Properties",
    "ResumeOptions",
    "ResumedTo",
    "Timeout",
    "exit_with",
    "export",
    "found_in",
    "last_open",
    "resume",
    "resume_job",
    "wanted_properties",
)

JOB_TIMEOUT = 1800.0
"""Seconds."""

Format = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(FORMATS),
        help="Format; by default the file name's.",
    ),
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", help="How long to wait for each export.")
]
Properties = Annotated[
    list[str] | None,
    typer.Option(
        "--property", "-p", metavar="NAME", help="A user property; repeatable."
    ),
]
AllProperties = Annotated[
    bool, typer.Option("--properties", help="All user properties.")
]


ResumedTo = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="A file, or - for stdout; by default the file it was meant for, or else "
        "ID.csv here.",
    ),
]


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not an octal number; pass permission bits, as in 640"
        ) from None


FileMode = Annotated[
    int | None,
    typer.Option(
        parser=_octal,
        metavar="OCTAL",
        help="Permissions of new files, as in 640; by default the umask's.",
    ),
]


def export(
    connection: Connection,
    cohort_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="The cohorts.")
    ],
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
            f"several cohorts need -o with a directory, and {output} is none; make it "
            f"first"
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
            options.refuse("stdout", "skip_unchanged", "no_clobber", "manifest")
        _into_file(connection, options)


def resume(
    connection: Connection,
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="[TOKEN_OR_ID]",
            help="The token or request id that an export printed; by default the last "
            "open one.",
        ),
    ] = None,
    *,
    output: ResumedTo = None,
    format: Format = None,  # noqa: A002 - named like the option
    file_mode: FileMode = None,
    timeout: Timeout = JOB_TIMEOUT,
) -> None:
    """
    Resume an export that was requested before; spends no export.

    Its file stays available for seven days.
    """
    options = ResumeOptions(
        output=output, format=format, file_mode=file_mode, timeout=timeout
    )

    if job is None:
        resume_job(connection, last_open, options)
    else:
        resume_job(connection, _named(job), options)


Found: TypeAlias = tuple[str, Path | None]
"""A token or request id, and the file that the export was meant for."""


@attrs.frozen(kw_only=True)
class ResumeOptions:
    """The options with which an export is resumed."""

    output: Path | None
    format: str | None
    file_mode: int | None
    timeout: float


def resume_job(
    connection: Connection,
    find: Callable[[CohortsClient], Awaitable[Found]],
    options: ResumeOptions,
) -> None:
    """Save the file of an export that is found by *find*."""
    jobs = StartedJobs()
    to = options.output or Path()

    async def work(client: CohortsClient) -> SavedExport:
        """Wait for the file, and save it."""
        nonlocal to
        token, meant_for = await find(client)
        resumed = client.resume_export(token)
        jobs.request_ids.append(resumed.request_id)
        name = resumed.cohort_id or resumed.request_id
        to = options.output or meant_for or _file_named(name, options.format)
        place = to if options.output is None else path
        return await resumed.download(
            place, format=options.format, timeout=options.timeout
        )

    with (
        resume_hints(
            lambda error: _resume_commands(
                connection,
                jobs.resumable_after(error),
                to=to,
                format=options.format,
                file_mode=options.file_mode,
            ),
            jobs,
        ),
        destination(to, format=options.format, as_json=connection.as_json) as path,
    ):
        saved = connection.run(work, hook=jobs, file_mode=options.file_mode)

    _tell(connection, saved, to)


async def last_open(client: CohortsClient) -> Found:
    """Return the last spent export that is not delivered."""
    for record in await client.jobs(open_only=True):
        if record.token is not None:
            return await found_in(record)

    raise NoSuchJobError("no export of this project is open in the job store")


async def found_in(record: JobRecord) -> Found:
    """Return the token of an export, and the file of this machine it is meant for."""
    here = f"{socket.gethostname()}:"
    paths = [
        Path(each.target.removeprefix(here))
        for each in record.deliveries
        if each.target is not None
        and each.target.startswith(here)
        and each.finished_at is None
    ]
    # The temporary folder of a command that was killed on the way to stdout is gone.
    there = await asyncio.to_thread(
        lambda: [path for path in paths if path.parent.is_dir()]
    )

    return str(record.token), there[-1] if there else None


def _named(job: str) -> Callable[[CohortsClient], Awaitable[Found]]:
    async def named(client: CohortsClient) -> Found:
        # The record has the token, which tells more than the bare id. Without the
        # record the file is there all the same.
        with suppress(JobStoreUnavailableError):
            for record in await client.jobs():
                if record.request_id is not None and job in {
                    record.id,
                    record.request_id,
                }:
                    return await found_in(record)

        return job, None

    return named


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
    to = options.output or _file_named(cohort_id, options.format)
    jobs = StartedJobs(announced=connection.announces)

    if options.no_clobber and os.path.lexists(to):
        raise typer.BadParameter(f"{to} exists, and --no-clobber keeps it")

    def save(on_unknown: Unknown) -> tuple[SavedExport, int | None]:
        """Save the file, and ask what is left of the month."""

        async def work(client: CohortsClient) -> tuple[SavedExport, int | None]:
            saved = await client.export(
                cohort_id,
                path,
                properties=options.properties,
                timeout=options.timeout,
                format=options.format,
                skip_unchanged=options.skip_unchanged,
                manifest=options.manifest,
                occurrence=options.occurrence,
                reuse_within=options.reuse.seconds,
                on_unknown=on_unknown,
            )
            jobs.is_saved, jobs.is_done = True, to != STDOUT
            return saved, await months_rest(client)

        return connection.run(work, hook=jobs, file_mode=options.file_mode)

    with (
        resume_hints(
            lambda error: _resume_commands(
                connection,
                jobs.resumable_after(error),
                to=to,
                format=options.format,
                file_mode=options.file_mode,
            ),
            jobs,
            options.again if connection.is_recorded else lambda _: None,
        ),
        destination(to, format=options.format, as_json=connection.as_json) as path,
    ):
        saved, remaining = options.reuse.asking(connection, save)

    _tell(connection, saved, to, **spending_facts(jobs, remaining))
    say_what_was_spent(connection, saved.spent, remaining)


def _tell(connection: Connection, saved: SavedExport, to: Path, **more: object) -> None:
    if to != STDOUT:
        facts = {**render.facts(saved), **more}
        connection.print("export", facts, lambda _: render.saved(saved))


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

    with resume_hints(
        lambda error: (
            [_same_command(connection, options)]
            if isinstance(error, KeyboardInterrupt)
            else []
        )
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

    (command,) = _resume_commands(
        connection,
        [request_id],
        to=(options.output or Path()) / _file_named(outcome.cohort_id, options.format),
        format=options.format,
        file_mode=options.file_mode,
    )
    outcome.error.add_note(command)


def _resume_commands(
    connection: Connection,
    request_ids: list[str],
    *,
    to: Path,
    format: str | None,  # noqa: A002
    file_mode: int | None,
) -> list[str]:
    options = [
        *option_arguments(format=format, file_mode=_octal_text(file_mode)),
        *connection.arguments,
    ]

    return [
        command_line("resume", request_id, "-o", str(to), *options)
        for request_id in request_ids
    ]


def _same_command(connection: Connection, options: _Options) -> str:
    arguments = option_arguments(
        property=options.properties if isinstance(options.properties, list) else None,
        properties=options.properties is True,
        format=options.format,
        file_mode=_octal_text(options.file_mode),
        skip_unchanged=options.skip_unchanged,
    )
    folder = str(options.output or Path())

    return command_line(
        *("export", *options.cohort_ids, "-o", folder),
        *(*arguments, *options.reuse.arguments, *connection.arguments),
    )


def _octal_text(file_mode: int | None) -> str | None:
    return None if file_mode is None else f"{file_mode:o}"


def _file_named(stem: str, format: str | None) -> Path:  # noqa: A002
    # A quoted id cannot point outside the folder.
    return Path(f"{quote(stem, safe='')}.{format or 'csv'}")
