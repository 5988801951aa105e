"""A job store in memory that a test listens to, holds up and breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from amplitude_cohorts_async._core.job_rows import CohortRows, Rows, read_cohort
from amplitude_cohorts_async.errors import JobStoreUnavailableError
from amplitude_cohorts_async.jobs import MemoryJobStore, Work

T = TypeVar("T")


class ScriptedStore(MemoryJobStore):
    """
    Tells each state that an export of one cohort came to; fails when it is told to.

    Attributes:
        heard: The states, each with what *listen* returned just then.

        may_answer: While it is not set, what was stored is not confirmed.

        refuses: Which states it does not store; "*" is every change.
    """

    durable = True

    def __init__(self, listen: Callable[[], int] = lambda: 0) -> None:
        super().__init__()
        self.heard: list[tuple[str, int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refuses: set[str] = set()
        self._listen = listen

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Store a change, unless one of its states is refused."""
        new: list[str] = []

        def watched(rows: Rows, now: float) -> T:
            """Refuse before anything is stored, as a backend does."""
            before = _states(rows)
            result = work(rows, now)
            after = _states(rows)
            new[:] = [after[key] for key in after if after[key] != before.get(key)]
            if "*" in self.refuses or self.refuses & {*new}:
                raise JobStoreUnavailableError("the disk is full")
            return result

        result = await super().transact(app, group, watched)
        self.heard += [(state, self._listen()) for state in new]
        await self.may_answer.wait()

        return result

    def of_cohort(self, cohort_id: str) -> CohortRows:
        """Return the rows of a cohort; empty if it has none."""
        for (_, group), rows in self._rows.items():
            if group == f"cohort:{cohort_id}":
                return read_cohort(rows)

        return CohortRows()


def _states(rows: Rows) -> dict[str, str]:
    if not any(key.startswith("export:") for key in rows):
        return {}

    return {key: row.state.value for key, row in read_cohort(rows).exports.items()}
