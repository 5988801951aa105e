"""
Exports as a caller asks for them: none requested twice, none in vain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import anyio
import attrs

from ._core import requests, responses
from ._core.snapshots import export_key, has_file, is_unchanged
from ._core.tokens import Ticket, from_token
from ._core.wire import Response
from ._fetch import Progress
from ._io.disk.files import Target
from ._io.limits.budget import Budget
from ._io.session import Session
from ._io.threads import in_thread
from ._job import ExportJob, keep_token
from .errors import (
    ExportError,
    InvalidInputError,
    LimiterUnavailableError,
)
from .events import ExportRequested, QuotaWait
from .models import Cohort, Region, Routes, SavedExport
from .policies import Polling

_logger = logging.getLogger(__name__)

_ON_BOARD = 1800.0
"""
Seconds in which an export that was not delivered is taken up by the next call.
"""

Wanted = bool | tuple[str, ...]
Note = Callable[[ExportJob], Awaitable[None]]


@attrs.frozen
class Begun:
    """
    A job to wait for.

    Attributes:
        spent: Whether an export of the month was spent on it just now.
    """

    job: ExportJob
    spent: bool


class Exports:
    """
    Requests exports, joins those that run, and skips those that need not be.
    """

    def __init__(
        self,
        session: Session,
        *,
        routes: Routes,
        polling: Polling,
        region: Region | None,
        list_cohorts: Callable[[], Awaitable[list[Cohort]]],
        budget: Budget,
    ) -> None:
        self._session = session
        self._budget = budget
        self._routes = routes
        self._polling = polling
        self._region = region
        self._list_cohorts = list_cohorts
        self._thread = anyio.CapacityLimiter(1)

    async def request(
        self,
        cohort_id: str,
        wanted: Wanted,
        *,
        allowance: str | None = None,
        note: Note | None = None,
    ) -> ExportJob:
        """
        Spend one of the month's exports.

        Args:
            allowance: Whose part of the month it comes out of.

            note: Told of the job at once, even if the caller is leaving.

        Raises:
            MonthlyQuotaError: The month, or the part, has no room for it.
        """
        request = requests.request_export(cohort_id, properties=wanted)
        taken: list[ExportJob] = []

        async def take(response: Response) -> Ticket:
            """
            Note whose job the answer told of, before anybody can leave.
            """
            ticket = self._ticket(
                cohort_id, wanted, responses.export_request_id(request, response)
            )
            now = self._session.clock.utcnow()
            ticket = attrs.evolve(
                ticket, as_of=responses.answered_at(response, now=now)
            )
            taken.append(self._job(ticket))
            await self._announce(ticket)
            if note is not None:
                await note(self._job(ticket))
            return ticket

        self._tell_wait(cohort_id)

        try:
            async with self._budget.spend(allowance=allowance) as spend:
                await self._session.buy(request, take, paying=spend.commit)
        except asyncio.CancelledError as error:
            for job in taken:
                keep_token(error, job.token)
            raise

        return taken[0]

    def resume(self, request_id_or_token: str) -> ExportJob:
        """
        Take up an export that was requested before.
        """
        ticket = from_token(request_id_or_token)

        if None not in {ticket.region, self._region} and ticket.region != self._region:
            raise InvalidInputError(
                f"export {ticket.request_id} belongs to another region than this "
                f"client; use a client of its region"
            )

        return self._job(ticket)

    async def begin(
        self,
        cohort_id: str,
        wanted: Wanted,
        *,
        allowance: str | None = None,
        note: Note | None = None,
    ) -> Begun:
        """
        Join the export of the same that is running, or request one.

        Args:
            note: Told of the job at once, even if the caller is leaving.
        """
        key = export_key(cohort_id, wanted)
        asked_at = self._session.clock.utcnow()
        job: ExportJob | None = None
        spent: list[ExportJob] = []

        async def keep(job: ExportJob) -> None:
            """
            Remember the job that was paid for, and pass it on.
            """
            spent.append(job)
            if note is not None:
                await note(job)

        try:
            async with self._session.board.claim(key):
                job = await self._running(key, asked_at)
                if job is None:
                    await self.request(
                        cohort_id, wanted, allowance=allowance, note=keep
                    )
        except LimiterUnavailableError:
            # The turn was lost, but not what was bought in it.
            if not spent:
                raise
        except asyncio.CancelledError as error:
            for bought in spent:
                keep_token(error, bought.token)
            raise

        if job is None:
            return Begun(spent[0], spent=True)
        if note is not None:
            await note(job)

        return Begun(job, spent=False)

    async def finish(
        self,
        job: ExportJob,
        target: Target,
        *,
        timeout: float,
        progress: Progress | None,
    ) -> SavedExport:
        """
        Wait for a job and save its file.
        """
        await job.wait(timeout=timeout)

        return await job.download(
            target.path, format=target.format.suffix, progress=progress
        )

    async def unchanged(
        self,
        earlier: SavedExport | str,
        target: Target,
        wanted: Wanted,
        *,
        cohort: Cohort | None,
        progress: Progress | None,
    ) -> SavedExport | None:
        """
        Return what an earlier export has at a target, if it is still right.

        A file that is gone or was changed comes again from the earlier job, as
        long as the service keeps it; that spends nothing.

        Args:
            earlier: What was saved, or its token; a token says nothing of the
                file, so that it comes again.

            cohort: What the list says now; None when it is not listed.

        Returns:
            None when a new export is needed.
        """
        token = earlier if isinstance(earlier, str) else earlier.token
        ticket = from_token(token)

        if (
            cohort is None
            or (ticket.cohort_id, ticket.properties) != (cohort.id, wanted)
            or not is_unchanged(cohort, ticket)
        ):
            return None

        if isinstance(earlier, SavedExport):
            saved = await self.intact(earlier, target)
            if saved is not None:
                return saved

        if has_file(ticket, now=self._session.clock.utcnow()):
            with suppress(ExportError):
                saved = await self._job(ticket).download(
                    target.path, format=target.format.suffix, progress=progress
                )
                return attrs.evolve(saved, unchanged=True)

        return None

    async def intact(self, earlier: SavedExport, target: Target) -> SavedExport | None:
        """
        Return an earlier export whose file is still at a target as it was.
        """
        intact = partial(_is_intact, earlier, target.path)

        if not await in_thread(intact, self._thread):
            return None

        return attrs.evolve(earlier, unchanged=True, downloaded=0, links=0)

    async def _running(self, key: str, asked_at: datetime) -> ExportJob | None:
        token = await self._session.board.find(key)

        if token is None:
            return None

        job = self.resume(token)
        requested_at = from_token(token).requested_at
        # One that was requested while we waited here is fresh enough.
        is_fresh = requested_at is not None and requested_at >= asked_at

        return job if is_fresh or await _may_have_file(job) else None

    async def listed(self) -> Mapping[str, Cohort]:
        """
        List the cohorts, by id.
        """
        return {cohort.id: cohort for cohort in await self._list_cohorts()}

    def _ticket(self, cohort_id: str, wanted: Wanted, request_id: str) -> Ticket:
        return Ticket(
            request_id=request_id,
            cohort_id=cohort_id,
            properties=wanted,
            requested_at=self._session.clock.utcnow(),
            region=self._region,
        )

    async def _announce(self, ticket: Ticket) -> None:
        job = self._job(ticket)
        cohort_id = str(ticket.cohort_id)
        _logger.info(
            "export requested",
            extra={"cohort_id": cohort_id, "request_id": ticket.request_id},
        )
        self._session.emit(
            ExportRequested(cohort_id=cohort_id, request_id=ticket.request_id)
        )

        # The export is spent: a board that is away must not lose it.
        with suppress(LimiterUnavailableError):
            key = export_key(cohort_id, ticket.properties)
            await self._session.board.put(key, job.token, seconds=_ON_BOARD)

    def _tell_wait(self, cohort_id: str) -> None:
        (seconds,) = self._session.limiter.expected_starts(1)

        if seconds >= 1:
            self._session.emit(QuotaWait(cohort_id=cohort_id, seconds=seconds))

    def _job(self, ticket: Ticket) -> ExportJob:
        return ExportJob(
            self._session, ticket, routes=self._routes, polling=self._polling
        )


async def _may_have_file(job: ExportJob) -> bool:
    try:
        await job.poll()
    except ExportError:
        return False

    return True


def _is_intact(earlier: SavedExport, path: Path) -> bool:
    # In a worker thread.
    return earlier.path.absolute() == path.absolute() and earlier.file.is_intact()
