"""The commands that save files: export, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import attrs
import typer

from .. import CohortsClient
from ..models import ExportOutcome, SavedExport
from . import render
from .common import FORMATS, Connection
from .destination import STDOUT, destination
from .exits import Exit, exit_of
from .resume_hints import (
    StartedJobs,
    command_line,
    option_arguments,
    resumable_id,
    resume_hints,
)

__all__ = ("AllProperties", "Properties", "export", "resume", "wanted_properties")

_JOB_TIMEOUT = 1800.0
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
    timeout: Timeout = _JOB_TIMEOUT,
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
            help="For a directory: skip cohorts that are unchanged since saved there.",
        ),
    ] = False,
) -> None:
    """
    Export cohorts to files; each spends one export of the monthly quota.

    If something fails after that, the last lines are the commands that resume
    without spending another. A directory whose run was interrupted or killed is
    resumed by the same command; for a single file that would spend another.
    """
    is_directory = output is not None and output.is_dir()
    into_directory = len(cohort_ids) > 1 or is_directory

    if into_directory and output is not None and not is_directory:
        raise typer.BadParameter(
            f"several cohorts need -o with a directory, and {output} is none; make it "
            f"first"
        )

    if skip_unchanged and not into_directory:
        raise typer.BadParameter("--skip-unchanged needs -o with a directory")

    options = _Options(
        cohort_ids=cohort_ids,
        output=output,
        properties=wanted_properties(named, all_properties),
        format=format,
        file_mode=file_mode,
        timeout=timeout,
        max_concurrency=max_concurrency,
        skip_unchanged=skip_unchanged,
    )

    if into_directory:
        _into_directory(connection, options)
    else:
        _into_file(connection, options)


def resume(
    connection: Connection,
    job: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN_OR_ID",
            help="The token or request id that an export printed.",
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A file, or - for stdout; by default ID.csv here.",
        ),
    ] = None,
    format: Format = None,  # noqa: A002 - named like the option
    file_mode: FileMode = None,
    timeout: Timeout = _JOB_TIMEOUT,
) -> None:
    """
    Resume an export that was requested before; spends no export.

    Its file stays available for seven days.
    """
    jobs = StartedJobs()
    to = output or Path()

    async def work(client: CohortsClient) -> SavedExport:
        """Wait for the file, and save it."""
        nonlocal to
        resumed = client.resume_export(job)
        jobs.request_ids.append(resumed.request_id)
        to = output or _file_named(resumed.cohort_id or resumed.request_id, format)
        place = to if output is None else path
        return await resumed.download(place, format=format, timeout=timeout)

    with (
        resume_hints(
            lambda error: _resume_commands(
                connection,
                jobs.resumable_after(error),
                to=to,
                format=format,
                file_mode=file_mode,
            ),
            jobs,
        ),
        destination(to, format=format, as_json=connection.as_json) as path,
    ):
        saved = connection.run(work, hook=jobs, file_mode=file_mode)

    _tell(connection, saved, to)


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


def _into_file(connection: Connection, options: _Options) -> None:
    (cohort_id,) = options.cohort_ids
    to = options.output or _file_named(cohort_id, options.format)
    jobs = StartedJobs(announced=connection.announces)

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
        saved = connection.run(
            lambda client: client.export(
                cohort_id,
                path,
                properties=options.properties,
                timeout=options.timeout,
                format=options.format,
            ),
            hook=jobs,
            file_mode=options.file_mode,
        )

    _tell(connection, saved, to)


def _tell(connection: Connection, saved: SavedExport, to: Path) -> None:
    if to != STDOUT:
        connection.print("export", saved, render.saved)


def _into_directory(connection: Connection, options: _Options) -> None:
    async def work(client: CohortsClient) -> list[ExportOutcome]:
        outcomes: list[ExportOutcome] = []

        async with client.export_many(
            options.cohort_ids,
            options.output or Path(),
            properties=options.properties,
            timeout=options.timeout,
            format=options.format or "csv",
            max_concurrency=options.max_concurrency,
            skip_unchanged=options.skip_unchanged,
        ) as batch:
            async for outcome in batch:
                _add_hint(connection, options, outcome)
                outcomes.append(outcome)
                if not connection.as_json:
                    render.outcome(outcome)

        return outcomes

    with resume_hints(
        lambda error: (
            [_same_command(connection, options)]
            if isinstance(error, KeyboardInterrupt)
            else []
        )
    ):
        outcomes = connection.run(work, file_mode=options.file_mode)

    errors = [outcome.error for outcome in outcomes if outcome.error is not None]

    if connection.as_json:
        render.document("exports", outcomes)
    else:
        for error in errors:
            render.resume_commands(error)

    if codes := {exit_of(error) for error in errors}:
        # Failures with the same exit code keep it.
        raise typer.Exit(codes.pop() if len(codes) == 1 else Exit.FAILURE)


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
        "export", *options.cohort_ids, "-o", folder, *arguments, *connection.arguments
    )


def _octal_text(file_mode: int | None) -> str | None:
    return None if file_mode is None else f"{file_mode:o}"


def _file_named(stem: str, format: str | None) -> Path:  # noqa: A002
    # A quoted id cannot point outside the folder.
    return Path(f"{quote(stem, safe='')}.{format or 'csv'}")
