"""The command resume, and how an export is found that was left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeAlias

import attrs
import typer

from .. import CohortsClient
from ..errors import InvalidInputError, JobStoreUnavailableError
from ..models import JobRecord, SavedExport
from .common import Connection
from .destination import STDOUT, check_stdout, to_stdout
from .exits import NoSuchJobError
from .file_options import (
    JOB_TIMEOUT,
    FileMode,
    Format,
    Timeout,
    file_named,
    saving_hints,
    tell,
)
from .records import (
    NOTHING_OPEN,
    delivered_to,
    file_here,
    find_record,
    left_deliveries,
    name_of,
)
from .resume_hints import StartedJobs

__all__ = (
    "Found",
    "ResumeOptions",
    "ResumedTo",
    "found_in",
    "last_open",
    "named",
    "resume",
    "resume_job",
)

ResumedTo = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="A file, or - for stdout; by default the file it was meant for.",
    ),
]


RequestedJob: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[TOKEN_OR_ID]",
        help="The token or request id that an export printed; by default the last open "
        "one.",
    ),
]


@attrs.frozen
class Found:
    """
    An export that is to be resumed.

    Attributes:
        token: Or its request id.
        meant_for: The file of this machine to which it did not come yet.
        record: What the store has of it, if it has it.
    """

    token: str
    meant_for: Path | None = None
    record: JobRecord | None = None


def resume(
    connection: Connection,
    job: RequestedJob = None,
    *,
    output: ResumedTo = None,
    format: Format = None,  # noqa: A002 - named like the option
    file_mode: FileMode = None,
    timeout: Timeout = JOB_TIMEOUT,
) -> None:
    """
    Resume an export that was requested before; spends no export.

    Its file stays available for seven days. Without -o it goes where it was meant
    to, or else to ID.csv here.
    """
    options = ResumeOptions(
        output=output, format=format, file_mode=file_mode, timeout=timeout
    )

    if job is None:
        resume_job(connection, last_open, options)
    else:
        resume_job(connection, named(job), options)


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

    if to == STDOUT:
        check_stdout(connection, options.format)

    async def work(client: CohortsClient) -> SavedExport | None:
        """Wait for the file, and save it."""
        nonlocal to
        found = await find(client)
        resumed = client.resume_export(found.token)
        jobs.request_ids.append(resumed.request_id)
        name = resumed.cohort_id or resumed.request_id
        to = options.output or await _default_file(found, name, options.format)

        if to == STDOUT:
            await to_stdout(resumed, format=options.format, timeout=options.timeout)
            return None

        return await resumed.download(
            to, format=options.format, timeout=options.timeout
        )

    with saving_hints(
        connection,
        jobs,
        to=lambda: to,
        format=options.format,
        file_mode=options.file_mode,
    ):
        saved = connection.run(work, hook=jobs, file_mode=options.file_mode)

    tell(connection, saved)


async def last_open(client: CohortsClient) -> Found:
    """Return the last spent export that is not delivered."""
    for record in await client.jobs(open_only=True):
        if record.token is not None:
            return await found_in(record)

    raise NoSuchJobError(NOTHING_OPEN)


async def found_in(record: JobRecord) -> Found:
    """Return an export, and the file of this machine that it is still meant for."""
    paths = [path for each in left_deliveries(record) if (path := file_here(each))]
    there = await asyncio.to_thread(
        lambda: [path for path in paths if path.parent.is_dir()]
    )

    return Found(str(record.token), there[-1] if there else None, record)


def named(job: str) -> Callable[[CohortsClient], Awaitable[Found]]:
    """Return what finds the export that a user names, recorded or not."""

    async def find(client: CohortsClient) -> Found:
        """Return it, as it is recorded."""
        # The record has the token, which tells more than the bare id. Without the
        # record the file is there all the same.
        with suppress(JobStoreUnavailableError):
            record = await find_record(client, job)
            if record is not None and record.token is not None:
                return await found_in(record)

        return Found(job)

    return find


async def _default_file(found: Found, name: str, format: str | None) -> Path:  # noqa: A002
    """Return where an export goes without -o: over no file that nobody named."""
    if found.meant_for is not None:
        return found.meant_for

    if found.record and (place := delivered_to(found.record)):
        raise InvalidInputError(
            f"{name_of(found.record)} was delivered to {place}; pass -o FILE for "
            f"another copy"
        )

    path = file_named(name, format)

    if await asyncio.to_thread(os.path.lexists, path):
        raise InvalidInputError(f"{path} exists; pass -o FILE, which replaces it")

    return path
