"""
What all ways have in common: the scaled client, their place, and their workers.

A way is a module that is run as a process: it prepares its workers, says that it is
ready, and exports all cohorts once it is told to. Its workers are processes, too, and
use the public names only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self, TextIO

import attrs

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.jobs import JobRecord
from amplitude_cohorts_async.limits import DOCUMENTED, Limits, Rate
from amplitude_cohorts_async.policies import Polling

PLACE = "FLEET_PLACE"
READY = "ready"

_GRACE = 15.0

_from_env = CohortsClient.from_env


@attrs.frozen(kw_only=True)
class Place:
    """
    Where a way works, and on what.

    Attributes:
        folder: For the files; empty.
        cohorts: What to export.
        occurrence: Of these exports.
        workers: How many processes share the work.
        scale: How many times as fast as the real service this one is.
        database: An empty database of Postgres for the engine, if there is one.
    """

    folder: Path = attrs.field(converter=Path)
    cohorts: tuple[str, ...] = attrs.field(converter=tuple[str, ...])
    occurrence: str
    workers: int
    scale: float
    database: str | None = None

    @classmethod
    def here(cls) -> Self:
        """Return that of this process."""
        return cls(**json.loads(os.environ[PLACE]))

    def to_json(self) -> str:
        """Return it as text, for the environment of a process."""
        return json.dumps(attrs.asdict(self) | {"folder": str(self.folder)})

    def records(self) -> list[JobRecord]:
        """Return what names the exports."""
        return [
            JobRecord.new(each, self.folder / f"{each}.csv", occurrence=self.occurrence)
            for each in self.cohorts
        ]


def scaled_limits(scale: float) -> Limits:
    """Return the documented limits of a service that is so many times as fast."""
    return attrs.evolve(
        DOCUMENTED,
        exports=[_faster(rate, scale) for rate in DOCUMENTED.exports],
        polls=DOCUMENTED.polls and _faster(DOCUMENTED.polls, scale),
        clock_margin=DOCUMENTED.clock_margin / scale,
        release_delay=DOCUMENTED.release_delay / scale,
    )


def client(**overrides: object) -> CohortsClient:
    """Return the client of the environment, with limits and polls that are scaled."""
    scale, usual = Place.here().scale, Polling()
    polling = attrs.evolve(
        usual,
        initial_delay=usual.initial_delay / scale,
        interval=usual.interval / scale,
    )

    return _from_env(**overrides, limits=scaled_limits(scale), polling=polling)


class Workers:
    """Processes that run a module with their number, and end with the way."""

    def __init__(self, module: str, count: int) -> None:
        self._module = module
        self._count = count
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for number in range(self._count):
            words = [sys.executable, "-m", self._module, str(number)]
            pipe = subprocess.PIPE
            self._running.append(
                subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
            )
        for process in self._running:
            assert process.stdout
            await_line(process.stdout, READY)

        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.send_signal(signal.SIGINT)
        for process in self._running:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()

    def work(self) -> None:
        """Tell all to begin, and return when they have ended."""
        for process in self._running:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in self._running:
            process.wait()


def say_ready() -> None:
    """Say that all is prepared."""
    print(READY, flush=True)


def await_line(lines: TextIO, wanted: str) -> None:
    """Read until a line comes; an engine may say other things before."""
    if all(line.strip() != wanted for line in lines):
        raise SystemExit(f"it ended before it was {wanted}")


def run(prepare: Callable[[Place], AbstractContextManager[Callable[[], None]]]) -> None:
    """
    Be the process of a way.

    Args:
        prepare: Starts the workers and what they need, and yields what exports all
            cohorts and returns when all exports have ended.
    """
    with prepare(Place.here()) as export_all:
        say_ready()
        if sys.stdin.readline():
            export_all()


def _faster(rate: Rate, scale: float) -> Rate:
    return Rate(rate.count, per=rate.per / scale)
