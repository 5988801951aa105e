"""
A worker that kills itself at a moment of an export.

A process calls `arm()` before it works, whatever its engine. The first of them that
comes to the moment leaves its mark and kills its process group; those that come later
go on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._core.job_rows import CohortRows, ExportState
from amplitude_cohorts_async._exports.app_rows import AppRows
from amplitude_cohorts_async._exports.poller import JobPoller
from amplitude_cohorts_async._io.sinks.part_file import PartFile
from amplitude_cohorts_async.jobs import JobStore
from amplitude_cohorts_async.policies import Polling

T = TypeVar("T")

Moment: TypeAlias = Literal[
    "claimed", "attempted", "sent", "requested", "polled", "downloading", "delivered"
]
"""
Where a worker dies.

"claimed": the export is in the store, and nothing was sent. "attempted": the store
says that a request is about to be sent. "sent": the service has answered, and the store
does not have the answer. "requested": it has. "polled": a poll was answered.
"downloading": bytes of the file have come. "delivered": the file has its name.
"""

MOMENTS: tuple[Moment, ...] = get_args(Moment)
WINDOW: tuple[Moment, ...] = ("attempted", "sent")
"""Between the record of the attempt and that of its answer."""

MOMENT = "CONFORMANCE_DIES_WHEN"
MARK = "CONFORMANCE_MARK"
HOLD = "CONFORMANCE_HOLD"
"""Names a file: while it is there, no byte of a download is written."""

_STATES = {
    ExportState.QUEUED: "claimed",
    ExportState.ATTEMPTED: "attempted",
    ExportState.REQUESTED: "requested",
}


def arm() -> None:
    """Poll often; and be killed at the moment that the environment names, if any."""
    defaults = CohortsClient.__init__.__kwdefaults__
    defaults["polling"] = Polling(initial_delay=0.3, interval=0.2, jitter=0.0)
    if "://" in os.environ.get("AMPLITUDE_JOBS", ""):
        # Nobody sees from another machine that a process has ended.
        JobStore.lease = 2.0
    if HOLD in os.environ:
        PartFile.append_to = _held(PartFile.append_to, Path(os.environ[HOLD]))  # type: ignore[method-assign]
    moment = os.environ.get(MOMENT)

    if moment == "polled":
        JobPoller._ask = _deadly(JobPoller._ask)  # type: ignore[method-assign]
    elif moment == "downloading":
        append = PartFile.append_to

        def appended(file: PartFile, *args: object) -> None:
            """Write, and die."""
            append(file, *args)  # type: ignore[arg-type]
            die()

        PartFile.append_to = appended  # type: ignore[method-assign]
    elif moment is not None:
        AppRows.transact = _watched(AppRows.transact, moment)  # type: ignore[assignment, method-assign]


def die() -> None:
    """Kill this process and all of its group, unless one was killed before."""
    try:
        Path(os.environ[MARK]).touch(exist_ok=False)
    except FileExistsError:
        return

    os.killpg(os.getpgrp(), signal.SIGKILL)


def _deadly(function: Callable[..., T]) -> Callable[..., T]:
    @wraps(function)
    async def deadly(*args: object) -> object:
        """Do it, and die."""
        result = await function(*args)  # type: ignore[misc]
        die()
        return result

    return deadly  # type: ignore[return-value]


def _held(append: Callable[..., None], hold: Path) -> Callable[..., None]:
    @wraps(append)
    def held(*args: object) -> None:
        """Write when a test lets it; in a thread of the client's."""
        while hold.exists():
            time.sleep(0.02)
        append(*args)

    return held


def _watched(transact: Callable[..., T], moment: str) -> Callable[..., T]:
    """Return the transaction that dies when it has stored a moment's state."""

    async def watched(
        app: AppRows, cohort_id: str, change: Callable[[CohortRows], object]
    ) -> object:
        """Change the rows, and die before or after they are stored."""
        met: set[str] = set()

        def seen(rows: CohortRows) -> object:
            """Change them, and compare."""
            before = _moments(rows)
            result = change(rows)
            met.update(_moments(rows) - before)
            if moment == "sent" and "requested" in met:
                die()
            return result

        result = await transact(app, cohort_id, seen)  # type: ignore[misc]
        if moment in met:
            die()
        return result

    return watched  # type: ignore[return-value]


def _moments(rows: CohortRows) -> set[str]:
    met = {_STATES.get(export.state, "") for export in rows.exports.values()}
    if any(each.finished_at is not None for each in rows.deliveries.values()):
        met.add("delivered")

    return met
