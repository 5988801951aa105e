"""
The plainest engines: a process for each step, and a process for each attempt.

A message of a queue that a killed process took is lost, and a schedule starts no run
before its time: the next attempt is somebody's who asks again.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import redirect_stderr
from io import StringIO

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.cli import main
from amplitude_cohorts_async.errors import CohortsError
from amplitude_cohorts_async.jobs import JobRecord

from .engine import DONE
from .queueing import ProcessEngine, Work


class TickEngine(ProcessEngine):
    """A process for each tick: a task of Celery's, which is queued anew."""

    @property
    def work(self) -> Work:
        """One tick."""
        return tick


class CommandEngine(ProcessEngine):
    """A process for each attempt: `jobs run`, and the command that asked if need be."""

    @property
    def work(self) -> Work:
        """One attempt."""
        return _attempt


def tick(text: str) -> str | tuple[str, float]:
    """Make one step; return the end of the export, or when to go on."""

    async def step() -> str | tuple[str, float]:
        async with CohortsClient.from_env() as client:
            made = await client.tick(JobRecord.from_json(text))
        return DONE if made.due_in is None else (made.record.to_json(), made.due_in)

    try:
        return asyncio.run(step())
    except CohortsError as error:
        return type(error).__name__


def _attempt(text: str) -> str:
    """Finish what was left; then export what was not spent, as before."""
    record = JobRecord.from_json(text)
    said = StringIO()

    with redirect_stderr(said):
        main(["jobs", "run", "--quiet"])
        if record.to is not None and record.to.exists():
            return DONE

        status = main(
            [
                *("export", record.cohort_id, "-o", str(record.to)),
                *("--occurrence", str(record.occurrence), "--json"),
            ]
        )

    return (
        DONE
        if status == 0
        else str(json.loads(said.getvalue().splitlines()[-1])["error"]["type"])
    )
