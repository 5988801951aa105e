"""The command doctor: what works, what does not, and what to do; spends nothing."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import attrs
import typer

from ... import CohortsClient
from ...errors import (
    AuthenticationError,
    CohortsError,
    MissingExtraError,
    PermissionDeniedError,
    TransportError,
)
from ...events import Event, RequestSent
from ...models import Usage
from ...policies import Retrying
from .. import render
from ..command_words import in_command_words
from ..common import Connection, is_on_this_machine
from ..exits import Exit
from ..id_options import Yes
from ..running import run
from ..stores import has_job_store
from .machine import Check, failed, of_machine
from .probe_report import check_probe, report_probe

__all__ = ("doctor",)

_ONCE = Retrying(attempts=2, wait_max=1.0, timeout=10.0)
_SECONDS = 15.0
_SKEW_SECONDS = 60.0
"""From which the two clocks are said to differ; the job store compares their times."""

_FEW = 10
"""Exports of a month that are worth a warning."""

STORES: Final = {
    "us": "https://s3.us-west-2.amazonaws.com",
    "eu": "https://s3.eu-central-1.amazonaws.com",
}
"""Hosts of the kind that a link names. Which one it is, only an export shows."""

_UNTRUSTED = re.compile(r"\bClientConnectorCertificateError\b")
"""A class of aiohttp's: an error of ours names its cause, and does not keep it."""

_MARKS = {"ok": "ok", "warning": "look", "failed": "FAIL", "unknown": "?"}
_MARK_WIDTH = 5
_NAME_WIDTH = 14
_LEAST_WIDTH = 30
_WIDE = 60


def doctor(
    connection: Connection,
    *,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Find out what nobody knows of the service: makes a small cohort, "
            "which stays, and spends at most two exports; asks first.",
        ),
    ] = False,
    ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For --probe: two user ids of the project, one a line; a write is "
            "looked at, too.",
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """
    Check keys, region, network, clock, quota, disk, job store; spends no export.

    The exit code is that of the first thing that fails. With --probe it spends at
    most two, and prints a report without ids, keys and links.
    """
    if (ids is not None or yes) and not probe:
        raise typer.BadParameter("--ids and --yes belong to --probe")

    target = check_probe(connection, ids, yes=yes) if probe else None
    checks = [
        *of_machine(
            connection.jobs, no_jobs=connection.no_jobs, proxy=connection.proxy
        ),
        *_of_service(connection),
    ]
    bad = [check for check in checks if check.state == "failed"]

    if target is not None and not bad:
        report_probe(connection, target)
        return

    if connection.as_json:
        facts = {"healthy": not bad, "checks": list(map(_facts, checks))}
        render.document("doctor", facts)
    else:
        _show(checks)

    if bad:
        raise typer.Exit(bad[0].code or Exit.FAILURE)


@attrs.define
class _Clock:
    """An event hook that keeps how far the service's clock is from ours, in seconds."""

    ahead: float | None = None

    def __call__(self, event: Event, /) -> None:
        """Look at the time of an answer."""
        if isinstance(event, RequestSent) and event.date is not None:
            self.ahead = (event.date - datetime.now(UTC)).total_seconds()


def _of_service(connection: Connection) -> list[Check]:
    clock = _Clock()

    try:
        keys = connection.keys
        place = keys.base_url or f"region {keys.region}"
        found = connection.run(_ask, hook=clock, retrying=_ONCE, timeout=_SECONDS)
    except MissingExtraError as error:
        # That of the job store's server, or of the limiter's.
        return [failed("extra", error)]
    except CohortsError as error:
        return [failed("keys", error)]

    source = Check("source", "ok", f"keys of the {keys.source}, for {place}")
    checks = [source, _network(connection, found), *_clock_checks(clock)]

    # Where nothing answered, nothing is known of the keys.
    if not isinstance(found, TransportError):
        checks.append(_keys(connection, found))

    if isinstance(found, Usage):
        checks.append(_quota(found))

    return [*checks, _open_exports(connection), _object_store(connection)]


async def _ask(client: CohortsClient) -> Usage | CohortsError:
    try:
        return await client.get_usage()
    except CohortsError as error:
        return error


def _network(connection: Connection, found: Usage | CohortsError) -> Check:
    if isinstance(found, TransportError):
        text = in_command_words(found)
        advice = (
            "; the certificate is not trusted here: a proxy that opens TLS needs its "
            "own in SSL_CERT_FILE"
            if _UNTRUSTED.search(str(found))
            else ""
        )
        return Check("network", "failed", f"{text}{advice}", Exit.TRANSPORT)

    base_url = connection.keys.base_url or ""
    how = "without TLS" if base_url.startswith("http:") else "with TLS"

    return Check("network", "ok", f"the service answers, {how}")


def _clock_checks(clock: _Clock) -> list[Check]:
    if clock.ahead is None:
        return [Check("clock", "unknown", "the service did not tell its time")]

    if abs(clock.ahead) < _SKEW_SECONDS:
        return [Check("clock", "ok", "within a minute of the service's")]

    side = "behind" if clock.ahead > 0 else "ahead of"
    text = (
        f"this machine's clock is {abs(clock.ahead):,.0f} s {side} the service's: set "
        f"it, because the age of exports and links is told by it"
    )

    return [Check("clock", "warning", text)]


def _keys(connection: Connection, found: Usage | CohortsError) -> Check:
    if isinstance(found, AuthenticationError):
        return _refused_keys(connection, found)

    if isinstance(found, PermissionDeniedError):
        return Check(
            "keys",
            "failed",
            f"the keys are valid, but may not do this: {in_command_words(found)}",
            Exit.AUTHENTICATION,
        )

    if isinstance(found, CohortsError):
        return failed("keys", found)

    return Check("keys", "ok", "accepted")


def _refused_keys(connection: Connection, found: AuthenticationError) -> Check:
    keys = connection.keys

    # Keys go to no other place than the vendor's own.
    if keys.base_url is not None:
        return failed("keys", found)

    here = keys.region.lower()
    other = "us" if here == "eu" else "eu"
    answer = connection.run(_ask, region=other, retrying=_ONCE, timeout=_SECONDS)
    code = Exit.AUTHENTICATION

    if isinstance(answer, AuthenticationError):
        text = (
            "neither region knows these keys: copy both again from the project's "
            "settings"
        )
    elif isinstance(answer, CohortsError) and not isinstance(
        answer, PermissionDeniedError
    ):
        text = (
            f"region {here} does not know these keys, and region {other} could not be "
            f"asked: {in_command_words(answer)}"
        )
    else:
        fix = (
            f"add the profile again with --region {other}"
            if keys.source != "environment"
            else f"set AMPLITUDE_REGION={other}, or pass --region {other}"
        )
        text = f"the keys are good, and of region {other}, not {here}: {fix}"

    return Check("keys", "failed", text, code)


def _quota(found: Usage) -> Check:
    if found.remaining is None:
        return Check("quota", "ok", f"unlimited, {found.used:,} exports used")

    until = "" if found.resets_at is None else f", until {found.resets_at:%Y-%m-%d}"
    text = f"{found.remaining:,} of {found.limit:,} exports left this month{until}"

    return Check("quota", "warning" if found.remaining <= _FEW else "ok", text)


def _open_exports(connection: Connection) -> Check:
    try:
        if connection.no_jobs or not has_job_store(connection.jobs):
            return Check("open exports", "ok", "none recorded yet")

        found = connection.run(lambda client: client.jobs(open_only=True))
    except CohortsError as error:
        return failed("open exports", error)

    if not found:
        return Check("open exports", "ok", "none is open")

    return Check(
        "open exports",
        "warning",
        f"{len(found):,} open: `amplitude-cohorts jobs` lists them, `jobs run` brings "
        f"their files",
    )


def _object_store(connection: Connection) -> Check:
    keys = connection.keys

    if keys.base_url is not None:
        where = (
            " (here, beside the service)" if is_on_this_machine(keys.base_url) else ""
        )
        return Check(
            "object store", "unknown", f"only an export tells where files are{where}"
        )

    url = STORES[keys.region.lower()]

    async def ask() -> CohortsError | None:
        """Ask for anything, without a key of ours."""
        async with CohortsClient(
            "none",
            "none",
            base_url=url,
            proxy=connection.proxy,
            retrying=_ONCE,
            timeout=_SECONDS,
        ) as client:
            found = await _ask(client)
            return found if isinstance(found, TransportError) else None

    # It answers, whatever it says.
    if (error := run(ask())) is None:
        return Check(
            "object store",
            "ok",
            f"{url} answers; that a link leads there is likely, and not known",
        )

    return Check(
        "object store",
        "warning",
        f"{in_command_words(error)}: files are probably on a host like this one, so let "
        f"*.amazonaws.com through",
    )


def _facts(check: Check) -> dict[str, object]:
    return {"name": check.name, "state": check.state, "text": check.text}


def _show(checks: list[Check]) -> None:
    if not sys.stdout.isatty():
        render.table(None, [[each.state, each.name, each.text] for each in checks])
        return

    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH)
    # Where there is no room, the text goes on below the name.
    name_width = _NAME_WIDTH if width >= _WIDE else 0
    indent = " " * (_MARK_WIDTH + name_width)

    for check in checks:
        name = f"{check.name:<{name_width}}" if name_width else f"{check.name}: "
        text = textwrap.fill(
            render.printable(check.text),
            width=width,
            initial_indent=f"{_MARKS[check.state]:<{_MARK_WIDTH}}{name}",
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
        sys.stdout.write(f"{text}\n")
