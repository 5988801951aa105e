"""Requests exports: none is sent twice, and none that is not needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import anyio
import attrs

from .._core import responses
from .._core.messages import Request
from .._core.requests import Endpoints, checked_properties
from .._core.retrying import was_refused
from .._core.tokens import (
    ExportRef,
    export_key,
    from_token,
    has_file,
    is_unchanged,
    to_token,
)
from .._io.cancellation import finish_despite_cancel, in_thread
from .._io.http.session import GRACE, Session, out_of_attempts
from .._io.limits.base import Permit
from .._io.limits.budget import Budget, Spend
from .._io.sinks.target import Target
from ..errors import (
    CohortsError,
    ExportError,
    ExportExpiredError,
    InvalidInputError,
    LimiterUnavailableError,
    TransportError,
)
from ..events import ExportRequested, QuotaWait
from ..models import Cohort, Region, SavedExport
from ..policies import Polling
from .downloader import Progress
from .job import ExportJob, keep_token
from .memory import AttemptLog, ExportMemory

_logger = logging.getLogger(__name__)

Wanted = bool | tuple[str, ...]
"""The user properties of an export: none, all, or these."""

_NO_RECORD = AttemptLog()


@attrs.frozen
class StartedExport:
    """A job, and whether this call spent an export on it."""

    job: ExportJob
    spent: bool


class ExportRequester:
    """Requests exports, joins running ones, and finds those that are unchanged."""

    def __init__(
        self,
        session: Session,
        *,
        endpoints: Endpoints,
        polling: Polling,
        region: Region | None,
        list_cohorts: Callable[[], Awaitable[list[Cohort]]],
        budget: Budget,
    ) -> None:
        self._session = session
        self._clock = session.context.clock
        self._emit = session.context.emit
        self._memory = ExportMemory(session.limiter, session.context.clock)
        self._budget = budget
        self._endpoints = endpoints
        self._polling = polling
        self._region = region
        self._list_cohorts = list_cohorts
        self._thread = anyio.CapacityLimiter(1)

    async def request(
        self,
        cohort_id: str,
        properties: bool | Sequence[str] = False,
        *,
        allowance: str | None = None,
        record: AttemptLog = _NO_RECORD,
    ) -> ExportJob:
        """Request an export; spends one."""
        wanted = checked_properties(properties)
        request = self._endpoints.request_export(cohort_id, properties=wanted)
        draft = ExportRef(
            request_id="", cohort_id=cohort_id, properties=wanted, region=self._region
        )
        self._announce_wait(cohort_id)

        async with self._budget.spend(allowance=allowance) as spend:
            async for attempt in self._session.attempts(request):
                with attempt:
                    return await self._attempt(request, draft, spend, record)

        raise out_of_attempts()

    def resume(self, request_id_or_token: str) -> ExportJob:
        """Return the job of an export that was requested before; sends nothing."""
        ref = from_token(request_id_or_token)

        if None not in {ref.region, self._region} and ref.region != self._region:
            raise InvalidInputError(
                f"export {ref.request_id} belongs to another region than this "
                f"client; use a client of its region"
            )

        return self._job(ref)

    async def join_or_request(
        self,
        cohort_id: str,
        wanted: Wanted,
        *,
        allowance: str | None = None,
        record: AttemptLog = _NO_RECORD,
    ) -> StartedExport:
        """Join the running export of the same cohort and properties, or request one."""
        asked_at = self._clock.utcnow()
        key = export_key(cohort_id, wanted)
        started: StartedExport | None = None

        try:
            async with self._memory.lock(key):
                job = await self._running(key, asked_at)
                if job is not None:
                    await record.requested(job.token)
                    started = StartedExport(job, spent=False)
                else:
                    job = await self.request(
                        cohort_id, wanted, allowance=allowance, record=record
                    )
                    started = StartedExport(job, spent=True)
        except LimiterUnavailableError:
            # The lock was lost, but not the export that was requested under it.
            if started is None:
                raise
        except asyncio.CancelledError as error:
            if started is not None:
                keep_token(error, started.job.token)
            raise

        return started

    async def resume_unless_expired(self, token: str) -> StartedExport | None:
        """Return an export that was requested before, unless it has expired."""
        job = self.resume(token)

        try:
            await job.poll()
        except ExportExpiredError:
            return None

        return StartedExport(job, spent=False)

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
        Return an earlier export at a target, or None if a new one is needed.

        Its file is downloaded again from the earlier job, which spends nothing, if
        it is gone or was changed, or only a token is given.

        Args:
            cohort: The cohort as listed now; None when it is not listed.
        """
        token = earlier if isinstance(earlier, str) else earlier.token
        ref = from_token(token)

        if (
            cohort is None
            or (ref.cohort_id, ref.properties) != (cohort.id, wanted)
            or not is_unchanged(cohort, ref)
        ):
            return None

        if isinstance(earlier, SavedExport):
            saved = await self.intact(earlier, target)
            if saved is not None:
                return saved

        if has_file(ref, now=self._clock.utcnow()):
            with suppress(ExportError):
                saved = await self._job(ref).download(
                    target.path, format=target.format.suffix, progress=progress
                )
                return attrs.evolve(saved, unchanged=True)

        return None

    async def intact(self, earlier: SavedExport, target: Target) -> SavedExport | None:
        """Return an earlier export, if its file is still at a target, unchanged."""

        def is_intact() -> bool:
            """Whether the file is at the target, as it was saved."""
            is_here = earlier.path.absolute() == target.path.absolute()

            return is_here and earlier.file.is_intact()

        if not await in_thread(is_intact, self._thread):
            return None

        return attrs.evolve(earlier, unchanged=True, downloaded=0, links=0)

    async def listed(self) -> Mapping[str, Cohort]:
        """Return the listed cohorts by id."""
        return {cohort.id: cohort for cohort in await self._list_cohorts()}

    async def _running(self, key: str, asked_at: datetime) -> ExportJob | None:
        ref = await self._memory.find(key)

        if ref is None:
            return None

        job = self._job(ref)

        # An export requested while this call waited for the lock need not be polled.
        if ref.requested_at is None or ref.requested_at < asked_at:
            try:
                await job.poll()
            except ExportError:
                return None

        return job

    async def _attempt(
        self, request: Request, draft: ExportRef, spend: Spend, record: AttemptLog
    ) -> ExportJob:
        sending: asyncio.Task[ExportJob | CohortsError] | None = None

        try:
            # The wait for a slot and the record of the attempt may be cancelled. Once
            # the request is sent, a cancellation waits for its answer.
            async with self._session.slot(request.kind) as permit:
                await _record_attempt(record)
                spend.commit()
                with self._session.purchase():
                    sending = asyncio.create_task(
                        self._send(request, draft, permit, record)
                    )
                    result = await finish_despite_cancel(sending, grace=GRACE)
        except LimiterUnavailableError:
            # The slot was lost, but not the export that was requested in it.
            job = _job_of(sending)
            if job is None:
                raise
            result = job
        except asyncio.CancelledError as error:
            job = _job_of(sending)
            if job is not None:
                keep_token(error, job.token)
            raise

        # Raised outside of the slot, which an answer of any kind ends normally.
        if isinstance(result, CohortsError):
            raise result
        return result

    async def _send(
        self, request: Request, draft: ExportRef, permit: Permit, record: AttemptLog
    ) -> ExportJob | CohortsError:
        """Send the one request that costs an export; return the job or the refusal."""
        try:
            response = await self._session.exchange(request, permit)
        except TransportError as error:
            await _record_refusal(record, error)
            raise

        if not response.is_success:
            refusal = self._session.refusal(request, response)
            await _record_refusal(record, refusal)
            return refusal

        now = self._clock.utcnow()
        ref = attrs.evolve(
            draft,
            request_id=responses.export_request_id(request, response),
            requested_at=now,
            as_of=responses.answered_at(response, now=now),
        )
        self._announce(ref)

        # The grace period is for the answer. Once it is in, its records are finished,
        # however long they take, and the task ends with the job.
        with suppress(asyncio.CancelledError):
            await finish_despite_cancel(self._remember(ref, record))

        return self._job(ref)

    async def _remember(self, ref: ExportRef, record: AttemptLog) -> None:
        await record.requested(to_token(ref))
        await self._memory.record(ref)

    def _announce(self, ref: ExportRef) -> None:
        cohort_id, request_id = str(ref.cohort_id), ref.request_id
        facts = {"cohort_id": cohort_id, "request_id": request_id}
        _logger.info("export requested", extra=facts)
        self._emit(ExportRequested(cohort_id=cohort_id, request_id=request_id))

    def _announce_wait(self, cohort_id: str) -> None:
        (seconds,) = self._session.limiter.expected_starts(1)

        if seconds >= 1:
            self._emit(QuotaWait(cohort_id=cohort_id, seconds=seconds))

    def _job(self, ref: ExportRef) -> ExportJob:
        return ExportJob(
            self._session,
            ref,
            endpoints=self._endpoints,
            polling=self._polling,
            memory=self._memory,
        )


async def _record_attempt(record: AttemptLog) -> None:
    try:
        await record.attempted()
    except asyncio.CancelledError:
        # The line may be on disk by now, and nothing will be sent.
        await finish_despite_cancel(record.refused())
        raise


async def _record_refusal(record: AttemptLog, error: CohortsError) -> None:
    if was_refused(error):
        await record.refused()


def _job_of(
    sending: asyncio.Task[ExportJob | CohortsError] | None,
) -> ExportJob | None:
    if sending is None or not sending.done() or sending.cancelled():
        return None

    result = sending.exception() or sending.result()
    return result if isinstance(result, ExportJob) else None
