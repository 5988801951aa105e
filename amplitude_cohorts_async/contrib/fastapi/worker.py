"""
Goes on with the exports of a router, and tells their states: one reader in a process.

It reads the job store, makes the steps that are due, and wakes who waits for a change.
Any number of workers share one store: each step takes a lease there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus

from ... import CohortsClient
from ...errors import (
    AmbiguousExportError,
    CohortsError,
    ConfigurationError,
    DownloadError,
    ExportError,
    InvalidInputError,
    JobStoreUnavailableError,
    MonthlyQuotaError,
    StorageError,
)
from ...jobs import JobRecord, Tick
from ...types import Clock
from .files import Files
from .problems import Problem, Refusal, problem_of
from .records import Place, name_of, next_occurrence, order_of
from .states import ExportOrder, ExportState

__all__ = ("Worker",)

_LOOK = 5.0
"""Seconds between two looks into the store, while nobody watches."""

_WATCHED_LOOK = 1.0
"""And while somebody does."""

_AGAIN = 60.0
"""Seconds until a step is made again whose failure somebody may have mended."""

_SWEEP = 3600.0
"""Seconds between two looks for old files."""

_MOST_WITHDRAWN = 1000
_ATTEMPTS_TO_CANCEL = 5
_STEPS_OF_REQUEST = 4
"""At most: to read the list, and the usage, and to send the request."""

_SET_ASIDE = {"parked", "cancelled", "refused"}
_CAN_BE_CANCELLED = {"queued", "requested", "ready"}

_FINAL = (
    AmbiguousExportError,
    DownloadError,
    ExportError,
    InvalidInputError,
    MonthlyQuotaError,
)
"""No later step of this process mends them."""

_logger = logging.getLogger(__name__)


class Worker:
    """
    Makes the steps of the exports of one client and place.

    Attributes:
        stopping: Set when the process is about to end: streams end, and no step begins.
    """

    def __init__(
        self,
        client: CohortsClient,
        place: Place,
        files: Files,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.client = client
        self.place = place
        self.files = files
        self.stopping = asyncio.Event()
        self._now = clock.now if clock else time.monotonic
        self._sleep = clock.sleep if clock else asyncio.sleep
        self._records: list[JobRecord] = []
        self._states: dict[str, ExportState] = {}
        self._changed = asyncio.Event()
        self._awake = asyncio.Event()
        self._watchers = 0
        self._steps: dict[str, asyncio.Task[Tick | CohortsError]] = {}
        self._due_at: dict[str, float] = {}
        self._problems: dict[str, Problem] = {}
        self._withdrawn: dict[str, ExportState] = {}
        self._swept_at = -math.inf
        self._cancelling: set[str] = set()
        self._looking = asyncio.Lock()
        self._looks = self._seen = 0
        self._is_store_away = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work meanwhile; what is under way then is left to the next worker."""
        loop = asyncio.create_task(self._run())

        try:
            yield
        finally:
            self.stop()
            tasks = [loop, *self._steps.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Let the streams end, and begin no step any more."""
        self.stopping.set()
        self._wake_watchers()

    async def start(self, order: ExportOrder, occurrence: str | None) -> ExportState:
        """
        Request an export, or queue it, and return its state.

        Args:
            occurrence: Of the caller's key; None takes up one that is not over.

        Raises:
            Refusal: The key is that of another order, or the process is about to end.
            CohortsError: The export cannot be made.
        """
        await self.look()
        if occurrence is None:
            today = self.files.utcnow().date()
            occurrence = next_occurrence(order, self._records, self.place, today)
        else:
            self._check_key(order, occurrence)
        record = self.place.record(order, occurrence)
        failure: CohortsError | None = None

        for _ in range(_STEPS_OF_REQUEST):
            # Of two callers at the same moment the second one waits for the same step.
            step = self._begin(record)
            await self._until_stopped(step)
            if not step.done():
                break
            if isinstance(tick := step.result(), CohortsError):
                # The caller is told, and nobody else has to be.
                self._withdrawn.pop(name_of(record), None)
                raise tick
            failure = tick.last_error
            if tick.due_in != 0 or tick.record.state != "queued":
                break

        await self.look()
        state = self._states.get(name_of(record))

        if state is None and failure is not None:
            raise failure  # the store could not be written
        if state is None:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "this worker is about to end, and it is not known whether the export "
                "was begun; send the same request with the same Idempotency-Key again",
                retry_after=1,
            )

        return state

    async def state(self, name: str) -> ExportState:
        """Return the state of an export as the store has it now."""
        await self.look()

        return self.known_state(name)

    def known_state(self, name: str) -> ExportState:
        """Return the state of an export as it was seen last."""
        state = self._states.get(name)

        if state is None:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                f"no export {name[:64]!r} is in the job store, which keeps them for "
                f"seven days",
            )

        return state

    async def states(self) -> list[ExportState]:
        """Return all exports in the store, the newest first."""
        await self.look()

        return list(self._states.values())

    async def changes(self, name: str | None = None) -> AsyncIterator[ExportState]:
        """
        Yield the state of one export, or of all, and then each change.

        Ends when nothing more can change, or the process is about to end.
        """
        told: dict[str, ExportState] = {}

        with self._watched():
            await self.look()

            while not self.stopping.is_set():
                # Before the states are read: a change in between is not missed.
                changed = self._changed
                states = self._chosen(name)

                for state in states:
                    if not _is_same(state, told.get(state.id)):
                        told[state.id] = state
                        yield state

                for gone in told.keys() - {state.id for state in states}:
                    if not told[gone].is_over:
                        yield told.pop(gone).model_copy(
                            update={"state": "cancelled", "is_over": True}
                        )

                if all(state.is_over for state in states):
                    return

                await changed.wait()

    async def cancel(self, name: str) -> ExportState:
        """
        Put an export aside, or take it out of the queue if nothing is spent for it.

        Raises:
            Refusal: It is over, or its request may have been sent.
        """
        self._cancelling.add(name)

        try:
            for _ in range(_ATTEMPTS_TO_CANCEL):
                await self._end_step(name)
                state = await self.state(name)
                if state.state in _SET_ASIDE:
                    return state
                if state.state not in _CAN_BE_CANCELLED:
                    raise Refusal(HTTPStatus.CONFLICT, _too_late(state))
                if cancelled := await self._put_aside(self._record(name), state):
                    return cancelled
        finally:
            self._cancelling.discard(name)

        raise Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"export {name} was changed by other workers each time; try again",
            retry_after=1,
        )

    async def look(self) -> None:
        """Read the store, and wake who waits for a change."""
        asked = self._looks

        async with self._looking:
            # One that began after this call has ended meanwhile.
            if self._seen > asked:
                return

            self._looks += 1
            number = self._looks
            self._records = await self.client.jobs()
            self._seen = number
            self._states = self._read_states()
            self._wake_watchers()

    def _read_states(self) -> dict[str, ExportState]:
        states: dict[str, ExportState] = {}

        for record in self._records:
            state = self.place.state(record)
            problem = self._problems.get(state.id)
            if problem is not None and not state.is_over:
                is_over = self._due_at.get(state.id) == math.inf
                state = state.model_copy(
                    update={"problem": problem, "is_over": is_over}
                )
            states.setdefault(state.id, state)

        # Why one has left the store is known when its step has ended.
        undecided = {
            name: state for name, state in self._states.items() if name in self._steps
        }
        return {**undecided, **self._withdrawn, **states}

    def _record(self, name: str) -> JobRecord | None:
        return next(
            (each for each in self._records if self.place.name(each) == name), None
        )

    async def _put_aside(
        self, record: JobRecord | None, state: ExportState
    ) -> ExportState | None:
        """Park or forget an export; return None if it was changed meanwhile."""
        if record is None:
            return None

        if state.state == "queued":
            await self.client.forget_job(record)
            await self.look()
            # Another worker may have been sending its request just then.
            if state.id in self._states:
                return None
            return state.model_copy(update={"state": "cancelled", "is_over": True})

        with suppress(InvalidInputError):
            await self.client.park_job(record)
        await self.look()
        parked = self._states.get(state.id)

        return parked if parked is not None and parked.state == "parked" else None

    async def _end_step(self, name: str) -> None:
        step = self._steps.get(name)

        if step is not None:
            step.cancel()
            await asyncio.wait([step])

    def _check_key(self, order: ExportOrder, occurrence: str) -> None:
        for record in self._records:
            if record.occurrence != occurrence:
                continue
            if order_of(record, self.place) not in (None, order):
                raise Refusal(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    f"this Idempotency-Key is that of another export, of cohort "
                    f"{record.cohort_id}; use a new key for each export",
                )

    async def _until_stopped(self, step: asyncio.Task[Tick | CohortsError]) -> None:
        stopped = asyncio.create_task(self.stopping.wait())

        try:
            await asyncio.wait([step, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()

    async def _run(self) -> None:
        while True:
            due_in = await self._turn()
            await self._pause(due_in)

    async def _turn(self) -> float:
        """Begin the steps that are due; return the seconds until the next turn."""
        try:
            await self.look()
        except JobStoreUnavailableError as error:
            if not self._is_store_away:
                _logger.warning("the job store cannot be read: %s", error)
            self._is_store_away = True
            return _LOOK

        self._is_store_away = False
        self._forget_old()

        if self.stopping.is_set():
            return _LOOK

        if self._now() - self._swept_at >= _SWEEP:
            self._swept_at = self._now()
            await self.files.sweep()

        waits = [self._begin_if_due(record) for record in self._records]
        return min([_WATCHED_LOOK if self._watchers else _LOOK, *waits])

    def _begin_if_due(self, record: JobRecord) -> float:
        """Begin the next step if it is due; return how long to wait for one."""
        step = self.place.step(record)
        name = "" if step is None else name_of(step)

        if step is None or name in self._steps or name in self._cancelling:
            return math.inf

        due_in = self._due_at.get(name, -math.inf) - self._now()
        if due_in > 0:
            return due_in

        self._begin(step)
        return math.inf

    def _begin(self, record: JobRecord) -> asyncio.Task[Tick | CohortsError]:
        """Return the running step of an export, or begin it."""
        name = name_of(record)

        if name not in self._steps:
            self._steps[name] = asyncio.create_task(self._step(name, record))
            self._steps[name].add_done_callback(lambda _: self._step_ended(name))

        return self._steps[name]

    def _step_ended(self, name: str) -> None:
        del self._steps[name]
        self._awake.set()

    async def _step(self, name: str, record: JobRecord) -> Tick | CohortsError:
        """Make a step, and note when the next one is due."""
        try:
            tick = await self.client.tick(record)
        except CohortsError as error:
            self._due_at[name] = self._now() + _again_in(error)
            self._problems[name] = problem_of(error)
            self._note_withdrawn(name, error)
            return error
        except Exception as error:  # it must not end the others
            _logger.exception("the step of %s failed", record.key)
            self._due_at[name] = self._now() + _AGAIN
            return ConfigurationError(
                f"a step of the export failed unexpectedly ({type(error).__name__}); "
                f"the server's log says more"
            )

        self._problems.pop(name, None)
        self._withdrawn.pop(name, None)
        # Of one that is done the store tells so by then.
        due_in = _LOOK if tick.due_in is None else tick.due_in
        self._due_at[name] = self._now() + due_in
        if tick.last_error is not None:
            self._problems[name] = problem_of(tick.last_error)

        return tick

    def _note_withdrawn(self, name: str, error: CohortsError) -> None:
        """Remember why an export has left the queue, for who asks this process."""
        state = self._states.get(name)

        # Where the store still has it, the store is right.
        if state is not None and state.state in {"queued", "attempted"}:
            self._withdrawn[name] = state.model_copy(
                update={
                    "state": "refused",
                    "is_over": True,
                    "problem": problem_of(error),
                }
            )

    def _forget_old(self) -> None:
        """Forget what was noted of exports that are not in the store any more."""
        for noted in (self._due_at, self._problems):
            for name in noted.keys() - self._states.keys() - self._steps.keys():
                del noted[name]
        for name in [*self._withdrawn][:-_MOST_WITHDRAWN]:
            del self._withdrawn[name]

    def _chosen(self, name: str | None) -> list[ExportState]:
        if name is None:
            return list(self._states.values())

        return [state for state in self._states.values() if state.id == name]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watchers += 1
        self._awake.set()

        try:
            yield
        finally:
            self._watchers -= 1

    def _wake_watchers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _pause(self, seconds: float) -> None:
        waits = [
            asyncio.create_task(self._awake.wait()),
            asyncio.ensure_future(self._sleep(seconds)),
        ]

        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._awake.clear()


def _again_in(error: CohortsError) -> float:
    """Return the seconds until a failed step is made again."""
    if isinstance(error, StorageError) or not isinstance(error, _FINAL):
        return _AGAIN

    return math.inf


def _is_same(state: ExportState, told: ExportState | None) -> bool:
    """Whether a state says nothing new: a step that was not due counts in it, too."""
    return told is not None and state == told.model_copy(
        update={"revision": state.revision, "updated_at": state.updated_at}
    )


def _too_late(state: ExportState) -> str:
    if state.state == "saved":
        return f"export {state.id} is over: its file was saved"
    if state.state == "attempted":
        return (
            f"the request of export {state.id} may have been sent, and its answer is "
            f"not known; look at the usage, then forget it with "
            f"`amplitude-cohorts jobs forget`"
        )

    return f"export {state.id} is over: it is {state.state}"
