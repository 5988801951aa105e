"""
The states of the exports as one process sees them: one reader for all who ask.

Any of them reads the store anew; who watches is woken by each look, and told what has
changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus

from ... import CohortsClient
from ...errors import CohortsError, ExportExpiredError, ExportFailedError
from ...jobs import JobRecord
from .problems import Problem, ProblemError, problem_of
from .records import ExportRoot
from .schemas import ExportState

__all__ = ("StoreView",)

_MOST_WITHDRAWN = 1000


class StoreView:
    """
    The exports in the store of one client, and what this process knows of them besides.

    Attributes:
        stopping: Set when the process is about to end: streams end.
        running: The exports of which a step is being made.
        records: The store's, as they were seen last.
        by_name: The first of them of each name.
    """

    def __init__(self, client: CohortsClient, root: ExportRoot) -> None:
        self._client = client
        self.root = root
        self.stopping: asyncio.Event = asyncio.Event()
        self.running: set[str] = set()
        self.records: list[JobRecord] = []
        self.by_name: dict[str, JobRecord] = {}
        self._states: dict[str, ExportState] = {}
        self._problems: dict[str, Problem] = {}
        self._final: set[str] = set()
        self._withdrawn: dict[str, ExportState] = {}
        self._changed = asyncio.Event()
        self._watchers = 0
        self._on_watcher: Callable[[], None] = lambda: None
        self._looking = asyncio.Lock()
        self._looks = self._seen = 0

    @property
    def is_watched(self) -> bool:
        """Whether a stream is open."""
        return self._watchers > 0

    def on_watcher(self, callback: Callable[[], None]) -> None:
        """Call *callback* when a stream is opened."""
        self._on_watcher = callback

    def stop(self) -> None:
        """Let the streams end."""
        self.stopping.set()
        self._wake_watchers()

    async def look(self) -> None:
        """
        Read the store, and wake who waits for a change.

        Raises:
            JobStoreUnavailableError: The states are those of the last look.
        """
        asked = self._looks

        async with self._looking:
            # One that began after this call has ended meanwhile.
            if self._seen > asked:
                return

            self._looks += 1
            number = self._looks
            self.records = await self._client.jobs()
            self._seen = number
            self._states = self._read_states()
            self._wake_watchers()

    async def state(self, name: str) -> ExportState:
        """Return the state of an export as the store has it now."""
        await self.look()
        state = self._states.get(name)

        if state is None:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                f"no export {name[:64]!r} is in the job store, which keeps them for "
                f"seven days, but none whose request was refused: the same order with "
                f"the same Idempotency-Key tells why, or requests it",
            )

        return state

    async def states(self) -> list[ExportState]:
        """Return all exports in the store, the newest first."""
        await self.look()

        return list(self._states.values())

    def find(self, name: str) -> ExportState | None:
        """Return the state of an export as it was seen last."""
        return self._states.get(name)

    def record(self, name: str) -> JobRecord | None:
        """Return the record of an export as it was seen last."""
        return self.by_name.get(name)

    async def changes(self, name: str | None = None) -> AsyncGenerator[ExportState]:
        """
        Yield the state of one export, or of all, and then each change.

        Ends when nothing more can change, or the process is about to end.
        """
        told: dict[str, ExportState] = {}

        async for states in self.snapshots(name):
            for state in [*states, *_gone(told, states)]:
                if not _is_same(state, told.get(state.id)):
                    told[state.id] = state
                    yield state

    async def snapshots(
        self, name: str | None = None
    ) -> AsyncGenerator[list[ExportState]]:
        """Yield the states, as `changes()` does, but all of them each time."""
        with self._watched():
            await self.look()

            while not self.stopping.is_set():
                # Before the states are read: a change in between is not missed.
                changed = self._changed
                states = self._chosen(name)
                yield states

                if all(state.is_over for state in states):
                    return

                await changed.wait()

    def note_step(self, name: str, error: CohortsError | None) -> None:
        """Note why a step is tried again; None if it went well."""
        self._withdrawn.pop(name, None)
        self._final.discard(name)
        self._problems.pop(name, None)

        if error is not None:
            self._problems[name] = problem_of(error)

    def note_failure(self, name: str, error: CohortsError, *, is_final: bool) -> None:
        """Note why a step has failed, also if the export has left the store for that."""
        problem = self._problems[name] = problem_of(error)
        state = self._states.get(name)

        if is_final:
            self._final.add(name)
        # Where the store still has it, the store is right.
        if state is not None and state.state in {"queued", "attempted"}:
            self._withdrawn[name] = state.model_copy(
                update={"state": "refused", "is_over": True, "problem": problem}
            )

    def drop_failure(self, name: str) -> None:
        """Forget a failure of which its caller is told: nobody else has to be."""
        self._withdrawn.pop(name, None)

    def forget_old(self) -> None:
        """Forget what was noted of exports that are not in the store any more."""
        for name in self._problems.keys() - self._states.keys() - self.running:
            del self._problems[name]
        self._final &= self._problems.keys()
        for name in [*self._withdrawn][:-_MOST_WITHDRAWN]:
            del self._withdrawn[name]

    def _read_states(self) -> dict[str, ExportState]:
        states: dict[str, ExportState] = {}
        self.by_name = {}

        for record in self.records:
            state = self._with_problem(self.root.state(record))
            states.setdefault(state.id, state)
            self.by_name.setdefault(state.id, record)

        # Why one has left the store is known when its step has ended.
        undecided = {
            name: state for name, state in self._states.items() if name in self.running
        }
        return {**undecided, **self._withdrawn, **states}

    def _with_problem(self, state: ExportState) -> ExportState:
        problem = self._problems.get(state.id)

        if state.state in {"failed", "gone"}:
            # As the store has it, so that each worker says the same.
            return state.model_copy(update={"problem": problem_of(_no_file(state))})
        if problem is None or state.is_over:
            return state

        return state.model_copy(
            update={"problem": problem, "is_over": state.id in self._final}
        )

    def _chosen(self, name: str | None) -> list[ExportState]:
        if name is None:
            return list(self._states.values())

        return [state for state in self._states.values() if state.id == name]

    @contextmanager
    def _watched(self) -> Generator[None]:
        self._watchers += 1
        self._on_watcher()

        try:
            yield
        finally:
            self._watchers -= 1

    def _wake_watchers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _is_same(state: ExportState, told: ExportState | None) -> bool:
    """Whether a state says nothing new: a step that was not due counts in it, too."""
    return told is not None and state == told.model_copy(
        update={"revision": state.revision, "updated_at": state.updated_at}
    )


def _gone(told: dict[str, ExportState], states: list[ExportState]) -> list[ExportState]:
    """Return those that were told and are in the store no more, as cancelled."""
    present = {state.id for state in states}

    return [
        state.model_copy(update={"state": "cancelled", "is_over": True})
        for name, state in told.items()
        if name not in present and not state.is_over
    ]


def _no_file(state: ExportState) -> CohortsError:
    error = ExportFailedError if state.state == "failed" else ExportExpiredError
    what = "failed at the service" if state.state == "failed" else "is gone there"

    return error(
        f"export {state.id} of cohort {state.cohort_id} {what}: it has no file; only a "
        f"new export can help",
        request_id="",
        cohort_id=state.cohort_id,
        token=state.token,
    )
