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
from urllib.parse import quote

import anyio.to_thread
import attrs

from .._core.ids import checked_distinct_ids
from .._core.tokens import export_key
from .._io.cancellation import finish_despite_cancel
from .._io.sinks.target import Format, Target, checked_target
from ..errors import (
    CohortsError,
    ConfigurationError,
    ExportExpiredError,
    ExportFailedError,
    InvalidInputError,
)
from ..models import Cohort, ExportOutcome, SavedExport
from .memory import AttemptLog
from .run_record import ExportRecord, RunHistory, RunRecord

if TYPE_CHECKING:
    from .requester import ExportRequester, StartedExport, Wanted

_logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class ManyOptions:
    """The options of `CohortsClient.export_many()`, checked."""

    wanted: Wanted
    format: Format
    timeout: float
    max_concurrency: int
    skip_unchanged: bool
    allowance: str | None


class ExportBatch:
    """
    An async iterator of `ExportOutcome`, in the order the exports end.

    Exports are requested only while the caller waits for the next outcome. As an
    async context manager the batch also requests them while the body is busy.

    Leaving the context, `aclose()`, a cancelled step, closing the client and
    dropping the iterator stop everything. The run record in the directory keeps
    what was requested, and the same call goes on with it.
    """

    def __init__(self, run: ExportRun) -> None:
        self._run = run
        # The tasks refer to the run, not to the iterator, so that an iterator that
        # was dropped in the middle of a loop is collected.
        weakref.finalize(self, run.abandon).atexit = False

    def __aiter__(self) -> AsyncIterator[ExportOutcome]:
        return self

    async def __anext__(self) -> ExportOutcome:
        outcome = await self._run.step()

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


class ExportRun:
    """The tasks of an `ExportBatch`; `works_ahead`: also while no caller waits."""

    def __init__(
        self,
        exports: ExportRequester,
        cohort_ids: Iterable[str],
        directory: Path,
        options: ManyOptions,
    ) -> None:
        if options.max_concurrency < 1:
            raise InvalidInputError(
                f"max_concurrency is 1 or more, got {options.max_concurrency}"
            )

        self.works_ahead = False
        self._exports = exports
        self._waiting = deque(checked_distinct_ids(cohort_ids, "cohort id"))
        self._directory = directory
        self._options = options
        self._record = RunRecord(directory)
        self._history = RunHistory()
        self._listed: Mapping[str, Cohort] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._step_lock = asyncio.Lock()
        self._steps = 0
        self._may_request = asyncio.Event()
        self._tasks: set[asyncio.Task[ExportOutcome]] = set()
        self._requests: set[_Purchase] = set()
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
        self._stop()

        if self._tasks:
            await finish_despite_cancel(asyncio.wait(self._tasks))
            self._tasks.clear()

    async def close_with_client(self) -> None:
        """Stop because the client is closed; later steps raise."""
        self._is_client_closed = not self._is_over
        await self.aclose()

    def abandon(self) -> None:
        """Stop the tasks without waiting; may be called in any thread."""
        if self._loop is not None:
            # A closed loop raises; it runs no tasks.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._is_over = True
        self._waiting.clear()

        for request in self._requests:
            request.withdraw()
        for task in self._tasks:
            task.cancel()

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
                f"the client was closed before export_many() ended; its requests are "
                f"recorded in {self._directory}, and the same call of another client "
                f"goes on with them"
            )
        if self._is_over:
            return None
        if not self._tasks:
            self._is_over = True
            await self._record.close()
            return None

        task = next(task for task in self._tasks if task.done())
        self._tasks.discard(task)

        return task.result()

    async def _start(self) -> None:
        if self._loop is None:
            await self._open()

        while self._waiting and len(self._tasks) < self._options.max_concurrency:
            cohort_id = self._waiting.popleft()
            work = self._outcome(cohort_id)
            self._tasks.add(asyncio.create_task(work, name=f"export of {cohort_id}"))

    async def _open(self) -> None:
        # Raises if the directory cannot be written to, before the first outcome.
        await anyio.to_thread.run_sync(self._target, "cohort")
        self._history = await self._record.open()

        for cohort_id in self._waiting:
            if self._key(cohort_id) in self._history.attempted:
                _logger.warning(
                    "an earlier run sent a request for cohort %s and recorded no "
                    "answer: an export may have been spent; it is requested again",
                    cohort_id,
                )

        if self._options.skip_unchanged and self._history.saved:
            self._listed = await self._exports.listed()

        self._loop = asyncio.get_running_loop()

    async def _outcome(self, cohort_id: str) -> ExportOutcome:
        record = ExportRecord(self._record, self._key(cohort_id))
        spent = 0

        try:
            target = await anyio.to_thread.run_sync(self._target, cohort_id)
            saved = await self._saved_before(cohort_id, target)

            if saved is None:
                token = self._history.requested.get(self._key(cohort_id))
                started = (
                    await self._exports.resume_unless_expired(token) if token else None
                )
                started = started or await self._requested(cohort_id, record)
                spent = int(started.spent)
                saved = await started.job.download(
                    target.path, timeout=self._options.timeout
                )

            await record.saved(saved)
        except (ExportFailedError, ExportExpiredError) as error:
            await record.over()
            return ExportOutcome(cohort_id=cohort_id, error=error, spent=spent)
        except CohortsError as error:
            return ExportOutcome(cohort_id=cohort_id, error=error, spent=spent)

        return ExportOutcome(cohort_id=cohort_id, saved=saved, spent=spent)

    async def _saved_before(self, cohort_id: str, target: Target) -> SavedExport | None:
        key = self._key(cohort_id)
        earlier = self._history.saved.get(key)

        if earlier is None or key in self._history.requested:
            return None

        if key in self._history.in_run:
            # Saved by an earlier process of this same run.
            return await self._exports.intact(earlier, target)

        return await self._exports.unchanged(
            earlier,
            target,
            self._options.wanted,
            cohort=self._listed.get(cohort_id),
            progress=None,
        )

    async def _requested(self, cohort_id: str, record: ExportRecord) -> StartedExport:
        options = self._options

        while True:
            await self._may_request.wait()
            request = _Purchase(
                record,
                lambda log: self._exports.join_or_request(
                    cohort_id, options.wanted, allowance=options.allowance, record=log
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

    def _target(self, cohort_id: str) -> Target:
        # Quoted, so that an id cannot lead out of the directory.
        name = f"{quote(cohort_id, safe='')}.{self._options.format.suffix}"

        return checked_target(self._directory / name, None)

    def _key(self, cohort_id: str) -> str:
        wanted = export_key(cohort_id, self._options.wanted)

        return f"{wanted}.{self._options.format.suffix}"


class _Purchase(AttemptLog):
    """A task that requests an export, which can be withdrawn until it is sent."""

    def __init__(
        self,
        record: ExportRecord,
        begin: Callable[[AttemptLog], Coroutine[None, None, StartedExport]],
    ) -> None:
        self._record = record
        self._is_sent = False
        self.is_withdrawn = False
        self.task = asyncio.create_task(begin(self))

    def withdraw(self) -> None:
        """Send no further request; one that was sent is finished."""
        self.is_withdrawn = True

        if not self._is_sent:
            self.task.cancel()

    async def attempted(self) -> None:
        """Record that the request is about to be sent, and cannot be withdrawn."""
        await self._record.attempted()
        self._is_sent = True

    async def refused(self) -> None:
        """Record that the request spent no export, and can be withdrawn again."""
        self._is_sent = False
        await self._record.refused()

        if self.is_withdrawn:
            self.task.cancel()

    async def requested(self, token: str) -> None:
        """Record the token of an export that was spent or joined."""
        await self._record.requested(token)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()

    return task is not None and bool(task.cancelling())
