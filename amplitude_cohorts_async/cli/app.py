"""The command, and its subcommands that only read: list, show, usage, plan."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from typing import Annotated

import typer

from .. import CohortsClient
from ..models import Cohort
from . import (
    completion,
    demo,
    doctor,
    emulate,
    exporting,
    jobs,
    profiles,
    render,
    resuming,
    serve,
    syncing,
    watching,
    writes,
)
from .cohort_cache import remember_cohorts
from .common import Connection, command
from .exits import Exit, UsageError, exit_of
from .help_types import Command, Group
from .listing import CSV_COLUMNS, SortKey, chosen
from .release import print_version

__all__ = ("app", "run")

app: typer.Typer = typer.Typer(
    cls=Group,
    add_completion=False,
    help="Export, upload and sync Amplitude cohorts.",
    epilog=(
        "Keys come from --profile, or AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY, or "
        "the default profile. "
        "Try `amplitude-cohorts demo`, which needs no account."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.")
    ] = False,
) -> None:
    if version:
        print_version()
        raise typer.Exit

    if context.invoked_subcommand is None:
        context.get_help()  # prints it
        raise typer.Exit


def list_cohorts(
    connection: Connection,
    *,
    sync_info: Annotated[
        bool,
        typer.Option("--sync-info", help="Also show where each cohort is synced."),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only those with this text in their name."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--type", metavar="TYPE", help="Only those of this type."),
    ] = None,
    sort: Annotated[
        SortKey | None,
        typer.Option(
            metavar="name|size|computed",
            help="By name, or the largest or latest first; by default as the service "
            "answers.",
        ),
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a line of JSON for each cohort.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV with a header.")
    ] = False,
) -> None:
    """List the discoverable cohorts."""
    if connection.as_json + jsonl + as_csv > 1:
        raise typer.BadParameter("pass one of --json, --jsonl and --csv")

    listed = connection.run(
        lambda client: client.list_cohorts(include_sync_info=sync_info)
    )
    remember_cohorts(
        connection.project_hash, {each.id: each.name or "" for each in listed}
    )
    found = chosen(listed, name=name, kind=kind, sort=sort)

    if jsonl:
        render.json_lines(found)
    elif as_csv:
        render.csv_table(CSV_COLUMNS, found)
    else:
        _show_list(connection, found, listed=listed, sync_info=sync_info)


def _show_list(
    connection: Connection,
    found: Sequence[Cohort],
    *,
    listed: Sequence[Cohort],
    sync_info: bool,
) -> None:
    if listed and not found:
        connection.note(f"None of {len(listed):,} cohorts is of this name and type.")

    connection.print("cohorts", found, partial(render.cohorts, sync_info=sync_info))


def show(
    connection: Connection,
    cohort_id: Annotated[str, typer.Argument(metavar="ID", help="The cohort.")],
) -> None:
    """Show one cohort from the list; --json adds its definition."""
    found = connection.run(lambda client: client.get_cohort(cohort_id))
    connection.print("cohort", found, render.cohort)


def usage(connection: Connection) -> None:
    """Show how much of this month's export quota is used."""
    found = connection.run(CohortsClient.get_usage)
    connection.print("usage", found, render.usage)


def plan(
    connection: Connection,
    cohort_ids: Annotated[list[str], typer.Argument(metavar="ID", help="The cohorts.")],
    *,
    named: exporting.Properties = None,
    all_properties: exporting.AllProperties = False,
    job_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Assumed duration of a job.")
    ] = 45.0,
) -> None:
    """Show what exporting cohorts would take; spends no export."""
    found = connection.run(
        lambda client: client.plan(
            cohort_ids,
            properties=exporting.wanted_properties(named, all_properties),
            job_seconds=job_seconds,
        )
    )
    connection.print("plan", found, render.plan)


_SHARED = {"--json", "--quiet", "-q", "--verbose", "-v"}
"""Options of many commands, which may stand before its name, too."""

_MEMBERS = typer.Typer(cls=Group, help="Add members to a cohort or remove them.")
_JOBS = typer.Typer(cls=Group)
_PROFILES = typer.Typer(cls=Group)
_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_cohorts,
    "show": show,
    "usage": usage,
    "plan": plan,
    "export": exporting.export,
    "resume": resuming.resume,
    "watch": watching.watch,
    "upload": writes.upload,
    "sync": syncing.sync,
    "diff": syncing.diff,
    "doctor": doctor.doctor,
    "completion": completion.completion,
    "demo": demo.demo,
    "emulate": emulate.emulate,
    "serve": serve.serve,
}

for _name, _function in _COMMANDS.items():
    app.command(_name, cls=Command)(command(_function))

_MEMBERS.command("add", cls=Command)(command(writes.add))
_MEMBERS.command("remove", cls=Command)(command(writes.remove))
app.add_typer(_MEMBERS, name="members")

_JOBS.callback(invoke_without_command=True)(command(jobs.jobs))
_JOBS.command("list", cls=Command)(command(jobs.list_jobs))
_JOBS.command("resume", cls=Command)(command(jobs.resume))
_JOBS.command("run", cls=Command)(command(jobs.run))
_JOBS.command("park", cls=Command)(command(jobs.park))
_JOBS.command("forget", cls=Command)(command(jobs.forget))
app.add_typer(_JOBS, name="jobs")


_PROFILES.callback(invoke_without_command=True)(command(profiles.profiles))
_PROFILES.command("list", cls=Command)(command(profiles.list_profiles))
_PROFILES.command("add", cls=Command)(command(profiles.add))
_PROFILES.command("default", cls=Command)(command(profiles.make_default))
_PROFILES.command("remove", cls=Command)(command(profiles.remove))
app.add_typer(_PROFILES, name="profiles")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    arguments = _with_shared_last(arguments)

    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot encode must not end the command.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    try:
        code = typer.main.get_command(app)(
            arguments, prog_name="amplitude-cohorts", standalone_mode=False
        )
    except (UsageError, typer.Abort) as error:
        render.failure(error, as_json="--json" in arguments)
        return exit_of(error)

    return int(code or Exit.OK)


def _with_shared_last(arguments: list[str]) -> list[str]:
    # `amplitude-cohorts --json list` means `amplitude-cohorts list --json`.
    count = 0
    while count < len(arguments) and arguments[count] in _SHARED:
        count += 1

    shared, rest = arguments[:count], arguments[count:]
    # Behind the end of the options there are only arguments.
    end = rest.index("--") if "--" in rest else len(rest)

    return [*rest[:end], *shared, *rest[end:]] if rest else arguments
