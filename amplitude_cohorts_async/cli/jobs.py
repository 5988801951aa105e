"""The commands about the record of exports: jobs list, resume, run, park, forget."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import attrs
import typer

from .. import CohortsClient
from ..errors import InvalidInputError
from ..models import ExportOutcome, JobRecord
from . import render
from .common import Connection
from .exits import Exit, NoSuchJobError
from .exporting import exit_with
from .file_options import JOB_TIMEOUT, FileMode, Format, Timeout
from .id_options import Yes
from .records import (
    NOTHING_OPEN,
    can_finish,
    delivered_to,
    find_record,
    left_deliveries,
    name_of,
    place_of,
    reason_not_here,
)
from .resume_hints import announce, command_line
from .resuming import (
    Found,
    ResumedTo,
    ResumeOptions,
    found_in,
    last_open,
    resume_job,
)
from .stores import has_job_store

__all__ = ("forget", "jobs", "list_jobs", "park", "resume", "run")

OpenOnly = Annotated[
    bool,
    typer.Option("--open", help="Only those that something remains to be done of."),
]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="As listed, or the request id.")
]

_SPENT = {"attempted", "requested", "ready", "parked"}
"""States in which there is, or may be, a file that was paid for."""


def jobs(
    connection: Connection, context: typer.Context, open_only: OpenOnly = False
) -> None:
    """List this project's exports of the last seven days, and finish what was left."""
    if context.invoked_subcommand is None:
        list_jobs(connection, open_only)
    elif open_only or connection != Connection():
        raise typer.BadParameter(
            f"put options after the whole command: jobs {context.invoked_subcommand} ..."
        )


def list_jobs(connection: Connection, open_only: OpenOnly = False) -> None:
    """List this project's exports of the last seven days; sends nothing."""
    found: list[JobRecord] = []

    if has_job_store(connection.jobs):
        found = connection.run(lambda client: client.jobs(open_only=open_only))

    if found or connection.as_json:
        connection.print("jobs", found, render.jobs)
    else:
        _say_nothing_is_open(connection)


def resume(
    connection: Connection,
    job: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="As listed.")
    ] = None,
    *,
    last: Annotated[
        bool, typer.Option("--last", help="The last open one, as without an ID.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="All that are meant for files here, as `jobs run`."),
    ] = False,
    output: ResumedTo = None,
    format: Format = None,  # noqa: A002 - named like the option
    file_mode: FileMode = None,
    timeout: Timeout = JOB_TIMEOUT,
) -> None:
    """
    Bring the file of an export that was left; spends no export.

    One that is parked is taken up if it is named.
    """
    if sum((job is not None, last, everything)) > 1:
        raise InvalidInputError("pass an ID, --last or --all")

    if everything:
        if output is not None:
            raise InvalidInputError("-o names one file; pass an ID or --last with it")
        _run(connection, forever=False, file_mode=file_mode)
        return

    _check_recorded(connection)

    async def find(client: CohortsClient) -> Found:
        """Return the export, if it is known where it goes."""
        found = await (last_open(client) if job is None else named(client))
        record = found.record

        if (
            output is None
            and found.meant_for is None
            and record is not None
            and delivered_to(record) is None
        ):
            raise InvalidInputError(
                f"{name_of(record)} was not meant for a file here: pass -o FILE"
            )

        return found

    async def named(client: CohortsClient) -> Found:
        """Return the one that the user names."""
        record = await _record(client, str(job))

        if record.token is None:
            raise NoSuchJobError(
                f"{name_of(record)} is {record.state}: nobody knows its request id, so "
                f"its file cannot be had"
            )

        return await found_in(record)

    options = ResumeOptions(
        output=output, format=format, file_mode=file_mode, timeout=timeout
    )
    resume_job(connection, find, options)


def run(
    connection: Connection,
    *,
    forever: Annotated[
        bool, typer.Option("--forever", help="Wait for more, until Ctrl-C.")
    ] = False,
    file_mode: FileMode = None,
) -> None:
    """
    Bring all files that were left to where they were meant for; spends no export.

    Several processes share the work. Exit code 7 if something is left that another
    run here could bring; what none could is named, with what to type.
    """
    try:
        _run(connection, forever=forever, file_mode=file_mode)
    except KeyboardInterrupt:
        # Nothing else ends it.
        if not forever:
            raise


def park(connection: Connection, job: JobId) -> None:
    """Put an export aside: only `jobs resume ID` takes it up again."""

    async def park_record(client: CohortsClient, record: JobRecord) -> JobRecord:
        """Put it aside, if something of it is left."""
        if not record.is_open and (place := delivered_to(record)):
            raise InvalidInputError(
                f"{name_of(record)} was delivered to {place}: nothing is left to put "
                f"aside"
            )
        return await client.park_job(record)

    _change(connection, job, park_record)


def forget(connection: Connection, job: JobId, *, yes: Yes = False) -> None:
    """Remove an export from the record; asks if it is paid for and not delivered."""

    async def forget_record(client: CohortsClient, record: JobRecord) -> JobRecord:
        """Remove it, and return it."""
        await client.forget_job(record)
        return record

    _check_recorded(connection)
    record = connection.run(lambda client: _record(client, job))

    if not yes and record.state in _SPENT and _is_left(record):
        _confirm(record)

    _change(connection, job, forget_record)


def _change(
    connection: Connection,
    job: str,
    change: Callable[[CohortsClient, JobRecord], Awaitable[JobRecord]],
) -> None:
    _check_recorded(connection)

    async def work(client: CohortsClient) -> JobRecord:
        return await change(client, await _record(client, job))

    connection.print("job", connection.run(work), lambda record: render.jobs([record]))


def _run(connection: Connection, *, forever: bool, file_mode: int | None) -> None:
    outcomes: list[ExportOutcome] = []

    async def work(client: CohortsClient) -> _Rest:
        """Tell each outcome; return what is still open."""
        if forever:
            _say_what_is_left(connection, await _rest(client))

        async for outcome in client.run_jobs(forever=forever):
            if not connection.as_json:
                render.outcome(outcome)
            elif forever:
                render.document("exports", [outcome])
            if not forever:
                outcomes.append(outcome)
            # Whoever reads a pipe waits for it.
            sys.stdout.flush()

        return await _rest(client)

    rest = _Rest()

    # A service waits for what is recorded later.
    if has_job_store(connection.jobs) or forever:
        rest = connection.run(work, file_mode=file_mode)

    if connection.as_json:
        left = [record for record, _ in rest.left]
        render.document("exports", outcomes, open=bool(rest.open), left=left)
    elif not (outcomes or rest.open or rest.left):
        _say_nothing_is_open(connection)

    _say_what_is_open(connection, rest, outcomes)
    _say_what_is_left(connection, rest)
    exit_with(outcomes, otherwise=Exit.UNFINISHED if rest.open else Exit.OK)


@attrs.frozen
class _Rest:
    """
    What a run leaves.

    Attributes:
        open: What another run here could finish.
        left: What it could not, and why.
    """

    open: Sequence[JobRecord] = ()
    left: Sequence[tuple[JobRecord, str]] = ()


async def _rest(client: CohortsClient) -> _Rest:
    records = await client.jobs()
    found = [record for record in records if record.is_open]

    return _Rest(
        [record for record in found if can_finish(record, records)],
        [
            (record, reason)
            for record in found
            if (reason := reason_not_here(record, records)) is not None
        ],
    )


def _say_what_is_open(
    connection: Connection, rest: _Rest, outcomes: Sequence[ExportOutcome]
) -> None:
    if not connection.announces:
        return

    # Of what failed, its error says how to go on.
    told = {outcome.cohort_id for outcome in outcomes}
    again = command_line("jobs", "run", *connection.arguments)

    for record in rest.open:
        if record.cohort_id not in told:
            announce(f"{name_of(record)} is not finished yet: run `{again}` again")


def _say_what_is_left(connection: Connection, rest: _Rest) -> None:
    if not connection.announces:
        return

    for record, reason in rest.left:
        name = record.request_id or record.id
        resume, park, forget = (
            f"`{command_line('jobs', *words, *connection.arguments)}`"
            for words in (
                ("resume", name, "-o", "FILE"),
                ("park", name),
                ("forget", name),
            )
        )
        announce(
            f"{name_of(record)} is open, and {reason}: {resume}, {park} or {forget}"
        )


def _check_recorded(connection: Connection) -> None:
    if not has_job_store(connection.jobs):
        raise NoSuchJobError(NOTHING_OPEN)


def _say_nothing_is_open(connection: Connection) -> None:
    if connection.announces:
        announce(NOTHING_OPEN)


def _confirm(record: JobRecord) -> None:
    is_spent = "may be spent" if record.state == "attempted" else "is spent"
    places = [place_of(each) for each in left_deliveries(record)]
    to = f" to {', '.join(places)}" if delivered_to(record) else ""
    text = f"{name_of(record)} {is_spent}, and was not delivered{to}"

    if not sys.stdin.isatty():
        raise InvalidInputError(f"{text}: pass --yes to forget it")

    question = f"Forget it? {text}, and the same command would spend another one."

    if not typer.confirm(question, err=True):
        raise typer.Exit(Exit.FAILURE)


def _is_left(record: JobRecord) -> bool:
    return bool(left_deliveries(record)) or not record.deliveries


async def _record(client: CohortsClient, job: str) -> JobRecord:
    if (record := await find_record(client, job)) is not None:
        return record

    raise NoSuchJobError(
        f"no export {job!r} of this project is in the job store; "
        f"`amplitude-cohorts jobs` lists them"
    )
