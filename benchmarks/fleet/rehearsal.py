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
from support.counting import most_in_any
from ways.common import READY, Place, await_line

WINDOW = (4, 60.0)
"""What binds: four exports a minute also keep sixty in ten minutes."""

_LOOK = 0.02
_GRACE = 60.0


class FailedRunError(Exception):
    """A way did not bring all files; the message says why."""


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
) -> dict[str, float]:
    """
    Run a way; return when each cohort's file was seen, and when it began as "".

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
            assert process.stdin
            assert process.stdout
            await_line(process.stdout, READY)
            process.stdin.write("go\n")
            process.stdin.flush()
            seen = {"": time.monotonic()}
            _watch(place, process, seen)
            process.wait(_GRACE)
        except (SystemExit, TimeoutError, subprocess.TimeoutExpired) as error:
            raise FailedRunError(f"{error}; {_last_line(log)}") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    return seen


def figures(seen: dict[str, float], account: Account, place: Place) -> Figures:
    """Sum up a run."""
    exports, scale = len(place.cohorts), place.scale
    job = JOB_SECONDS / scale
    starts = [account.started[each] for each in place.cohorts]
    least = best_starts(exports, scale)

    return Figures(
        wall=max(seen.values()) - seen[""],
        best=least + job,
        of_best=least / (max(starts) - min(starts)),
        late=statistics.median(
            seen[each] - account.started[each] - job for each in place.cohorts
        ),
        most=most_in_any(starts, WINDOW[1] / scale - 1e-4),
        requests=account.requests / exports,
        refused=account.refused,
        broken=sum(account.violations.values()),
        spent=account.spent,
        whole=sum(_is_whole(place.folder / f"{c}.csv", c) for c in place.cohorts),
    )


def _watch(
    place: Place, process: subprocess.Popen[str], seen: dict[str, float]
) -> None:
    """Note when each file appears."""
    names = {f"{each}.csv": each for each in place.cohorts}
    least = best_starts(len(names), place.scale) + JOB_SECONDS / place.scale
    deadline = seen[""] + 5 * least + 120

    while len(seen) <= len(names):
        ended = process.poll() is not None
        now = time.monotonic()
        for name in os.listdir(place.folder):  # noqa: PTH208 - fifty times a second
            if name in names:
                seen.setdefault(names[name], now)
        if len(seen) <= len(names):
            if ended or now > deadline:
                raise TimeoutError(f"{len(seen) - 1} of {len(names)} files came")
            time.sleep(_LOOK)


def _is_whole(path: Path, cohort_id: str) -> bool:
    header, *rows = path.read_text().splitlines()
    users = [row.rpartition(",")[2].strip('"') for row in rows]

    return bool(header) and members_of(cohort_id) == users


def _last_line(log: Path) -> str:
    lines = log.read_text().splitlines()

    return lines[-1] if lines else "it said nothing"
