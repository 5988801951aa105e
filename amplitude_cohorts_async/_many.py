"""
Many exports into one directory, each outcome as it comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import anyio.to_thread
import attrs

from ._core.ids import checked_id
from ._core.snapshots import export_key
from ._exports import Begun, Exports, Wanted
from ._io.disk.files import Target, checked_target
from ._io.disk.formats import Format
from ._io.ledger import Ledger, Past
from ._job import ExportJob
from .errors import (
    CohortsError,
    ExportExpiredError,
    ExportFailedError,
    InvalidInputError,
)
from .models import Cohort, ExportOutcome, SavedExport


@attrs.frozen(kw_only=True)
class ManyOptions:
    """
    How many exports are run.

    Attributes:
        timeout: Seconds that each job may take.

        at_once: Exports that may be under way together.

        skip_unchanged: Whether the list is asked first, and cohorts that did
            not change since their file was saved are left alone.

        allowance: Whose part of the month the exports come out of.
    """

    wanted: Wanted
    format: Format
    timeout: float
    at_once: int
    skip_unchanged: bool
    allowance: str | None


class ExportBatch:
    """
    An async iterator of outcomes, in the order the exports end.

    Nothing is requested before the first ``async for`` step. Leave it early
    through ``async with``, or `aclose()`: what was requested by then is on
    record in the directory, and the next run goes on with it.
    """

    def __init__(
        self,
        exports: Exports,
        cohort_ids: Iterable[str],
        directory: Path,
        options: ManyOptions,
    ) -> None:
        ids = [checked_id(cohort_id, "cohort id") for cohort_id in cohort_ids]

        if options.at_once < 1:
            raise InvalidInputError(f"at_once is 1 or more, got {options.at_once}")

        self._exports = exports
        self._waiting = deque(dict.fromkeys(ids))
        self._directory = directory
        self._options = options
        self._ledger = Ledger(directory)
        self._past = Past()
        self._listed: Mapping[str, Cohort] = {}
        self._tasks: set[asyncio.Task[ExportOutcome]] = set()
        self._has_begun = False
        self._is_over = False

    def __aiter__(self) -> AsyncIterator[ExportOutcome]:
        return self

    async def __anext__(self) -> ExportOutcome:
        if not self._has_begun:
            await self._begin()

        while self._waiting and len(self._tasks) < self._options.at_once:
            cohort_id = self._waiting.popleft()
            self._tasks.add(asyncio.create_task(self._outcome(cohort_id)))

        if not self._tasks:
            await self._end()
            raise StopAsyncIteration

        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        self._tasks.discard(task)

        return task.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Stop what is under way; calling it twice does no harm.
        """
        self._waiting.clear()
        self._is_over = True

        for task in self._tasks:
            task.cancel()

        if self._tasks:
            await asyncio.wait(self._tasks)
            self._tasks.clear()

    async def _begin(self) -> None:
        # What is wrong with the directory is wrong for all: nothing is spent.
        await anyio.to_thread.run_sync(self._target, "cohort")
        self._past = await self._ledger.begun()

        if self._options.skip_unchanged and self._past.saved:
            self._listed = await self._exports.listed()

        self._has_begun = True

    async def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            await self._ledger.finished()

    async def _outcome(self, cohort_id: str) -> ExportOutcome:
        spent = 0

        try:
            target = await anyio.to_thread.run_sync(self._target, cohort_id)
            saved = await self._saved_before(cohort_id, target)

            if saved is None:
                begun = await self._begun(cohort_id)
                spent = int(begun.spent)
                saved = await self._exports.finish(
                    begun.job, target, timeout=self._options.timeout, progress=None
                )

            await self._ledger.saved(self._key(cohort_id), saved)
        except (ExportFailedError, ExportExpiredError) as error:
            await self._ledger.over(self._key(cohort_id))
            return ExportOutcome(cohort_id=cohort_id, error=error, spent=spent)
        except CohortsError as error:
            return ExportOutcome(cohort_id=cohort_id, error=error, spent=spent)

        return ExportOutcome(cohort_id=cohort_id, saved=saved, spent=spent)

    async def _saved_before(self, cohort_id: str, target: Target) -> SavedExport | None:
        earlier = self._past.saved.get(self._key(cohort_id))

        if earlier is None or self._key(cohort_id) in self._past.requested:
            return None

        if self._key(cohort_id) in self._past.in_run:
            # The run that died had this one already.
            return await self._exports.intact(earlier, target)

        return await self._exports.unchanged(
            earlier,
            target,
            self._options.wanted,
            cohort=self._listed.get(cohort_id),
            progress=None,
        )

    async def _begun(self, cohort_id: str) -> Begun:
        key = self._key(cohort_id)
        token = self._past.requested.get(key)

        if token is not None:
            job = self._exports.resume(token)
            try:
                await job.poll()
            except ExportExpiredError:
                pass
            else:
                return Begun(job, spent=False)

        async def note(job: ExportJob) -> None:
            await self._ledger.requested(key, job.token)

        options = self._options

        return await self._exports.begin(
            cohort_id, options.wanted, allowance=options.allowance, note=note
        )

    def _target(self, cohort_id: str) -> Target:
        # Quoted, an id cannot leave the directory.
        name = f"{quote(cohort_id, safe='')}.{self._options.format.suffix}"

        return checked_target(self._directory / name, None)

    def _key(self, cohort_id: str) -> str:
        wanted = export_key(cohort_id, self._options.wanted)

        return f"{wanted}.{self._options.format.suffix}"
