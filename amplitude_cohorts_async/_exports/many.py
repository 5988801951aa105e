"""Many exports into one directory, each outcome as it comes."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import anyio.to_thread
import attrs

from .._core.ids import checked_ids
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
from .requester import ExportRequester, StartedExport, Wanted
from .run_record import AttemptLog, ExportRecord, RunHistory, RunRecord

_logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class ManyOptions:
    """
    How many exports are run.

    Attributes:
        timeout: Seconds that each job may take.

        max_concurrency: Exports that may be under way together.

        skip_unchanged: Whether cohorts that the list shows as unchanged since
            their file was saved are skipped.

        allowance: The name of the allowance that the exports count against.
    """

    wanted: Wanted
    format: Format
    timeout: float
    max_concurrency: int
    skip_unchanged: bool
    allowance: str | None


class ExportBatch:
    """
    An async iterator of outcomes, in the order the exports end.

    Nothing is requested before the first ``async for`` step, and nothing while
    the caller is not waiting for the next outcome. As an async context manager
    it works ahead: exports that were begun go on while the body is busy.

    Leaving the context, `aclose()`, a cancelled step, closing the client and
    dropping the iterator stop everything. What was requested by then is on
    record in the directory, and the same call goes on with it.
    """

    def __init__(self, run: ExportRun) -> None:
        self._run = run
        # The tasks refer to the run and not to the iterator, so that one that
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
        """Stop what is under way; calling it twice does no harm."""
        await self._run.aclose()


class ExportRun:
    """
    The work behind an `ExportBatch`.

    Attributes:
        works_ahead: Whether exports are requested while no caller waits for
            an outcome.
    """

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
        self._waiting = deque(checked_ids(cohort_ids, "cohort id"))
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
        self._requests: set[_Request] = set()
        self._is_over = False
        self._is_client_closed = False

    async def step(self) -> ExportOutcome | None:
        """
        Return the next outcome, or None at the end.

        When it returns, no request for an export is under way, unless the run
        works ahead or another caller waits as well.
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
        """Stop what is under way, and wait for its end."""
        self._stop()

        if self._tasks:
            await finish_despite_cancel(asyncio.wait(self._tasks))
            self._tasks.clear()

    async def close_with_client(self) -> None:
        """Stop because the client is closed: the steps that follow raise."""
        self._is_client_closed = not self._is_over
        await self.aclose()

    def abandon(self) -> None:
        """Stop what is under way; may be called in any thread."""
        if self._loop is not None:
            # A loop that is closed has nothing under way.
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
        # Requests that wait for a window are withdrawn, those that were sent are
        # waited for: nothing is spent while the caller is busy with an outcome.
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
                f"the client was closed before export_many() came to its end; what it "
                f"requested is on record in {self._directory}, and the same call of "
                f"another client goes on with it"
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
            self._tasks.add(
                asyncio.create_task(
                    self._outcome(cohort_id), name=f"export of {cohort_id}"
                )
            )

    async def _open(self) -> None:
        # A directory that cannot be written to is an error of the call.
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
        record = self._record.of(self._key(cohort_id))
        charged = 0

        try:
            target = await anyio.to_thread.run_sync(self._target, cohort_id)
            saved = await self._saved_before(cohort_id, target)

            if saved is None:
                started = await self._resumed(cohort_id)
                started = started or await self._requested(cohort_id, record)
                charged = int(started.charged)
                saved = await self._exports.finish(
                    started.job, target, timeout=self._options.timeout, progress=None
                )

            await record.saved(saved)
        except (ExportFailedError, ExportExpiredError) as error:
            await record.over()
            return ExportOutcome(cohort_id=cohort_id, error=error, spent=charged)
        except CohortsError as error:
            return ExportOutcome(cohort_id=cohort_id, error=error, spent=charged)

        return ExportOutcome(cohort_id=cohort_id, saved=saved, spent=charged)

    async def _saved_before(self, cohort_id: str, target: Target) -> SavedExport | None:
        key = self._key(cohort_id)
        earlier = self._history.saved.get(key)

        if earlier is None or key in self._history.requested:
            return None

        if key in self._history.in_run:
            # Saved by the run that is taken up.
            return await self._exports.intact(earlier, target)

        return await self._exports.unchanged(
            earlier,
            target,
            self._options.wanted,
            cohort=self._listed.get(cohort_id),
            progress=None,
        )

    async def _resumed(self, cohort_id: str) -> StartedExport | None:
        token = self._history.requested.get(self._key(cohort_id))

        if token is None:
            return None

        job = self._exports.resume(token)

        try:
            await job.poll()
        except ExportExpiredError:
            return None

        return StartedExport(job, charged=False)

    async def _requested(self, cohort_id: str, record: ExportRecord) -> StartedExport:
        options = self._options

        while True:
            await self._may_request.wait()
            request = _Request(
                record,
                lambda log: self._exports.start(
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
        # Quoted, an id cannot leave the directory.
        name = f"{quote(cohort_id, safe='')}.{self._options.format.suffix}"

        return checked_target(self._directory / name, None)

    def _key(self, cohort_id: str) -> str:
        wanted = export_key(cohort_id, self._options.wanted)

        return f"{wanted}.{self._options.format.suffix}"


class _Request:
    """
    A request for an export, in a task that can be withdrawn until it is sent.

    The `AttemptLog` of that task.
    """

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
        """Send nothing more; what was sent is left to come to its end."""
        self.is_withdrawn = True

        if not self._is_sent:
            self.task.cancel()

    async def attempted(self) -> None:
        """
        Write that the request is about to be sent, which cannot be withdrawn then.
        """
        await self._record.attempted()
        self._is_sent = True

    async def refused(self) -> None:
        """Write that the request spent nothing; it may be withdrawn again."""
        self._is_sent = False
        await self._record.refused()

        if self.is_withdrawn:
            self.task.cancel()

    async def requested(self, token: str) -> None:
        """Write what was spent, or joined."""
        await self._record.requested(token)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()

    return task is not None and bool(task.cancelling())
