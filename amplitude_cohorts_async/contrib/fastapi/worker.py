"""
Goes on with the exports of a router: makes the steps that are due.

Any number of workers share one store. A step takes a lease there, so that nothing is
sent twice, and what one worker leaves another one takes up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar
from weakref import WeakValueDictionary

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
from .problems import ProblemError
from .records import ExportRoot, name_of, next_occurrence, order_of
from .schemas import ExportOrder, ExportState
from .store_view import StoreView

__all__ = ("Worker",)

_LOOK = 5.0
"""Seconds between two looks into the store, while nobody watches."""

_WATCHED_LOOK = 1.0
"""And while somebody does."""

_REST = 5.0
"""How many times as long as a look took nobody looks again, whatever has changed."""

_AGAIN = 60.0
"""Seconds until a step is made again whose failure somebody may have mended."""

_SWEEP = 3600.0
"""Seconds between two looks for old files."""

_STEPS_OF_REQUEST = 4
"""At most: to read the list, and the usage, and to send the request."""

_ATTEMPTS_TO_CANCEL = 5
_SET_ASIDE = {"parked", "cancelled", "refused"}
_SPENT = {"requested", "ready"}
_CAN_BE_CANCELLED = {"queued", *_SPENT}

_FINAL = (
    AmbiguousExportError,
    DownloadError,
    ExportError,
    MonthlyQuotaError,
)
"""No later step of this process mends them."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Worker:
    """Makes the steps of the exports of one client below one root."""

    def __init__(
        self,
        client: CohortsClient,
        root: ExportRoot,
        files: Files,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.client = client
        self.files = files
        self.view: StoreView = StoreView(client, root)
        self._root = root
        self._now = clock.now if clock else time.monotonic
        self._sleep = clock.sleep if clock else asyncio.sleep
        self._awake = asyncio.Event()
        self._steps: dict[str, asyncio.Task[Tick | CohortsError]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due_at: dict[str, float] = {}
        self._cancelling: set[str] = set()
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._swept_at = -math.inf
        self._rest = 0.0
        self._is_store_away = False

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Work meanwhile; what is under way then is left to the next worker."""
        self.view.on_watcher(self._awake.set)
        loop = asyncio.create_task(self._run())

        try:
            yield
        finally:
            self.view.stop()
            await _end(loop, *self._steps.values(), *self._tasks)

    async def start(self, order: ExportOrder, occurrence: str | None) -> ExportState:
        """
        Request an export, or queue it, and return its state.

        Args:
            occurrence: Of the caller's key; None takes up one that is not over.

        Raises:
            ProblemError: The key is that of another order, or the process is about to end.
            CohortsError: The export cannot be made.
        """
        if occurrence is not None:
            # Two orders with one key: the second one is checked when it can be seen.
            async with self._keys.setdefault(occurrence, asyncio.Lock()):
                await self.view.look()
                self._check_key(order, occurrence)
                return await self._start(self._root.record(order, occurrence))

        await self.view.look()
        today = self.files.utcnow().date()
        occurrence = next_occurrence(order, self.view.records, self._root, today)
        return await self._start(self._root.record(order, occurrence))

    async def _start(self, record: JobRecord) -> ExportState:
        failure = await self._request(record)
        await self.view.look()
        state = self.view.find(name_of(record))

        if state is None and failure is not None:
            raise failure  # the store could not be written
        if state is None:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "this worker is about to end, and it is not known whether the export "
                "was begun; send the same request with the same Idempotency-Key again",
                retry_after=1,
            )

        return state

    async def cancel(self, name: str) -> ExportState:
        """
        Put an export aside, or take it out of the queue if nothing is spent for it.

        Raises:
            ProblemError: It is over, its request may have been sent, another program began
                it, or the process is about to end.
        """
        self._cancelling.add(name)

        try:
            for _ in range(_ATTEMPTS_TO_CANCEL):
                await self._settle(name)
                state = await self.view.state(name)
                if state.state in _SET_ASIDE:
                    return state
                if not state.is_own:
                    raise ProblemError(HTTPStatus.CONFLICT, self._of_others(state))
                if state.state not in _CAN_BE_CANCELLED:
                    raise ProblemError(HTTPStatus.CONFLICT, _too_late(state))
                if cancelled := await self._put_aside(state):
                    return cancelled
        finally:
            self._cancelling.discard(name)

        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"export {name} was changed by other workers each time; try again",
            retry_after=1,
        )

    def _of_others(self, state: ExportState) -> str:
        """Return why an export of another program is not put aside: it may wait for it."""
        record = self.view.record(state.id)
        label = None if record is None else record.label
        who = "another program" if label is None else f"another program, {label!r},"

        return (
            f"export {state.id} of cohort {state.cohort_id} was begun by {who} and not "
            f"by this service, which leaves it alone: end it there, or put it aside "
            f"with `amplitude-cohorts jobs park`"
        )

    async def _settle(self, name: str) -> None:
        """
        End the download of an export; wait for any other step of it.

        A request that is cut may have spent an export whose token nobody has then.
        """
        await self.view.look()
        step, record = self._steps.get(name), self.view.record(name)

        if step is None:
            return
        if record is not None and record.state == "ready":
            await _end(step)
            return

        await self._until_stopped(step)
        if not step.done():
            raise _about_to_end()

    async def unless_stopped(self, work: Coroutine[object, object, T]) -> T:
        """
        Return what *work* returns; cancel it when the process is about to end.

        Raises:
            ProblemError: It was cancelled: nothing that it could have changed is lost.
        """
        task = asyncio.create_task(work)

        try:
            await self._until_stopped(task)
            if task.done():
                return task.result()
        finally:
            await _end(task)

        raise _about_to_end()

    def begin(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Begin some other work, which is cancelled where the worker ends before it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        return task

    def _check_key(self, order: ExportOrder, occurrence: str) -> None:
        keyed = [each for each in self.view.records if each.occurrence == occurrence]
        orders = [order_of(each, self._root) for each in keyed]

        # Two workers may have begun two orders at once: each of them goes on.
        if order in orders:
            return
        for record, other in zip(keyed, orders, strict=True):
            if other is not None:
                raise ProblemError(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    f"this Idempotency-Key is that of another export, of cohort "
                    f"{record.cohort_id}; use a new key for each export",
                )

    async def _request(self, record: JobRecord) -> CohortsError | None:
        """Make the steps until an export is requested, or has to wait; raise its error."""
        for _ in range(_STEPS_OF_REQUEST):
            # Of two callers at the same moment the second one waits for the same step.
            step = self._begin(record)
            await self._until_stopped(step)

            if not step.done() or step.cancelled():
                return None
            tick = step.result()
            if isinstance(tick, CohortsError):
                self.view.drop_failure(name_of(record))
                raise tick
            if tick.due_in != 0 or tick.record.state != "queued":
                return tick.last_error

        return None

    async def _until_stopped(self, task: asyncio.Future[Any]) -> None:
        stopped = asyncio.create_task(self.view.stopping.wait())

        try:
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()

    async def _put_aside(self, state: ExportState) -> ExportState | None:
        """Park or forget an export; return None if it was changed meanwhile."""
        record = self.view.record(state.id)

        if record is None:
            return None

        if state.state == "queued":
            # It was sent just then, by another worker.
            with suppress(InvalidInputError):
                await self.client.forget_job(record)
            await self.view.look()
            if self.view.find(state.id) is not None:
                return None
            return state.model_copy(update={"state": "cancelled", "is_over": True})

        with suppress(InvalidInputError):
            await self.client.park_job(record)
        await self.view.look()
        parked = self.view.find(state.id)

        return parked if parked is not None and parked.state == "parked" else None

    async def _run(self) -> None:
        while True:
            due_in = await self._turn_or_wait()
            await self._sleep(self._rest)
            await self._pause(max(0.0, due_in - self._rest))

    async def _turn_or_wait(self) -> float:
        try:
            return await self._turn()
        except Exception:  # or no export would go on any more
            _logger.exception("a look for the steps that are due failed")
            return _LOOK

    async def _turn(self) -> float:
        """Begin the steps that are due; return the seconds until the next turn."""
        began = self._now()

        try:
            await self.view.look()
        except JobStoreUnavailableError as error:
            if not self._is_store_away:
                _logger.warning("the job store cannot be read: %s", error)
            self._is_store_away = True
            return _LOOK

        self._is_store_away = False
        self._rest = _REST * (self._now() - began)
        if self.view.stopping.is_set():
            return _LOOK

        self._forget_old()
        if self._now() - self._swept_at >= _SWEEP:
            self._swept_at = self._now()
            await self.files.sweep()

        waits = [self._begin_if_due(record) for record in self.view.records]
        return min([_WATCHED_LOOK if self.view.is_watched else _LOOK, *waits])

    def _begin_if_due(self, record: JobRecord) -> float:
        """Begin the next step if it is due; return how long to wait for one."""
        step = self._root.step(record)
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
            self.view.running.add(name)

        return self._steps[name]

    def _step_ended(self, name: str) -> None:
        del self._steps[name]
        self.view.running.discard(name)
        self._awake.set()

    async def _step(self, name: str, record: JobRecord) -> Tick | CohortsError:
        """Make a step, and note when the next one is due."""
        try:
            tick = await self.client.tick(record)
        except CohortsError as error:
            is_final = self._is_final(name, error)
            self._due_at[name] = math.inf if is_final else self._now() + _AGAIN
            self.view.note_failure(name, error, is_final=is_final)
            return error
        except Exception as error:  # it must not end the others
            _logger.exception("the step of %s failed", record.key)
            self._due_at[name] = self._now() + _AGAIN
            return ConfigurationError(
                f"a step of the export failed unexpectedly ({type(error).__name__}); "
                f"the server's log says more"
            )

        # Of one that is done the store tells so by then.
        due_in = _LOOK if tick.due_in is None else tick.due_in
        self._due_at[name] = self._now() + due_in
        self.view.note_step(name, tick.last_error)

        return tick

    def _is_final(self, name: str, error: CohortsError) -> bool:
        if isinstance(error, InvalidInputError):
            # Its folder may be away for a moment, and an export is spent.
            record = self.view.record(name)
            return record is None or record.state not in _SPENT

        return isinstance(error, _FINAL) and not isinstance(error, StorageError)

    def _forget_old(self) -> None:
        """Forget what was noted of exports that are not in the store any more."""
        self.view.forget_old()
        present = {self._root.name(each) for each in self.view.records}
        for name in self._due_at.keys() - present - self._steps.keys():
            del self._due_at[name]

    async def _pause(self, seconds: float) -> None:
        awake = asyncio.create_task(self._awake.wait())
        due = asyncio.ensure_future(self._sleep(seconds))

        try:
            await asyncio.wait([awake, due], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(awake, due)
        self._awake.clear()


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _about_to_end() -> ProblemError:
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "this worker is about to end; send the same request again",
        retry_after=1,
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
