"""A job store that a test listens to, holds up and breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from amplitude_cohorts_async._core.job_rows import CohortRows, Rows, read_cohort
from amplitude_cohorts_async.errors import JobStoreUnavailableError
from amplitude_cohorts_async.jobs import JobStore, MemoryJobStore, Work

T = TypeVar("T")

_OF_DELIVERIES = {"delivery", "publishing"}


class ScriptedStore(JobStore):
    """
    Another store, which tells each state that an export came to, and fails as told.

    After its death it stores nothing, as if its process had been killed: what the
    process does to clean up leaves no trace. *dies_before* and *dies_after* are the
    last states by then, as in "attempted queued"; "delivery" is the beginning of one,
    and "publishing" that of the rename of its file.

    Attributes:
        heard: The states, each with what *listen* returned just then.

        refuses: The states that it does not store; "*" is every change.

        refuses_after: The states after which it stores nothing more.

        holds: The states that it does not store while this event is not set.

        answers: The states that it stores, and does not confirm before this event.

        reached: The states that were held, or not confirmed.

        forgets_to_answer: The states after which it fails once, although it stores
            them.
    """

    durable = True

    def __init__(
        self,
        inner: JobStore | None = None,
        *,
        listen: Callable[[], int] = lambda: 0,
        dies_before: str = "",
        dies_after: str = "",
    ) -> None:
        self.heard: list[tuple[str, int]] = []
        self.refuses: set[str] = set()
        self.refuses_after: set[str] = set()
        self.holds: dict[str, asyncio.Event] = {}
        self.answers: dict[str, asyncio.Event] = {}
        self.reached: set[str] = set()
        self.forgets_to_answer: set[str] = set()
        self.died = asyncio.Event()
        self._inner = inner or MemoryJobStore()
        self._listen = listen
        self._dies_before = dies_before
        self._dies_after = dies_after
        self._history: list[str] = []
        self._groups: dict[str, dict[str, str]] = {}

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Store a change, unless one of its states is refused."""
        while True:
            try:
                return await self._transact(app, group, work)
            except _HeldError as held:
                self.reached.add(str(held))
                await self.holds[str(held)].wait()

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups of the other store."""
        return await self._inner.groups(app)

    async def aclose(self) -> None:
        """Close the other store."""
        await self._inner.aclose()

    @property
    def begun(self) -> int:
        """The deliveries that were begun through this store."""
        return self._history.count("delivery")

    def die(self) -> None:
        """Store nothing from now on."""
        self.refuses = {"*"}
        self.died.set()

    def of_cohort(self, cohort_id: str) -> CohortRows:
        """Return the rows of a cohort, as they were stored last by this store."""
        return read_cohort(self._groups.get(f"cohort:{cohort_id}", {}))

    async def _transact(self, app: str, group: str, work: Work[T]) -> T:
        new: list[str] = []

        def watched(rows: Rows, now: float) -> T:
            """Refuse before anything is stored, as a backend does."""
            before = _states(rows)
            result = work(rows, now)
            after = _states(rows)
            new[:] = [after[key] for key in after if after[key] != before.get(key)]
            if _ends_with(self._history + new, self._dies_before):
                self.die()
            if "*" in self.refuses or self.refuses & {*new}:
                raise JobStoreUnavailableError("the disk is full")
            for state in new:
                if state in self.holds and not self.holds[state].is_set():
                    raise _HeldError(state)
            self._groups[group] = dict(rows)
            return result

        result = await self._inner.transact(app, group, watched)
        self._history += new
        if self.refuses_after & {*new}:
            self.refuses.add("*")
        self.heard += [
            (state, self._listen()) for state in new if state not in _OF_DELIVERIES
        ]
        if new and _ends_with(self._history, self._dies_after):
            self.die()
        for state in self.answers.keys() & {*new}:
            self.reached.add(state)
            await self.answers[state].wait()
        if self.forgets_to_answer & {*new}:
            self.forgets_to_answer -= {*new}
            raise JobStoreUnavailableError("the connection was lost")

        return result


class _HeldError(Exception):
    """A state is not stored yet."""


def _ends_with(history: list[str], states: str) -> bool:
    words = states.split()

    return bool(words) and history[-len(words) :] == words


def _states(rows: Rows) -> dict[str, str]:
    if not any(key.startswith(("export:", "delivery:")) for key in rows):
        return {}

    cohort = read_cohort(rows)
    states = {f"e{key}": row.state.value for key, row in cohort.exports.items()}

    return states | {
        f"d{key}": "publishing" if row.publisher else "delivery"
        for key, row in cohort.deliveries.items()
    }
