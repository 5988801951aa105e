"""Runs `doctor --probe`: asks first, and reports beside what the emulator does."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs
import typer

from ... import CohortsClient, __version__
from ...errors import ConfigurationError, InvalidInputError
from ...models import Region
from ...types import Clock
from .. import render
from ..common import Connection, is_on_this_machine
from ..exits import Exit
from ..resume_hints import announce, spent_text
from ..running import run
from .probe import Probe, ProbeTarget
from .probe_calls import Wire

__all__ = ("check_probe", "report_probe")

_PAUSE = 5.0
_PAUSE_HERE = 1.0
"""Seconds between two looks."""

_MADE_UP = "amplitude-cohorts-probe-user"
_JOB_SECONDS = 40.0
_FEW = 40


@attrs.frozen(kw_only=True)
class Answer:
    """One answer of the service, and what the emulator answers."""

    question: str
    service: str
    emulator: str

    @property
    def differs(self) -> bool:
        """Whether the two are not the same."""
        return self.service != self.emulator


def check_probe(connection: Connection, ids: Path | None, *, yes: bool) -> ProbeTarget:
    """
    Return where the probe makes its cohort, once the user has agreed to it.

    Raises:
        ConfigurationError: The project or its owner is not known.
    """
    target = _target(connection, ids)
    place = connection.keys.base_url or f"region {connection.keys.region}"
    exports = target.most_exports
    text = (
        f"This makes a cohort {target.name!r} of at most two users in project "
        f"{target.app_id} ({place}), which stays, and spends at most {exports} of the "
        f"month's exports."
    )

    if yes:
        return target

    if connection.as_json or not sys.stdin.isatty():
        raise typer.BadParameter(f"{text} Pass --yes to agree to it.")

    if not typer.confirm(f"{text} Go on?", err=True):
        raise typer.Exit(Exit.FAILURE)

    return target


def report_probe(connection: Connection, target: ProbeTarget) -> None:
    """Probe the service and the emulator, and print both answers."""
    is_here = is_on_this_machine(connection.keys.base_url)
    pause = _PAUSE_HERE if is_here else _PAUSE
    clock = service_clock()

    async def work(client: CohortsClient) -> Probe:
        """Ask the service."""
        usage = await client.get_usage()

        if usage.remaining is not None and usage.remaining < target.most_exports:
            left = "1 export is" if usage.remaining == 1 else "no exports are"
            raise InvalidInputError(
                f"{left} left of this month, and the probe may spend "
                f"{target.most_exports}: run it when there are more"
            )

        probe = Probe(client, _wire(connection), target, clock, pause)
        await probe.run()

        return probe

    probe = connection.run(work)
    emulated = run(_emulated(len(target.ids)))
    answers = _beside(probe.answers, emulated)
    base_url = connection.keys.base_url
    facts = {
        "release": __version__,
        "region": "another server" if base_url else connection.keys.region,
        "spent": probe.spent,
        "answers": [
            {**attrs.asdict(each), "differs": each.differs} for each in answers
        ],
    }
    connection.print("probe", facts, lambda _: _show(answers))

    if connection.announces:
        announce(
            f"{spent_text(probe.spent)}; the cohort {target.name!r} stays. The report "
            f"names no id, key or link: please hand it in with an issue of this project"
        )


def service_clock() -> Clock:
    """Return the clock on which the service is waited for."""
    from ...testing import SystemClock  # noqa: PLC0415 - loads the emulator

    return SystemClock()


def _target(connection: Connection, ids: Path | None) -> ProbeTarget:
    app_id = connection.setting("app_id")
    owner = connection.setting("owner")

    if app_id is None or owner is None:
        raise ConfigurationError(
            "the probe makes a cohort, so it needs the project and its owner: set "
            "AMPLITUDE_APP_ID and AMPLITUDE_OWNER, or use a profile that has both"
        )

    return ProbeTarget(
        app_id=int(app_id),
        owner=owner,
        name=f"amplitude-cohorts probe {datetime.now(UTC):%Y-%m-%d %H.%M}",
        ids=_ids(ids),
    )


def _ids(path: Path | None) -> Sequence[str]:
    if path is None:
        return [_MADE_UP]

    try:
        found = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise InvalidInputError(
            f"{path} cannot be read: pass ids, one a line"
        ) from None

    ids = list(dict.fromkeys(filter(None, found)))[:2]

    if len(ids) < 2:  # noqa: PLR2004 - one is uploaded, one added
        raise InvalidInputError(f"{path} needs two user ids of the project, one a line")

    return ids


def _wire(connection: Connection) -> Wire:
    keys = connection.keys

    return Wire(
        origin=(keys.base_url or Region[keys.region.upper()].value).rstrip("/"),
        api_key=connection.setting("api_key") or "",
        secret_key=connection.setting("secret_key") or "",
        proxy=connection.proxy,
    )


async def _emulated(ids: int) -> Mapping[str, str]:
    from ...testing import CohortsEmulator, FakeClock  # noqa: PLC0415

    clock = FakeClock()

    async with (
        CohortsEmulator(clock=clock, job_seconds=_JOB_SECONDS) as emulator,
        CohortsClient(
            emulator.api_key,
            emulator.secret_key,
            base_url=emulator.base_url,
            clock=clock,
        ) as client,
    ):
        environment = emulator.environment()
        target = ProbeTarget(
            app_id=int(environment["AMPLITUDE_APP_ID"]),
            owner=environment["AMPLITUDE_OWNER"],
            name="probe",
            ids=["one", "two"][:ids],
        )
        wire = Wire(
            origin=emulator.base_url,
            api_key=emulator.api_key,
            secret_key=emulator.secret_key,
        )

        return await Probe(client, wire, target, clock, _PAUSE).run()


def _beside(
    service: Mapping[str, str], emulator: Mapping[str, str]
) -> Sequence[Answer]:
    questions = dict.fromkeys([*service, *emulator])

    return [
        Answer(
            question=question,
            service=service.get(question, "-"),
            emulator=emulator.get(question, "-"),
        )
        for question in questions
    ]


def _show(answers: Sequence[Answer]) -> None:
    if not sys.stdout.isatty():
        render.table(
            ["QUESTION", "SERVICE", "EMULATOR"],
            [[each.question, each.service, each.emulator] for each in answers],
        )
        return

    width = max(shutil.get_terminal_size().columns, _FEW)

    for each in answers:
        lines = [f"{each.question}: {each.service}"]
        lines += [f"the emulator: {each.emulator}"] if each.differs else []
        for indent, line in zip(("", "  "), lines, strict=False):
            text = textwrap.fill(
                render.printable(line),
                width=width,
                initial_indent=indent,
                subsequent_indent=f"{indent}  ",
            )
            sys.stdout.write(f"{text}\n")
