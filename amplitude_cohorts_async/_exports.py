"""
Exports as a caller asks for them: none requested twice, none in vain.
"""

from __future__ import annotations

import hashlib
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
from ._io.ledger import AttemptLog
from ._io.limits.budget import Budget
from ._io.session import Session
from ._io.threads import in_thread
from ._job import ExportJob
from .errors import (
    ExportError,
    ExportTimeoutError,
    InvalidInputError,
    LimiterUnavailableError,
    StorageError,
)
from .events import ExportRequested, QuotaWait
from .models import Cohort, Region, Routes, SavedExport
from .policies import Polling
from .protocols import Foresight

_logger = logging.getLogger(__name__)

_ON_BOARD = 1800.0
"""
Seconds after which an export that nobody took down counts as over.
"""

Wanted = bool | tuple[str, ...]


@attrs.frozen
class Begun:
    """
    A job to wait for.

    Attributes:
        charged: Whether an export of the month was spent on it just now.
    """

    job: ExportJob
    charged: bool


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
        record: AttemptLog | None = None,
    ) -> ExportJob:
        """
        Spend one of the month's exports.

        Args:
            allowance: Whose part of the month it comes out of.

            record: Written to around each request.

        Raises:
            MonthlyQuotaError: The month, or the part, has no room for it.
        """
        request = requests.request_export(cohort_id, properties=wanted)

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
            if record is not None:
                await record.requested(self._job(ticket).token)
            await self._announce(ticket)
            return ticket

        self._tell_wait(cohort_id)

        async with self._budget.spend(allowance=allowance) as spend:
            ticket = await self._session.buy(
                request, take, paying=spend.commit, record=record
            )

        return self._job(ticket)

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
        record: AttemptLog | None = None,
    ) -> Begun:
        """
        Join the export of the same that is running, or request one.

        Args:
            record: Written to around each request.
        """
        key = export_key(cohort_id, wanted)
        asked_at = self._session.clock.utcnow()
        job: ExportJob | None = None
        charged = False

        try:
            async with self._session.board.claim(key):
                job = await self._running(key, asked_at)
                if job is None:
                    job = await self.request(
                        cohort_id, wanted, allowance=allowance, record=record
                    )
                    charged = True
        except LimiterUnavailableError:
            # The turn was lost, but not what was bought in it.
            if job is None:
                raise

        if record is not None and not charged:
            await record.requested(job.token)

        return Begun(job, charged=charged)

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
        try:
            await job.wait(timeout=timeout)
        except ExportTimeoutError:
            # Still running: whoever asks next joins it.
            raise
        except ExportError:
            await self._take_down(job)
            raise

        await self._take_down(job)

        return await job.save(target, progress=progress)

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
                saved = await self._job(ticket).save(target, progress=progress)
                # In a thread, because a copy needs the digest.
                copy = partial(attrs.evolve, saved, unchanged=True)
                return await in_thread(copy, self._thread)

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

        return job if is_fresh or await _is_running(job) else None

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
        limiter = self._session.limiter

        if isinstance(limiter, Foresight):
            (seconds,) = limiter.expected_starts(1)
            if seconds >= 1:
                self._session.emit(QuotaWait(cohort_id=cohort_id, seconds=seconds))

    async def _take_down(self, job: ExportJob) -> None:
        ticket = from_token(job.token)

        if ticket.cohort_id is not None:
            with suppress(LimiterUnavailableError):
                key = export_key(ticket.cohort_id, ticket.properties)
                await self._session.board.remove(key, job.token)

    def _job(self, ticket: Ticket) -> ExportJob:
        return ExportJob(
            self._session, ticket, routes=self._routes, polling=self._polling
        )


async def _is_running(job: ExportJob) -> bool:
    try:
        return not (await job.poll()).done
    except ExportError:
        return False


def _is_intact(earlier: SavedExport, path: Path) -> bool:
    # In a worker thread.
    if earlier.path.absolute() != path.absolute() or not path.is_file():
        return False

    if path.stat().st_size != earlier.size:
        return False

    try:
        return _digest(path) == earlier.sha256
    except StorageError:
        # Changed before anybody asked for its digest.
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
