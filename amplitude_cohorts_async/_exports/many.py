"""Exports many cohorts into one directory, and yields each outcome as it ends."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio.to_thread
import attrs

from .._core.claims import Call
from .._core.ids import distinct_cohort_ids
from .._io.async_only import AsyncOnly
from .._io.cancellation import finish_despite_cancel
from .._io.jobs.base import JobStore
from .._io.progress import ProgressBar, displayed_step
from .._io.sinks.target import Format, Target, checked_target
from ..errors import (
    CohortsError,
    ConfigurationError,
    InvalidInputError,
    JobStoreUnavailableError,
)
from ..models import Cohort, ExportOutcome, SavedExport
from .app_jobs import path_name, target_name
from .directory_store import directory_store
from .old_record import import_old_record
from .purchase import SendWatch
from .requester import ExportRequester, StartedExport
from .runs import Runs, check_file_names, file_name

if TYPE_CHECKING:
    from .._core.job_rows import OnUnknown, Wanted

_logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class ManyOptions:
    """The options of `CohortsClient.export_many()`, checked."""

    wanted: Wanted
    format: Format
    timeout: float
    max_concurrency: int
    skip_unchanged: bool
    reuse_within: float
    on_unknown: OnUnknown
    allowance: str | None


class ExportBatch(AsyncOnly):
    """
    An async iterator of `ExportOutcome`, in the order the exports end.

    Exports are requested only while the caller waits for the next outcome. As an
    async context manager the batch also requests them while the body is busy.

    Leaving the context, `aclose()`, a cancelled step, closing the client and
    dropping the iterator stop everything. The job store keeps what was requested, and
    the same call goes on with it.
    """

    _usage = "async for outcome in client.export_many(...):"

    def __init__(self, run: ExportRun, bar: ProgressBar | None = None) -> None:
        self._run = run
        self._bar = bar
        # The tasks refer to the run, not to the iterator, so that an iterator that
        # was dropped in the middle of a loop is collected.
        weakref.finalize(self, run.abandon).atexit = False

    def __aiter__(self) -> AsyncIterator[ExportOutcome]:
        return self

    async def __anext__(self) -> ExportOutcome:
        if self._bar is None:
            outcome = await self._run.step()
        else:
            outcome = await displayed_step(self._bar, self._run.step)

        if outcome is None:
            raise StopAsyncIteration

        return outcome

    async def __aenter__(self) -> Self:
        self._run.works_ahead = True

        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop all exports of the batch; calling it twice does no harm."""
        await self._run.aclose()

        if self._bar is not None:
            self._bar.close()


class ExportRun:
    """The tasks of an `ExportBatch`; `works_ahead`: also while no caller waits."""

    def __init__(
        self,
        exports: ExportRequester,
        cohort_ids: Iterable[str | Cohort],
        directory: Path,
        options: ManyOptions,
    ) -> None:
        if options.max_concurrency < 1:
            raise InvalidInputError(
                f"max_concurrency is 1 or more, got {options.max_concurrency}"
            )

        self.works_ahead = False
        cohort_ids = distinct_cohort_ids(cohort_ids)
        check_file_names(cohort_ids)
        self.count: int = len(cohort_ids)
        self._exports = exports
        self._rows = exports.jobs.rows
        self._waiting = deque(cohort_ids)
        self._directory = directory
        self._options = options
        self._own_store: JobStore | None = None
        self._runs: Runs | None = None
        self._holding: asyncio.Task[None] | None = None
        self._listing = asyncio.Lock()
        self._listed: Mapping[str, Cohort] | None = None
        self._step_lock = asyncio.Lock()
        self._steps = 0
        self._may_request = asyncio.Event()
        self._tasks: set[asyncio.Task[ExportOutcome]] = set()
        self._requests: set[_Requesting] = set()
        self._is_over = False
        self._is_client_closed = False

    async def step(self) -> ExportOutcome | None:
        """
        Return the next outcome, or None at the end.

        Then no request for an export is under way, unless the run works ahead or
        another caller waits as well.
        """
        self._steps += 1
        self._may_request.set()

        try:
            try:
                async with self._step_lock:
                    return await self._next()
            finally:
                self._steps -= 1
                await self._pause()
        except asyncio.CancelledError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop the tasks, and wait until they have ended."""
        await self._end()
        await self._rows.settle()

        if self._own_store is not None:
            await finish_despite_cancel(self._close_store(self._own_store))

    async def _end(self) -> None:
        self._stop()
        ending = {*self._tasks, *filter(None, [self._holding])}

        if ending:
            await finish_despite_cancel(asyncio.wait(ending))
            self._tasks.clear()

    async def _close_store(self, store: JobStore) -> None:
        self._own_store = None
        await self._exports.jobs.aclose()
        await store.aclose()

    async def close_with_client(self) -> None:
        """Stop because the client is closed; later steps raise."""
        self._is_client_closed = not self._is_over
        await self.aclose()

    def abandon(self) -> None:
        """Stop the tasks without waiting; may be called in any thread."""
        if self._holding is not None:
            # A closed loop raises; it runs no tasks.
            with suppress(RuntimeError):
                self._holding.get_loop().call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._stop()
        if self._holding is not None:
            # The next call waits until this run is left, and so goes on with it.
            self._rows.in_background(self._holding)

    def _stop(self) -> None:
        self._is_over = True
        self._waiting.clear()

        for request in self._requests:
            request.withdraw()
        for task in self._tasks:
            task.cancel()
        if self._holding is not None:
            self._holding.cancel()

    async def _pause(self) -> None:
        # Nothing is spent while the caller is busy with an outcome: requests that
        # wait for a window are withdrawn, and sent ones are waited for.
        if self._steps or self.works_ahead:
            return

        self._may_request.clear()
        for request in self._requests:
            request.withdraw()
        if self._requests:
            await asyncio.wait([request.task for request in self._requests])

    async def _next(self) -> ExportOutcome | None:
        if not self._is_over:
            await self._start()

        if self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

        if self._is_client_closed:
            raise ConfigurationError(
                "the client was closed before export_many() ended; its requests are "
                "recorded, and the same call of another client goes on with them"
            )
        if self._is_over:
            return None
        if not self._tasks:
            await self._end()
            # After the last await, like every answer: a step that is cancelled leaves
            # the run open.
            self._rows.in_background(self._close())
            return None

        task = next(task for task in self._tasks if task.done())
        self._tasks.discard(task)

        return task.result()

    async def _start(self) -> None:
        if self._holding is None:
            await self._open()

        while self._waiting and len(self._tasks) < self._options.max_concurrency:
            cohort_id = self._waiting.popleft()
            work = self._outcome(cohort_id)
            self._tasks.add(asyncio.create_task(work, name=f"export of {cohort_id}"))

    async def _open(self) -> None:
        cohort_ids = tuple(self._waiting)
        # One that was dropped just now is left first.
        await asyncio.sleep(0)
        await self._rows.settle()
        # Raises if the directory cannot be written to, before the first outcome.
        await anyio.to_thread.run_sync(self._target, "cohort")
        options = self._options
        place = await anyio.to_thread.run_sync(self._directory.resolve)
        store = directory_store(self._exports.jobs.store, self._directory)
        if store is not self._exports.jobs.store:
            self._exports, self._own_store = self._exports.keeping(store), store
        self._runs = Runs(
            self._exports.jobs.rows,
            directory=path_name(place),
            properties=options.wanted,
            format=options.format.suffix,
        )
        await import_old_record(
            self._exports.jobs.rows,
            self._runs,
            self._directory,
            cohort_ids=cohort_ids,
            wanted=options.wanted,
            format=options.format.suffix,
        )
        await self._runs.open(cohort_ids, is_fresh=options.reuse_within == 0)
        self._holding = asyncio.create_task(self._runs.hold())

    async def _close(self) -> None:
        try:
            if self._runs is not None:
                await self._runs.close()
        except JobStoreUnavailableError:
            _logger.warning("an export_many() is not closed; the next one continues it")

        if self._own_store is not None:
            await self._close_store(self._own_store)

    async def _outcome(self, cohort_id: str) -> ExportOutcome:
        with self._exports.context.phase("export", cohort_id=cohort_id) as phase:
            outcome = await self._exported(cohort_id)
            phase.error = outcome.error

        return outcome

    async def _exported(self, cohort_id: str) -> ExportOutcome:
        spent = 0

        try:
            target = await anyio.to_thread.run_sync(self._target, cohort_id)
            saved = await self._unchanged(cohort_id, target)

            if saved is None:
                started = await self._requested(cohort_id, target)
                spent = int(started.spent)
                saved = await self._saved(started, target)
        except CohortsError as error:
            return ExportOutcome(cohort_id=cohort_id, error=error, spent=spent)

        return ExportOutcome(cohort_id=cohort_id, saved=saved, spent=spent)

    async def _saved(self, started: StartedExport, target: Target) -> SavedExport:
        saved = await self._exports.save(started, target, timeout=self._options.timeout)
        if started.record is not None and started.is_final:
            # Delivered by an earlier process of this same run, and left alone since,
            # even if its reader has moved it.
            return attrs.evolve(saved, unchanged=True, downloaded=0, links=0)

        return saved

    async def _unchanged(self, cohort_id: str, target: Target) -> SavedExport | None:
        if not self._options.skip_unchanged:
            return None

        return await self._exports.saved.unchanged_since_saved(
            cohort_id, target, self._options.wanted, self._list
        )

    async def _list(self) -> Mapping[str, Cohort]:
        async with self._listing:
            if self._listed is None:
                self._listed = await self._exports.listed()

        return self._listed

    async def _requested(self, cohort_id: str, target: Target) -> StartedExport:
        call = self._call(cohort_id, target)

        while True:
            await self._may_request.wait()
            request = _Requesting(
                lambda watch: self._exports.join_or_request(
                    call, allowance=self._options.allowance, watch=watch
                ),
            )
            self._requests.add(request)

            try:
                return await request.task
            except asyncio.CancelledError:
                if not request.is_withdrawn or _is_being_cancelled():
                    raise
            finally:
                self._requests.discard(request)

    def _call(self, cohort_id: str, target: Target) -> Call:
        options, run = self._options, self._runs.current if self._runs else None
        assert run is not None  # noqa: S101 - opened before the first task

        return Call(
            cohort_id=cohort_id,
            properties=options.wanted,
            target=target_name(target),
            format=options.format.suffix,
            reuse_within=options.reuse_within,
            on_unknown=options.on_unknown,
            run=run.row.id,
            continues=run.continued[cohort_id],
        )

    def _target(self, cohort_id: str) -> Target:
        name = file_name(cohort_id, self._options.format.suffix)

        return checked_target(self._directory / name, None)


class _Requesting(SendWatch):
    """A task that requests an export, which can be withdrawn until it is sent."""

    def __init__(
        self, begin: Callable[[SendWatch], Coroutine[None, None, StartedExport]]
    ) -> None:
        self._is_sent = False
        self.is_withdrawn = False
        self.task = asyncio.create_task(begin(self))

    def withdraw(self) -> None:
        """Send no further request; one that was sent is finished."""
        self.is_withdrawn = True

        if not self._is_sent:
            self.task.cancel()

    def sent(self) -> None:
        """The request is about to be sent, and cannot be withdrawn."""
        self._is_sent = True

    def refused(self) -> None:
        """The request spent no export, and can be withdrawn again."""
        self._is_sent = False

        if self.is_withdrawn:
            self.task.cancel()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()

    return task is not None and bool(task.cancelling())
