"""
One export in steps, for those whose engine sleeps in between.

They are the steps of `export()`, with the same parts: `claims` decides which export
answers, `purchase` requests it, `polling` tells when to poll, and `spent_export` saves
the file. A step reads the store anew and holds a lease, sends at most one request or
brings the file, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import TypeVar, assert_never

import anyio.to_thread
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
    checked_occurrence,
    checked_on_unknown,
)
from .._core.ids import checked_id
from .._core.job_rows import ExportRow, ExportState
from .._core.known_usage import KnownUsage
from .._core.polling import next_poll, step_due_in
from .._core.requests import checked_properties
from .._core.retrying import may_ask_again, was_refused
from .._core.tokens import from_token
from .._io.cancellation import finish_despite_cancel
from .._io.context import PhaseResult
from .._io.http.session import Session
from .._io.sinks.target import Target, checked_target
from .._io.waits import next_poll_of
from ..errors import (
    CohortsError,
    ExportExpiredError,
    ExportFailedError,
    IncompleteDownloadError,
    InvalidInputError,
    JobStoreUnavailableError,
    LimiterUnavailableError,
    QuotaWaitError,
    RateLimitedError,
    ServerError,
)
from ..models import JobRecord, Tick, has_own_name
from ..policies import Polling
from .app_jobs import Found, Joined, changed_record, for_delivery, target_name
from .claim import Claim, Delivery
from .requester import ExportRequester
from .unchanged import ref_of, saved_of

T = TypeVar("T")

_BESIDE = 1.0
"""Seconds between looks at what another caller does with the same export."""


@attrs.frozen(kw_only=True)
class Ticker:
    """Makes the steps of exports."""

    exports: ExportRequester
    session: Session
    polling: Polling

    async def tick(self, record: JobRecord) -> Tick:
        """Make the next step of an export; see `CohortsClient.tick()`."""
        with self._phase(record) as phase:
            return await self._tick(record, phase)

    async def _tick(self, record: JobRecord, phase: PhaseResult) -> Tick:
        try:
            step = await self._prepared_step(record, phase)
        except JobStoreUnavailableError as error:
            return self._put_off(record, error)
        except CohortsError as error:
            # Its folder may be gone, say: it is spent all the same.
            error.token = error.token or getattr(record, "token", None)
            raise

        return step.told(await step.outcome(step.make()))

    def _put_off(self, record: JobRecord, error: JobStoreUnavailableError) -> Tick:
        """Return the tick of a step that found no job store."""
        context, due_in = self.session.context, self.polling.interval
        context.waits.tell_between(
            record.delivery_id or "",
            f"the job store: {error}",
            due_in,
            now=context.clock.now(),
            cohort_id=record.cohort_id,
        )

        return Tick(record=record, due_in=due_in, last_error=error)

    async def go_on(self, record: JobRecord) -> Tick | None:
        """Make the next step of an export that is spent, unless another caller does."""
        with self._phase(record) as phase:
            step = await self._prepared_step(record, phase)
            tick = await step.outcome(step.go_on())
            return None if tick is None else step.told(tick)

    def _phase(self, record: object) -> AbstractContextManager[PhaseResult]:
        # What is no record is refused in it.
        cohort_id = getattr(record, "cohort_id", None)
        return self.session.context.phase("tick", cohort_id=cohort_id)

    async def _prepared_step(self, record: JobRecord, phase: PhaseResult) -> _Step:
        """Return the next step of an export, and check all that a user gave."""
        record = await self._named(record)
        call = _call_of(record)
        target = await anyio.to_thread.run_sync(
            checked_target, record.to or "", record.format
        )
        call = attrs.evolve(
            call,
            target=target_name(target),
            format=target.format.suffix,
            traceparent=self.session.context.traceparent(),
        )

        return _Step(self, record, call, target, phase)

    async def _named(self, record: JobRecord) -> JobRecord:
        """Return a record with a target: that of the store's, for a listed one."""
        if not isinstance(record, JobRecord):
            raise InvalidInputError(
                f"a tick takes a JobRecord, of JobRecord.new() or of the last tick, "
                f"not a {type(record).__name__}"
            )
        if record.delivery_id is not None:
            return record
        if (record.to, record.format) != (None, None):
            raise changed_record(record.cohort_id)

        return for_delivery(record, await self.exports.jobs.delivery_of(record))


class _Step:
    """One step of one export."""

    def __init__(
        self,
        ticker: Ticker,
        record: JobRecord,
        call: Call,
        target: Target,
        phase: PhaseResult,
    ) -> None:
        self._exports = ticker.exports
        self._session = ticker.session
        self._polling = ticker.polling
        self._context = ticker.session.context
        self._record = record
        self._call = call
        self._target = target
        self._phase = phase
        self._claim: Claim | None = None
        self._delivery: Delivery | None = None
        self._waits_for = ""

    async def make(self) -> Tick:
        """Make the step."""
        found = await self._find()

        match found:
            case Claim():
                return await self._request(found)
            case Joined():
                return await self._advance(found.join.export, found.delivery)
            case Delivered():
                return await self._answer(found)
            case WaitForOther():
                return self._later(_BESIDE)
            case Doubt() | Superseded() | Ended():
                with self._without_waiting(None):
                    raise await self._exports.refusal(self._call, found)
            case ReadList(export):
                return await self._read_list(export)
            case _:
                assert_never(found)

    async def go_on(self) -> Tick | None:
        """Make the step, if the export is spent and no other caller goes on with it."""
        found = await self._find()

        match found:
            case Joined():
                return await self._advance(found.join.export, found.delivery)
            case Claim():
                await found.release()
            case _:
                pass

        return None

    async def outcome(self, making: Awaitable[T]) -> T | Tick:
        """Return what a step returns, or the tick of one that a later one can mend."""
        try:
            return await making
        except CohortsError as error:
            if not _can_be_mended(error):
                # What was not sent is forgotten: the next step would fail as well.
                if self._claim is not None:
                    await self._claim.withdraw()
                raise
            return await self._failed(error)

    def told(self, tick: Tick) -> Tick:
        """Tell of the wait until the next step; return the tick."""
        waits, record = self._context.waits, tick.record
        # It is the same in each step, and every record has it by now.
        who = self._record.delivery_id or ""

        if self._waits_for and tick.due_in:
            waits.tell_between(
                who,
                self._waits_for,
                tick.due_in,
                now=self._context.clock.now(),
                cohort_id=record.cohort_id,
                request_id=record.request_id,
            )
        else:
            waits.went_on(who)

        return tick

    @contextmanager
    def _without_waiting(self, ticket: str | None) -> Generator[None]:
        with self._session.without_waiting(ticket) as request:
            try:
                yield
            finally:
                self._waits_for = request.waits_for

    async def _failed(self, error: CohortsError) -> Tick:
        if isinstance(error, QuotaWaitError):
            return await self._put_back(error.seconds, ticket=error.ticket)

        self._waits_for = (
            "the end of the pause after a 429"
            if isinstance(error, RateLimitedError)
            else f"the next step, because this one failed: {error}"
        )
        retry_after: float | None = getattr(error, "retry_after", None)
        due_in = max(retry_after or 0.0, self._polling.interval)

        changes: dict[str, object] = {}
        if self._claim is not None and isinstance(error, RateLimitedError):
            # The quota may be used up: others have spent since the usage was read.
            self._exports.budget.discard_reading()
            changes = {"usage": KnownUsage()}

        try:
            tick = await self._put_back(due_in, **changes)
        except JobStoreUnavailableError:
            self._name_attempt(error)
            tick = self._later(due_in)

        return attrs.evolve(tick, last_error=error)

    def _name_attempt(self, error: CohortsError) -> None:
        """Name what may be spent in the record: the store may forget it."""
        may_be_spent = isinstance(error, ServerError) or getattr(
            error, "may_have_happened", False
        )
        if self._claim is not None and may_be_spent and not was_refused(error):
            self._record = attrs.evolve(
                self._record,
                id=self._claim.export.id,
                state=ExportState.ATTEMPTED.value,
            )

    async def _find(self, listing: Listing | None = None) -> Found:
        found = await self._exports.jobs.claim(self._call, listing)

        match found:
            case Claim():
                self._claim, self._delivery = found, found.delivery
            case Joined():
                self._delivery = found.delivery
                self._phase.is_about(found.join.export.ref())
                earlier = found.join.delivery
                if found.join.is_adopted and not (earlier and earlier.is_adopted):
                    self._exports.announce_adoption(found.join.export.ref())
            case _:
                pass

        return found

    async def _read_list(self, export: ExportRow) -> Tick:
        """Read the list, by which an export that was left may be taken up."""
        try:
            with self._without_waiting(export.ticket):
                listing = await self._exports.listing(self._call.cohort_id)
        except QuotaWaitError as error:
            # The place in the order is that export's, until there is one of this call.
            await self._exports.jobs.keep_ticket(export, error.ticket)
            raise

        found = await self._find(listing)

        match found:
            case Claim() | Joined():
                return await self._put_back(0.0, ticket=None)
            case Doubt() | Superseded() | Ended():
                # The list was this step's request.
                raise await self._exports.refusal(self._call, found, may_ask=False)
            case _:
                # Another caller was faster: the next step sees what it did.
                return self._later(0.0)

    async def _request(self, claim: Claim) -> Tick:
        export = claim.export

        with self._without_waiting(export.ticket):
            # Once for an export: between two steps it may be due again each time.
            if not export.usage.is_of_month(self._now()) and await self._read_usage(
                claim
            ):
                return await self._put_back(0.0, usage=self._exports.budget.known)

            spent = await self._exports.purchase(
                self._call, claim, None, known=export.usage
            )

        if spent is None:
            return self._later(_BESIDE)

        self._phase.is_about(spent.ref)
        # Also in the tick of a store that fails from now on.
        self._record = attrs.evolve(
            self._record,
            id=export.id,
            state=ExportState.REQUESTED.value,
            request_id=spent.ref.request_id,
            requested_at=spent.ref.as_of or spent.ref.requested_at,
            token=spent.token,
        )
        asked = attrs.evolve(export, requested_at=spent.ref.requested_at)
        return await self._poll_in(self._due_in(asked), spent.ref.request_id)

    async def _read_usage(self, claim: Claim) -> bool:
        """Read the month's usage if that is due; return whether it was asked for."""
        budget = self._exports.budget

        async with claim.held():
            if not await budget.read_if_due():
                return False
            async with budget.spend(known=budget.known):
                # There is room for one more: this reservation is taken back.
                return True

    async def _advance(self, export: ExportRow, delivery: Delivery) -> Tick:
        due_in = self._due_in(export)

        if due_in > 0:
            self._waits_for = next_poll_of(export.ref().request_id)
            return await self._put_back(due_in)

        if export.state is ExportState.READY:
            return await self._save(export, delivery)

        spent = self._exports.spent(export.ref())

        try:
            with self._without_waiting(export.ticket):
                async with delivery.held():
                    status = await spent.poll()
        except (ExportFailedError, ExportExpiredError):
            # The poll has recorded it.
            if delivery.row is None or not delivery.row.is_adopted:
                raise
            return self._later(0.0)

        delivery.polled()

        if status.done:
            return await self._put_back(0.0, ticket=None, state=ExportState.READY)

        seconds = next_poll(self._polling, jitter=self._context.rng())
        return await self._poll_in(seconds, export.ref().request_id)

    async def _answer(self, found: Delivered) -> Tick:
        """Answer from the record; bring the file again if it is gone."""
        saved = saved_of(found.delivery)

        if not found.is_final:
            saved = await self._exports.saved.answer(found.delivery, self._target)
        if saved is not None:
            saved = attrs.evolve(saved, unchanged=False)
            return attrs.evolve(self._later(None), done=True, saved=saved)

        ref = ref_of(found.delivery)
        again = await self._exports.jobs.deliver_again(self._call, ref)

        if again is None:
            return self._later(_BESIDE)

        self._delivery = again.delivery
        return await self._save(again.join.export, again.delivery)

    async def _save(self, export: ExportRow, delivery: Delivery) -> Tick:
        spent = self._exports.spent(export.ref())

        with self._without_waiting(export.ticket):
            saved = await spent.save(self._target, delivery, is_ready=True)

        try:
            tick = await self._put_back(None, ticket=None)
        except JobStoreUnavailableError:
            tick = self._later(None)

        delivery.answered()
        return attrs.evolve(tick, done=True, saved=saved)

    async def _put_back(self, due_in: float | None, **changes: object) -> Tick:
        """Leave the export to the next step, which has to know some changes."""
        if self._delivery is None:
            return self._later(due_in)

        # As a whole, or a cancelled step would hold a lease until that is over.
        stored = await finish_despite_cancel(self._stored(self._delivery, changes))
        mine = self._record

        if stored is not None:
            self._record = attrs.evolve(
                stored,
                to=mine.to,
                format=mine.format,
                on_unknown=mine.on_unknown,
                delivery_id=mine.delivery_id,
            )

        return self._later(due_in)

    async def _stored(
        self, delivery: Delivery, changes: Mapping[str, object]
    ) -> JobRecord | None:
        if self._claim is not None:
            await self._claim.release()

        return await delivery.put_back(**changes)

    async def _poll_in(self, seconds: float, request_id: str) -> Tick:
        poll_at = self._now() + timedelta(seconds=seconds)
        self._waits_for = next_poll_of(request_id)

        return await self._put_back(seconds, ticket=None, poll_at=poll_at)

    def _later(self, due_in: float | None) -> Tick:
        return Tick(record=self._record, due_in=due_in)

    def _due_in(self, export: ExportRow) -> float:
        return step_due_in(
            export, self._polling, now=self._now(), jitter=self._context.rng()
        )

    def _now(self) -> datetime:
        return self._context.clock.utcnow()


def _call_of(record: JobRecord) -> Call:
    """Return what a record asks for, checked."""
    cohort_id = checked_id(record.cohort_id, "cohort id")
    properties = checked_properties(record.properties)
    spent = None if record.token is None else from_token(record.token)

    if spent and (spent.cohort_id, spent.properties) != (cohort_id, properties):
        raise changed_record(cohort_id)

    return Call(
        cohort_id=cohort_id,
        properties=properties,
        occurrence=checked_occurrence(record.occurrence),
        on_unknown=checked_on_unknown(record.on_unknown),
        delivery_id=record.delivery_id,
        listed_path=None if has_own_name(record) else str(record.to),
        export_id=record.id or None,
        is_sent=spent is not None or record.state != ExportState.QUEUED.value,
        spent=spent,
    )


def _can_be_mended(error: CohortsError) -> bool:
    """Whether a later step may succeed."""
    if isinstance(error, LimiterUnavailableError | JobStoreUnavailableError):
        return True

    return may_ask_again(error) or isinstance(
        error, QuotaWaitError | IncompleteDownloadError
    )
