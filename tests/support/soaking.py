"""Long work with faults, and what it leaves in the process that does it."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import attrs

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    CohortsError,
    ExportFailedError,
)
from amplitude_cohorts_async.testing import CohortsEmulator
from amplitude_cohorts_async.testing.faults import (
    Fault,
    Step,
    broken,
    corrupt,
    cut_off,
    hang,
    html,
    ignores_range,
    job_failed,
    link_expired,
    lost_answer,
    stalled,
    throttled,
    without_etag,
    works,
)

OnUnknown = Literal["raise", "spend"]

_ANSWERS = (broken(500), broken(503), hang(20))
# One that names the rate has a limiter count polls and files in the windows, too: the
# run would take three times as long.
_CROWD = throttled(details="Too Many Requests")
FAULTS: dict[Step, tuple[Fault, ...]] = {
    "usage": (*_ANSWERS, _CROWD, html(), lost_answer()),
    "list": (*_ANSWERS, _CROWD, html(), lost_answer()),
    "export": (*_ANSWERS, throttled(), lost_answer()),
    "status": (*_ANSWERS, _CROWD, html(), lost_answer(), job_failed()),
    "file": (*_ANSWERS, _CROWD, lost_answer(), link_expired()),
    "store": (
        broken(503),
        lost_answer(),
        cut_off(100),
        stalled(100),
        corrupt(100),
        ignores_range(),
        without_etag(),
    ),
}
MEMBERS = 50
TRIES = 20
_DRAWN = 5_000


def cohort_ids(count: int) -> list[str]:
    """Return the ids of so many cohorts."""
    return [f"cohort{number}" for number in range(count)]


def add_cohorts(emulator: CohortsEmulator, count: int) -> None:
    """
    Add cohorts, older than the run.

    The first half is so large that their files come from the store behind a link.
    """
    long_ago = {"lastComputed": 1_760_000_000, "lastMod": 1_760_000_000}
    for number, cohort_id in enumerate(cohort_ids(count)):
        members = MEMBERS if number % 2 else 20 * MEMBERS
        names = [f"user-{number}-{member}" for member in range(members)]
        emulator.add_cohort(
            cohort_id, members=names, job_seconds=30, overrides=long_ago
        )


def misbehave(emulator: CohortsEmulator, *, share: float, seed: int) -> None:
    """Let a share of the requests of each step meet a fault, the same for a seed."""
    chance = random.Random(seed)
    for step, faults in FAULTS.items():
        drawn = [
            chance.choice(faults) if chance.random() < share else works()
            for _ in range(_DRAWN)
        ]
        emulator.fail_next(step, *drawn, times=None)


@attrs.frozen
class Reading:
    """
    What the process holds at a moment: MiB, and counts.

    Attributes:
        heap: What Python has allocated, without garbage; 0 if nothing traces it.
    """

    rss: float
    heap: float
    sockets: int
    threads: int
    tasks: int


def read() -> Reading:
    """Return what this process holds now."""
    if tracemalloc.is_tracing():
        gc.collect()

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Reading(
        rss=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        heap=tracemalloc.get_traced_memory()[0] / 2**20,
        sockets=sum(_sockets()),
        threads=threading.active_count(),
        tasks=len(asyncio.all_tasks()),
    )


def _sockets() -> Iterator[bool]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            yield str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:  # the listing's own
            continue


@attrs.define(eq=False)
class Soak:
    """
    Calls that are made again until they have their file.

    Attributes:
        calls: How many there will be.

        ended: How many have their file.

        again: The errors after which one was made again.

        readings: At the quarters of the run.
    """

    calls: int
    ended: int = 0
    again: Counter[str] = attrs.field(factory=Counter[str])
    readings: list[Reading] = attrs.field(factory=list)

    @property
    def given_up(self) -> int:
        """The exports that are gone: unknown ones, and jobs that failed."""
        return (
            self.again[AmbiguousExportError.__name__]
            + self.again[ExportFailedError.__name__]
        )

    def end(self) -> None:
        """Count a call that has its file, and read at a quarter."""
        self.ended += 1
        if self.ended % (self.calls // 4) == 0:
            self.readings.append(read())


async def export_each(
    soak: Soak, client: CohortsClient, names: Iterable[str], folder: Path, callers: int
) -> None:
    """Export every cohort once, by so many callers at a time."""
    left = iter(names)

    async def call() -> None:
        for cohort_id in left:
            await export_once(soak, client, cohort_id, folder / f"{cohort_id}.csv")
            soak.end()

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())


async def export_once(
    soak: Soak, client: CohortsClient, cohort_id: str, path: Path
) -> None:
    """Export a cohort; make the same call again after an error."""
    on_unknown: OnUnknown = "raise"
    for _ in range(TRIES):
        try:
            await client.export(cohort_id, path, on_unknown=on_unknown)
        except CohortsError as error:
            kind = type(error).__name__
        else:
            return
        soak.again[kind] += 1
        on_unknown = on_unknown_after(kind)

    msg = f"no file of {cohort_id} after {TRIES} calls; the last one ended with {kind}"
    raise AssertionError(msg)


def on_unknown_after(kind: str) -> OnUnknown:
    """Return what the next call says about an export that nobody knows."""
    return "spend" if kind == AmbiguousExportError.__name__ else "raise"
