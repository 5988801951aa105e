"""
The part of the command that brings files: export, resume.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .._client import CohortsClient
from .._core.tokens import from_token
from .._io.files import checked_target
from ..errors import CohortsError, ExportExpiredError, ExportFailedError
from ..events import Event, ExportRequested
from ..models import SavedExport
from . import render
from .common import Connection, command

__all__ = ("register",)

_PATIENCE = 1800.0
"""
Seconds to wait for a job.
"""

Target = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to; .csv, .csv.gz or .parquet. By default named after the cohort.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="csv|csv.gz|parquet",
        help="What the file holds, when its name does not say.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the job."),
]


def register(app: typer.Typer) -> None:
    """
    Add these commands.
    """
    command(app, "export")(export)
    command(app, "resume")(resume)


def export(
    connection: Connection,
    cohort_id: Annotated[str, typer.Argument(metavar="ID", help="The cohort.")],
    *,
    output: Target = None,
    property_: Annotated[
        list[str] | None,
        typer.Option(
            "--property", "-p", metavar="NAME", help="A user property; repeatable."
        ),
    ] = None,
    properties: Annotated[
        bool, typer.Option("--properties", help="All user properties.")
    ] = False,
    format: Format = None,  # noqa: A002 - the word users know
    timeout: Timeout = _PATIENCE,
) -> None:
    """
    Export a cohort to a file; spends one of the month's exports.

    What goes wrong after that says how to go on without spending another.
    """
    to = output or Path(_file_name(cohort_id, format))
    jobs = _Jobs()

    with _saying_how_to_go_on(connection, jobs, to, format):
        saved = connection.run(
            lambda client: client.export(
                cohort_id,
                to,
                properties=properties or property_ or False,
                format=format,
                timeout=timeout,
            ),
            hook=jobs,
        )

    connection.print("export", saved, render.saved)


def resume(
    connection: Connection,
    export: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN_OR_ID", help="What an export said when it was left."
        ),
    ],
    *,
    output: Target = None,
    format: Format = None,  # noqa: A002 - the word users know
    timeout: Timeout = _PATIENCE,
) -> None:
    """
    Go on with an export that was requested before; spends nothing.

    Its file stays available for seven days.
    """
    ticket = from_token(export)
    to = output or Path(_file_name(ticket.cohort_id or ticket.request_id, format))
    target = checked_target(to, format)
    jobs = _Jobs(ticket.request_id)

    async def work(client: CohortsClient) -> SavedExport:
        job = await client.resume_export(export).wait(timeout=timeout)
        return await job.save(target)

    with _saying_how_to_go_on(connection, jobs, to, format):
        saved = connection.run(work, hook=jobs)

    connection.print("export", saved, render.saved)


class _Jobs:
    """
    Keeps in mind which jobs were requested and are not saved yet.
    """

    def __init__(self, *request_ids: str) -> None:
        self.request_ids = list(request_ids)

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, ExportRequested):
            self.request_ids.append(event.request_id)


@contextmanager
def _saying_how_to_go_on(
    connection: Connection,
    jobs: _Jobs,
    to: Path,
    format: str | None,  # noqa: A002
) -> Generator[None]:
    try:
        yield
    except (ExportFailedError, ExportExpiredError):
        # Nothing to go on with: only another export can help.
        raise
    except KeyboardInterrupt as stop:
        for request_id in jobs.request_ids:
            stop.add_note(_resumption(connection, request_id, to, format))
        raise
    except CohortsError as error:
        if error.token is not None:
            request_id = from_token(error.token).request_id
            error.add_note(_resumption(connection, request_id, to, format))
        raise


def _resumption(
    connection: Connection,
    request_id: str,
    to: Path,
    format: str | None,  # noqa: A002
) -> str:
    words = ["amplitude-cohorts", "resume", request_id, "-o", str(to)]
    words += [] if format is None else ["--format", format]

    return shlex.join([*words, *connection.arguments])


def _file_name(stem: str, format: str | None) -> str:  # noqa: A002
    return f"{stem}.{format or 'csv'}"
