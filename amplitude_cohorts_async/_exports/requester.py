"""Requests exports: none is sent twice, and none that is not needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from copy import copy
from typing import assert_never
from weakref import WeakValueDictionary

import anyio
import attrs

from .._core.claims import (
    Call,
    Delivered,
    Doubt,
    Ended,
    Listing,
    ReadList,
    Superseded,
    WaitForOther,
)
from .._core.export_errors import ambiguous_export, ended_export, superseded_export
from .._core.ids import checked_id
from .._core.job_rows import DeliveryRow
from .._core.known_usage import KnownUsage
from .._core.requests import Endpoints, checked_properties
from .._core.tokens import (
    ExportRef,
    from_token,
)
from .._io.cancellation import finish_despite_cancel
from .._io.context import Context, PhaseResult
from .._io.http.session import Session
from .._io.jobs.base import JobStore
from .._io.limits.budget import Budget
from .._io.progress import Progress
from .._io.sinks.saved_file import to_record
from .._io.sinks.target import Target
from ..errors import (
    CohortsError,
    ExportExpiredError,
    ExportFailedError,
    InvalidInputError,
    QuotaWaitError,
)
from ..events import ExportAdopted, QuotaWait
from ..models import Cohort, Region, SavedExport, Usage
from ..policies import Polling
from .app_jobs import Answer, AppJobs, Joined
from .app_rows import pauses
from .claim import Claim, Delivery
from .poller import JobPoller
from .purchase import Purchase, SendWatch
from .spent_export import SpentExport
from .unchanged import SavedExports, ref_of, saved_of

_logger = logging.getLogger(__name__)


@attrs.frozen
class StartedExport:
    """
    The export that answers a call.

    Attributes:
        spent: Whether this call spent an export on it.
        delivery: The delivery that this call has begun, or goes on with.
        record: A delivery whose record answers the call; else None.
        is_final: Whether that record answers whatever became of the file.
    """

    export: SpentExport
    delivery: Delivery
    spent: bool = False
    record: DeliveryRow | None = None
    is_final: bool = False


class ExportRequester:
    """Requests exports, and joins running ones."""

    def __init__(
        self,
        session: Session,
        *,
        endpoints: Endpoints,
        polling: Polling,
        region: Region | None,
        list_cohorts: Callable[[], Awaitable[list[Cohort]]],
        read_usage: Callable[[], Awaitable[Usage]],
        budget: Budget,
        jobs: AppJobs,
    ) -> None:
        self._session = session
        self._clock = session.context.clock
        self._emit = session.context.emit
        self._waits = session.context.waits
        self.jobs = jobs
        self.budget = budget
        self._endpoints = endpoints
        self._polling = polling
        self._region = region
        self._list_cohorts = list_cohorts
        self._read_usage = read_usage
        self._pollers: WeakValueDictionary[ExportRef, JobPoller] = WeakValueDictionary()
        self._thread = anyio.CapacityLimiter(1)

    def keeping(self, store: JobStore) -> ExportRequester:
        """Return one that keeps its exports in another store."""
        other = copy(self)
        other.jobs = AppJobs(
            store, self.jobs.rows.app, self._clock, label=self.jobs.label
        )

        return other

    @property
    def context(self) -> Context:
        """The clock and the events of the client."""
        return self._session.context

    @property
    def saved(self) -> SavedExports:
        """The exports that were saved before."""
        return SavedExports(self.jobs, self._clock, self.spent, self._thread)

    async def request(
        self,
        cohort_id: str,
        properties: bool | Sequence[str] = False,
        *,
        allowance: str | None = None,
    ) -> StartedExport:
        """Request an export; spends one."""
        wanted = checked_properties(properties)
        call = Call(cohort_id=checked_id(cohort_id, "cohort id"), properties=wanted)

        with self._request_phase(call) as (call, phase):
            while True:
                claim = await self.jobs.claim_new(call)
                spent = await self.purchase(call, claim, allowance)
                if spent is not None:
                    phase.is_about(spent.ref)
                    return StartedExport(spent, claim.delivery, spent=True)

    @contextmanager
    def _request_phase(self, call: Call) -> Generator[tuple[Call, PhaseResult]]:
        """Report the phase that gets a call its export; yields the call, traced."""
        context = self.context

        with context.phase("request", cohort_id=call.cohort_id) as phase:
            yield attrs.evolve(call, traceparent=context.traceparent()), phase

    def resume(self, request_id_or_token: str) -> SpentExport:
        """Return the job of an export that was requested before; sends nothing."""
        ref = from_token(request_id_or_token)

        if None not in {ref.region, self._region} and ref.region != self._region:
            raise InvalidInputError(
                f"export {ref.request_id} belongs to another region than this "
                f"client; use a client of its region"
            )

        return self.spent(ref)

    async def join_or_request(
        self,
        call: Call,
        *,
        allowance: str | None = None,
        watch: SendWatch | None = None,
    ) -> StartedExport:
        """
        Go on with the export that answers a call, or request one.

        Raises:
            AmbiguousExportError: One may have been spent, and its id is not known.
            JobStoreUnavailableError: Nothing was sent.
        """
        with self._request_phase(call) as (traced, phase):
            started = await self._join_or_request(traced, allowance, watch)
            phase.is_about(started.export.ref)

        return started

    async def _join_or_request(
        self, call: Call, allowance: str | None, watch: SendWatch | None
    ) -> StartedExport:
        call = await self._begun(call)
        listing: Listing | None = None
        naps = pauses()

        async with AsyncExitStack() as stack:
            with self._waits.watch(
                f"a call for the same export of cohort {call.cohort_id}",
                cohort_id=call.cohort_id,
            ):
                await stack.enter_async_context(self.jobs.lock(call))

            while True:
                found = await self._found(call, listing, naps)

                match found:
                    case Claim():
                        spent = await self.purchase(call, found, allowance, watch)
                        if spent is not None:
                            return StartedExport(spent, found.delivery, spent=True)
                    case Joined():
                        started = await self._joined(found)
                        if started is not None:
                            return started
                    case Delivered(delivery, is_final):
                        return await self.answered(call, delivery, is_final)
                    case ReadList():
                        listing = await self.listing(call.cohort_id)
                    case Doubt() | Superseded() | Ended():
                        raise await self.refusal(call, found)
                    case _:
                        assert_never(found)

    async def _found(
        self, call: Call, listing: Listing | None, naps: Iterator[float]
    ) -> Answer:
        """Return what answers a call, once no other caller is about to request it."""
        found = await self.jobs.claim(call, listing)

        if not isinstance(found, WaitForOther):
            return found

        with self._waits.watch(
            f"another caller, whose lease of the export of cohort {call.cohort_id} holds",
            cohort_id=call.cohort_id,
        ):
            while isinstance(found, WaitForOther):
                await asyncio.sleep(next(naps))
                found = await self.jobs.claim(call, listing)

        return found

    async def save(
        self,
        started: StartedExport,
        target: Target,
        *,
        timeout: float = 1800.0,
        progress: Progress | None = None,
        is_ready: bool = False,
    ) -> SavedExport:
        """Save the file of a started export, if it is not at its target yet."""
        saved = saved_of(started.record)

        if started.record is not None and not started.is_final:
            async with started.export.tracked(), started.delivery.held():
                saved = await self.saved.answer(started.record, target)

        if saved is not None:
            await started.delivery.finished(to_record(saved))
        else:
            saved = await started.export.save(
                target,
                started.delivery,
                timeout=timeout,
                progress=progress,
                is_ready=is_ready,
            )

        started.delivery.answered()
        return attrs.evolve(saved, unchanged=False, spent=int(started.spent))

    async def listed(self) -> Mapping[str, Cohort]:
        """Return the listed cohorts by id."""
        return {cohort.id: cohort for cohort in await self._list_cohorts()}

    async def _begun(self, call: Call) -> Call:
        if call.since_sequence is not None:
            return call

        sequence = await self.jobs.last_sequence(call.cohort_id)
        return attrs.evolve(call, since_sequence=sequence)

    async def _joined(self, found: Joined) -> StartedExport | None:
        """Return a spent export, or None if it turns out to have no file."""
        ref = found.join.export.ref()
        spent = self.spent(ref)

        try:
            # One that was requested since the call began need not be polled.
            if found.join.is_adopted:
                await spent.poll()
                self.announce_adoption(ref)
        except (ExportFailedError, ExportExpiredError):
            # The poll has recorded it.
            return None
        except BaseException:
            await finish_despite_cancel(found.delivery.release())
            raise

        return StartedExport(spent, found.delivery, record=found.join.delivery)

    async def answered(
        self, call: Call, row: DeliveryRow, is_final: bool
    ) -> StartedExport:
        """Return the export of a delivered file, and a delivery for this call."""
        spent = self.spent(ref_of(row))
        delivery = await spent.deliver(call.target, call.format)

        return StartedExport(spent, delivery, record=row, is_final=is_final)

    async def listing(self, cohort_id: str) -> Listing:
        """Return what the list tells of a cohort; nothing, if it cannot be read."""
        try:
            cohorts = await self.listed()
        except QuotaWaitError:
            raise
        except CohortsError:
            _logger.warning("the list could not be read; the export is taken up")
            return Listing()

        return Listing(cohort=cohorts.get(cohort_id))

    async def refusal(
        self, call: Call, found: Doubt | Superseded | Ended, *, may_ask: bool = True
    ) -> CohortsError:
        """
        Return the error for a call that no export can answer.

        Args:
            may_ask: Whether the usage may be read, to tell it.
        """
        if isinstance(found, Superseded):
            return superseded_export(found.export, str(call.target))
        if isinstance(found, Ended):
            return ended_export(found.export, now=self._clock.utcnow())

        used_now: int | None = None

        if may_ask:
            with suppress(CohortsError):
                used_now = (await self._read_usage()).used

        return ambiguous_export(found.export, used_now=used_now)

    async def purchase(
        self,
        call: Call,
        claim: Claim,
        allowance: str | None,
        watch: SendWatch | None = None,
        *,
        known: KnownUsage | None = None,
    ) -> SpentExport | None:
        """
        Request the export of a claim; return None if the claim was lost.

        Args:
            known: As for `Budget.spend()`.
        """
        purchase = Purchase(
            self._session,
            self._endpoints.request_export(call.cohort_id, properties=call.properties),
            ExportRef(
                request_id="",
                cohort_id=call.cohort_id,
                properties=call.properties,
                region=self._region,
                traceparent=claim.export.traceparent,
            ),
            claim,
            watch or SendWatch(),
            known=known,
        )
        self._announce_wait(call.cohort_id)
        ref = await purchase.run(self.budget, allowance)

        return None if ref is None else self.spent(ref)

    def announce_adoption(self, ref: ExportRef) -> None:
        """Tell that a call goes on with an export that an earlier one requested."""
        requested_at = ref.as_of or ref.requested_at or self._clock.utcnow()
        cohort_id, request_id = str(ref.cohort_id), ref.request_id
        _logger.info(
            "took up the export of cohort %s that was requested at %s; "
            "reuse_within=0 requests a new one",
            cohort_id,
            requested_at,
            extra={"cohort_id": cohort_id, "request_id": request_id},
        )
        self._emit(
            ExportAdopted(
                cohort_id=cohort_id, request_id=request_id, requested_at=requested_at
            )
        )

    def _announce_wait(self, cohort_id: str) -> None:
        (seconds,) = self._session.limiter.expected_starts(1)

        if seconds >= 1:
            self._emit(QuotaWait(cohort_id=cohort_id, seconds=seconds))

    def spent(self, ref: ExportRef) -> SpentExport:
        """Return an export that was spent."""
        # Those who share an export share its poller: its status is asked for once.
        poller = self._pollers.get(ref)

        if poller is None:
            poller = JobPoller(
                self._session, ref, endpoints=self._endpoints, polling=self._polling
            )
            self._pollers[ref] = poller

        return SpentExport(
            self._session, ref, endpoints=self._endpoints, poller=poller, jobs=self.jobs
        )
