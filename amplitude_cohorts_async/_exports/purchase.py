"""The one request that costs an export, and what is recorded before and after it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import attrs

from .._core import responses
from .._core.known_usage import KnownUsage
from .._core.messages import Request
from .._core.retrying import was_refused
from .._core.tokens import ExportRef, to_token
from .._io.cancellation import finish_despite_cancel
from .._io.http.session import GRACE, Session
from .._io.limits.base import Permit
from .._io.limits.budget import Budget, Spend
from ..errors import CohortsError, LimiterUnavailableError, TransportError
from ..events import ExportRequested
from .claim import Claim, ClaimLostError
from .spent_export import keep_token

_logger = logging.getLogger(__name__)


class SendWatch:
    """Is told whether a request for an export is on its way; this one ignores it."""

    def sent(self) -> None:
        """The request is about to be sent, and cannot be withdrawn."""

    def refused(self) -> None:
        """The last request spent no export."""


@attrs.frozen
class Purchase:
    """
    The request of one claimed export.

    Attributes:
        draft: The export, without what only the answer tells.
        known: The month's usage, if an earlier step has read it.
    """

    session: Session
    request: Request
    draft: ExportRef
    claim: Claim
    watch: SendWatch
    known: KnownUsage | None = None

    async def run(self, budget: Budget, allowance: str | None) -> ExportRef | None:
        """Return the export that was spent, or None if the claim was lost."""
        spent: ExportRef | None = None

        try:
            with suppress(ClaimLostError):
                async with (
                    self.claim.held(),
                    budget.spend(allowance=allowance, known=self.known) as spend,
                ):
                    async for attempt in self.session.attempts(self.request):
                        with attempt:
                            spent = await self._attempt(spend)
                            break
        except asyncio.CancelledError as error:
            # Spent, and the claim was about to be left.
            if spent is not None:
                keep_token(error, to_token(spent))
            raise

        return spent

    async def _attempt(self, spend: Spend) -> ExportRef:
        sending: asyncio.Task[ExportRef | CohortsError] | None = None

        try:
            # The wait for a slot and the record of the attempt may be cancelled. Once
            # the request is sent, a cancellation waits for its answer.
            async with self.session.slot(self.request.kind) as permit:
                await self._record_attempt(spend)
                self.watch.sent()
                spend.commit()
                with self.session.purchase():
                    sending = asyncio.create_task(self._send(permit))
                    result = await finish_despite_cancel(sending, grace=GRACE)
        except LimiterUnavailableError:
            # The slot was lost, but not the export that was requested in it.
            spent = _spent_by(sending)
            if spent is None:
                raise
            result = spent
        except asyncio.CancelledError as error:
            spent = _spent_by(sending)
            if spent is not None:
                keep_token(error, to_token(spent))
            raise

        # Raised outside of the slot, which an answer of any kind ends normally.
        if isinstance(result, CohortsError):
            raise result
        return result

    async def _send(self, permit: Permit) -> ExportRef | CohortsError:
        """Send the one request that costs an export; return the export or a refusal."""
        try:
            response = await self.session.exchange(self.request, permit)
        except TransportError as error:
            await self._record_refusal(error)
            raise

        if not response.is_success:
            refusal = self.session.refusal(self.request, response)
            await self._record_refusal(refusal)
            return refusal

        now = self.session.context.clock.utcnow()
        ref = attrs.evolve(
            self.draft,
            request_id=responses.export_request_id(self.request, response),
            requested_at=now,
            as_of=responses.answered_at(response, now=now),
        )
        self._announce(ref)

        # The grace period is for the answer. Once it is in, its record is finished,
        # however long it takes, and the task ends with the export.
        with suppress(asyncio.CancelledError):
            await finish_despite_cancel(self.claim.requested(ref))

        return ref

    async def _record_attempt(self, spend: Spend) -> None:
        try:
            await self.claim.attempted(used=spend.used)
        except BaseException:
            # It may be stored by now, and nothing will be sent.
            await finish_despite_cancel(self.claim.refused())
            raise

    async def _record_refusal(self, error: CohortsError) -> None:
        if was_refused(error):
            await self.claim.refused()
            self.watch.refused()

    def _announce(self, ref: ExportRef) -> None:
        cohort_id, request_id = str(ref.cohort_id), ref.request_id
        facts = {"cohort_id": cohort_id, "request_id": request_id}
        _logger.info("export requested", extra=facts)
        self.session.context.emit(
            ExportRequested(cohort_id=cohort_id, request_id=request_id)
        )


def _spent_by(
    sending: asyncio.Task[ExportRef | CohortsError] | None,
) -> ExportRef | None:
    if sending is None or not sending.done() or sending.cancelled():
        return None

    result = sending.exception() or sending.result()
    return result if isinstance(result, ExportRef) else None
