"""
Does what the routes ask for: starts exports, puts them aside, and ends in good order.

`steps` goes on with what was started, and `store_view` tells how far it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ... import CohortsClient
from ...errors import CohortsError, InvalidInputError
from ...jobs import JobRecord
from ...types import Clock
from .files import Files
from .problems import ProblemError
from .records import SPENT, ExportRoot, name_of, next_occurrence, order_of
from .schemas import ExportOrder, ExportState
from .steps import Steps, end_tasks
from .store_view import StoreView

__all__ = ("Worker",)

_STEPS_OF_REQUEST = 4
"""At most: to read the list, and the usage, and to send the request."""

_ATTEMPTS_TO_CANCEL = 5
_SET_ASIDE = {"parked", "cancelled", "refused"}
_CAN_BE_CANCELLED = {"queued", *SPENT}

T = TypeVar("T")


class Worker:
    """The exports of one client below one root, in one process."""

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
        self._steps = Steps(client, root, files, self.view, clock=clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Work meanwhile; what is under way then is left to the next worker."""
        loop = asyncio.create_task(self._steps.run())

        try:
            yield
        finally:
            self.view.stop()
            await end_tasks(loop, *self._steps.under_way.values(), *self._tasks)

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
        if state is None and not self.view.stopping.is_set():
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the export was cancelled, or another one of its cohort was begun, at "
                "the same moment; send the request again if it is still wanted",
                retry_after=1,
            )
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
        with self._steps.held_back(name):
            for _ in range(_ATTEMPTS_TO_CANCEL):
                await self._settle(name)
                state = await self.view.state(name)
                if state.state in _SET_ASIDE:
                    return state
                if not state.is_own or self._is_shared(state):
                    raise ProblemError(HTTPStatus.CONFLICT, self._of_others(state))
                if state.state not in _CAN_BE_CANCELLED:
                    raise ProblemError(HTTPStatus.CONFLICT, _too_late(state))
                if cancelled := await self._put_aside(state):
                    return cancelled

        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"export {name} was changed by other workers each time; try again",
            retry_after=1,
        )

    def _is_shared(self, state: ExportState) -> bool:
        """Whether a file of it is still to come to somebody else."""
        record = self.view.record(state.id)
        mine = None if record is None else self._root.delivery(record)

        return record is not None and any(
            each.finished_at is None for each in record.deliveries if each != mine
        )

    def _of_others(self, state: ExportState) -> str:
        """Return why an export of another program is not put aside: it may wait for it."""
        record = self.view.record(state.id)
        label = None if record is None else record.label
        who = "another program" if label is None else f"another program, {label!r},"

        return (
            f"export {state.id} of cohort {state.cohort_id} was begun by {who} and not "
            f"by this service alone, which leaves it: end it there, or put it aside "
            f"with `amplitude-cohorts jobs park`"
        )

    async def _settle(self, name: str) -> None:
        """
        End the download of an export; wait for any other step of it.

        A request that is cut may have spent an export whose token nobody has then.
        """
        await self.view.look()
        step, record = self._steps.under_way.get(name), self.view.record(name)

        if step is None:
            return
        if record is not None and record.state == "ready":
            await end_tasks(step)
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
            await end_tasks(task)

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
        name = name_of(record)

        for _ in range(_STEPS_OF_REQUEST):
            # The step that is under way may be the download, which goes on without callers.
            if name in self._steps.under_way and self._is_spent(name):
                return None
            # Of two callers at the same moment the second one waits for the same step.
            step = self._steps.begin(record)
            await self._until_stopped(step)

            if not step.done() or step.cancelled():
                return None
            tick = step.result()
            if isinstance(tick, CohortsError):
                self.view.drop_failure(name)
                raise tick
            if tick.due_in != 0 or tick.record.state != "queued":
                return tick.last_error

        return None

    def _is_spent(self, name: str) -> bool:
        """Whether an export is paid for, and its file is still to come."""
        state = self.view.find(name)

        return state is not None and state.state in SPENT

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
