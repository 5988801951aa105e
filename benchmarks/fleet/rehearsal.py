"""One run of a way: its process, the files that appear, and what the service saw."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import attrs
from service import JOB_SECONDS, Account, members_of
from ways.common import READY, Place, await_line

from support.counting import most_in_any

WINDOW = (4, 60.0)
"""What binds: four exports a minute also keep sixty in ten minutes."""

_LOOK = 0.02
_GRACE = 60.0


class FailedRunError(Exception):
    """A way did not bring all files; the message says why."""


@attrs.define(kw_only=True)
class Course:
    """
    What was seen from outside.

    Attributes:
        began: When the way was told to begin, on this machine's monotonic clock.
        files: When each file was seen, by cohort.
        cpu: Seconds of the processor.
    """

    began: float
    files: dict[str, float] = attrs.field(factory=dict)
    cpu: float = 0.0


@attrs.frozen(kw_only=True)
class Figures:
    """
    What one run came to; seconds are real ones.

    Attributes:
        wall: From the word to begin to the last file at its name.
        best: The least that the limits and the jobs allow for that.
        of_best: The share of the best possible rate, from the first request of an
            export to the last one.
        late: From the end of a job at the service to its file, the median.
        cpu: Of the processor, for each export, in all processes of the way; what they
            took before they were told to begin does not count.
        most: The most requests of exports in any window.
        requests: Of the API, for each export.
        refused: Requests that were answered with 429.
        broken: Rules that were broken, 429s included.
        spent: The exports that the service counted.
        whole: The files that hold their cohort, all of it once.
    """

    wall: float
    best: float
    of_best: float
    late: float
    cpu: float
    most: int
    requests: float
    refused: int
    broken: int
    spent: int
    whole: int


def best_starts(exports: int, scale: float) -> float:
    """Return the least seconds from the first request to the last."""
    count, per = WINDOW

    return (exports - 1) // count * per / scale


def rehearse(
    command: Sequence[str], environment: dict[str, str], place: Place, log: Path
) -> Course:
    """
    Run a way.

    Raises:
        FailedRunError: It did not bring all files.
    """
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        ) as process,
    ):
        try:
            return _course(process, place)
        except (SystemExit, TimeoutError, subprocess.TimeoutExpired) as error:
            raise FailedRunError(f"{error}; {_last_line(log)}") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def figures(course: Course, account: Account, place: Place) -> Figures:
    """Sum up a run."""
    exports, job = len(place.cohorts), JOB_SECONDS / place.scale
    starts = [account.started[each] for each in place.cohorts]
    least = best_starts(exports, place.scale)

    return Figures(
        wall=max(course.files.values()) - course.began,
        best=least + job,
        of_best=least / (max(starts) - min(starts)),
        late=statistics.median(
            course.files[each] - account.started[each] - job for each in place.cohorts
        ),
        cpu=course.cpu / exports,
        most=most_in_any(starts, WINDOW[1] / place.scale - 1e-4),
        requests=account.requests / exports,
        refused=account.refused,
        broken=sum(account.violations.values()),
        spent=account.spent,
        whole=sum(_is_whole(place.folder / f"{c}.csv", c) for c in place.cohorts),
    )


def _course(process: subprocess.Popen[str], place: Place) -> Course:
    assert process.stdin
    assert process.stdout
    await_line(process.stdout, READY)
    before = _cpu_of(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()

    course = Course(began=time.monotonic())
    _watch(process, place, course)
    course.cpu = _cpu_of(process.pid) - before
    process.wait(_GRACE)

    return course


def _watch(process: subprocess.Popen[str], place: Place, course: Course) -> None:
    """Note when each file appears."""
    names = {f"{each}.csv": each for each in place.cohorts}
    best = best_starts(len(names), place.scale) + JOB_SECONDS / place.scale
    deadline = course.began + 5 * best + 120

    while len(course.files) < len(names):
        has_ended, now = process.poll() is not None, time.monotonic()
        for name in os.listdir(place.folder):  # noqa: PTH208 - fifty times a second
            if name in names:
                course.files.setdefault(names[name], now)
        if len(course.files) < len(names) and (has_ended or now > deadline):
            raise TimeoutError(f"{len(course.files)} of {len(names)} files came")
        time.sleep(_LOOK)


def _cpu_of(session: int) -> float:
    """Return what the processes of a session, and those they awaited, have taken."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(words[3]) == session:
            ticks += sum(int(word) for word in words[11:15])

    return ticks / os.sysconf("SC_CLK_TCK")


def _is_whole(path: Path, cohort_id: str) -> bool:
    header, *rows = path.read_text().splitlines()
    users = [row.rpartition(",")[2].strip('"') for row in rows]

    return bool(header) and members_of(cohort_id) == users


def _last_line(log: Path) -> str:
    lines = log.read_text().splitlines()

    return lines[-1] if lines else "it said nothing"
