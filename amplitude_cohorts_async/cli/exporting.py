"""The part of the command that brings files: export, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import attrs
import typer

from .. import CohortsClient
from ..models import ExportOutcome, SavedExport
from . import render
from .common import Connection
from .exits import Exit, exit_of
from .resume_hints import StartedJobs, command_line, option_words, resume_hints

__all__ = ("AllProperties", "Properties", "export", "resume", "wanted_properties")

_PATIENCE = 1800.0
"""Seconds to wait for a job."""

Format = Annotated[
    str | None,
    typer.Option(
        metavar="csv|csv.gz|parquet",
        help="Format, if the file name does not say.",
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
            f"{text!r} is no octal number; pass permission bits, as in 640"
        ) from None


FileMode = Annotated[
    int | None,
    typer.Option(
        parser=_octal,
        metavar="OCTAL",
        help="Mode of new files, as in 640; by default as the umask says.",
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
            help="A file, or a directory for several cohorts; by default ID.csv here.",
        ),
    ] = None,
    named: Properties = None,
    all_properties: AllProperties = False,
    format: Format = None,  # noqa: A002 - the word users know
    file_mode: FileMode = None,
    timeout: Timeout = _PATIENCE,
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
            help="For a directory: skip cohorts that did not change since saved there.",
        ),
    ] = False,
) -> None:
    """
    Export cohorts to files; each spends one of the month's exports.

    When something fails after that, the last line says how to go on without
    spending another. An export into a directory goes on when it is run again.
    """
    into_directory = len(cohort_ids) > 1 or (output is not None and output.is_dir())

    if skip_unchanged and not into_directory:
        raise typer.BadParameter("--skip-unchanged needs -o with a directory")

    order = _Order(
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
        _into_directory(connection, order)
    else:
        _into_file(connection, order)


def resume(
    connection: Connection,
    job: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN_OR_ID", help="What an export said when it was left."
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="By default ID.csv here."),
    ] = None,
    format: Format = None,  # noqa: A002 - the word users know
    file_mode: FileMode = None,
    timeout: Timeout = _PATIENCE,
) -> None:
    """
    Go on with an export that was requested before; spends nothing.

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
        return await resumed.download(to, format=format, timeout=timeout)

    with resume_hints(
        lambda error: _resume(
            connection, jobs, error, to=to, format=format, file_mode=file_mode
        )
    ):
        saved = connection.run(work, hook=jobs, file_mode=file_mode)

    connection.print("export", saved, render.saved)


def wanted_properties(named: list[str] | None, every: bool) -> bool | list[str]:
    """Return what the two options about properties ask for."""
    if named and every:
        raise typer.BadParameter("pass either --property or --properties")

    return every or named or False


@attrs.frozen(kw_only=True)
class _Order:
    cohort_ids: list[str]
    output: Path | None
    properties: bool | list[str]
    format: str | None
    file_mode: int | None
    timeout: float
    max_concurrency: int
    skip_unchanged: bool


def _into_file(connection: Connection, order: _Order) -> None:
    (cohort_id,) = order.cohort_ids
    to = order.output or _file_named(cohort_id, order.format)
    jobs = StartedJobs()

    with resume_hints(
        lambda error: _resume(
            connection,
            jobs,
            error,
            to=to,
            format=order.format,
            file_mode=order.file_mode,
        )
    ):
        saved = connection.run(
            lambda client: client.export(
                cohort_id,
                to,
                properties=order.properties,
                timeout=order.timeout,
                format=order.format,
            ),
            hook=jobs,
            file_mode=order.file_mode,
        )

    connection.print("export", saved, render.saved)


def _into_directory(connection: Connection, order: _Order) -> None:
    async def work(client: CohortsClient) -> list[ExportOutcome]:
        outcomes: list[ExportOutcome] = []

        async with client.export_many(
            order.cohort_ids,
            order.output or Path(),
            properties=order.properties,
            timeout=order.timeout,
            format=order.format or "csv",
            max_concurrency=order.max_concurrency,
            skip_unchanged=order.skip_unchanged,
        ) as batch:
            async for outcome in batch:
                outcomes.append(outcome)
                if not connection.as_json:
                    render.outcome(outcome)

        return outcomes

    with resume_hints(
        lambda error: (
            [_again(connection, order)] if isinstance(error, KeyboardInterrupt) else []
        )
    ):
        outcomes = connection.run(work, file_mode=order.file_mode)

    if connection.as_json:
        render.document("exports", outcomes)

    if codes := {exit_of(each.error) for each in outcomes if each.error}:
        if not connection.as_json:
            render.go_on(_again(connection, order))
        # Failures of one kind keep their code.
        raise typer.Exit(codes.pop() if len(codes) == 1 else Exit.FAILURE)


def _resume(
    connection: Connection,
    jobs: StartedJobs,
    error: BaseException,
    *,
    to: Path,
    format: str | None,  # noqa: A002
    file_mode: int | None,
) -> list[str]:
    options = [
        *option_words(format=format, file_mode=_octal_text(file_mode)),
        *connection.arguments,
    ]

    return [
        command_line("resume", request_id, "-o", str(to), *options)
        for request_id in jobs.left_by(error)
    ]


def _again(connection: Connection, order: _Order) -> str:
    options = option_words(
        property=order.properties if isinstance(order.properties, list) else None,
        properties=order.properties is True,
        format=order.format,
        file_mode=_octal_text(order.file_mode),
        skip_unchanged=order.skip_unchanged,
    )
    words = [*order.cohort_ids, "-o", str(order.output or Path()), *options]

    return command_line("export", *words, *connection.arguments)


def _octal_text(file_mode: int | None) -> str | None:
    return None if file_mode is None else f"{file_mode:o}"


def _file_named(stem: str, format: str | None) -> Path:  # noqa: A002
    # Quoted, an id cannot leave the folder.
    return Path(f"{quote(stem, safe='')}.{format or 'csv'}")
