"""
The exports of one app in its job store.

The only place where exports meet the store. `_core.claims` decides, this stores:
first what may be spent, then the bytes leave.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import attrs

from .._core.claims import Call, Claims, Decision, Join, Listing, Request
from .._core.job_rows import (
    SPENT,
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
    IsAlive,
)
from .._core.tokens import ExportRef, export_key
from .._io.cancellation import finish_despite_cancel
from .._io.context import Clock
from .._io.jobs.base import JobStore
from .._io.sinks.target import Target
from ..errors import JobStoreUnavailableError
from .app_rows import AppRows
from .claim import Claim, Delivery, facts_of, new_id

_logger = logging.getLogger(__name__)


@attrs.frozen
class Joined:
    """A spent export that a call goes on with, and the call's own delivery."""

    join: Join
    delivery: Delivery


Found: TypeAlias = Decision | Claim | Joined
"""What answers a call; a claim or a delivery is stored already."""


class AppJobs:
    """The exports, deliveries and writes of one app."""

    def __init__(
        self, store: JobStore, app: str, clock: Clock, *, label: str | None = None
    ) -> None:
        self.rows = AppRows(store, app, clock)
        self._clock = clock
        self._label = label

    @property
    def store(self) -> JobStore:
        """Where the rows are."""
        return self.rows.store

    async def aclose(self) -> None:
        """Store what is not stored yet."""
        await self.rows.aclose()

    def lock(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Return a lock that one task of this process holds for the same export."""
        key = export_key(call.cohort_id, call.properties)

        return self.store.lock(f"{self.rows.app}:{key}:{call.occurrence or ''}")

    async def begin(self, cohort_id: str) -> int:
        """Return the number of the cohort's last event."""
        await self.rows.settle()

        return await self.rows.change(cohort_id, lambda rows, *_: rows.sequence)

    async def claim(
        self, call: Call, listing: Listing | None, *, is_new: bool = False
    ) -> Found:
        """
        Decide which export answers a call, and store the claim or the delivery.

        Args:
            is_new: Whether only a new export will do.

        Raises:
            JobStoreUnavailableError: The store does not tell; nothing was sent.
        """

        made: Found | None = None

        def work(rows: CohortRows, is_alive: IsAlive, now: float) -> Found:
            """Decide and store within one transaction."""
            nonlocal made
            at = self._clock.utcnow()
            rows.prune(at, is_alive)
            claims = Claims(
                rows=rows, call=call, at=at, is_alive=is_alive, listing=listing
            )
            made = Request() if is_new else claims.decide()

            match made:
                case Request(export):
                    made = self._claimed(rows, call, export, now)
                case Join(export, delivery):
                    if delivery is not None and is_alive(delivery.lease):
                        delivery = None
                    mine = self._delivery(rows, call, export, delivery, now)
                    made = Joined(made, mine)

            return made

        try:
            return await self.rows.change(call.cohort_id, work)
        except asyncio.CancelledError:
            # What was stored meanwhile, nobody goes on with.
            match made:
                case Claim():
                    await finish_despite_cancel(made.release())
                case Joined():
                    await finish_despite_cancel(made.delivery.release())
            raise

    async def deliver(
        self,
        ref: ExportRef,
        target: str | None,
        format: str | None,  # noqa: A002
    ) -> Delivery:
        """
        Begin the delivery of a spent export that the caller names.

        A store that fails does not hold it up.
        """
        if ref.cohort_id is None:
            return Delivery(self.rows, "", "", None)

        call = Call(
            cohort_id=ref.cohort_id,
            properties=ref.properties,
            target=target,
            format=format,
        )

        def work(rows: CohortRows, _alive: IsAlive, now: float) -> Delivery:
            """Find the export, or add it; and add the delivery."""
            at = self._clock.utcnow()
            export = rows.of_request(ref.request_id)
            if export is None:
                export = rows.change(
                    ExportRow(
                        id=new_id(),
                        cohort_id=call.cohort_id,
                        created_at=ref.requested_at or at,
                    ),
                    at=at,
                    **facts_of(ref),
                )

            return self._delivery(rows, call, export, None, now)

        try:
            return await self.rows.change(call.cohort_id, work)
        except JobStoreUnavailableError:
            _logger.warning("the delivery cannot be stored", exc_info=True)
            return Delivery(self.rows, "", "", None)

    async def record_write(self, cohort_id: str) -> None:
        """
        Record that a write to a cohort is about to be sent.

        Raises:
            JobStoreUnavailableError: Do not send it: a later export would not know.
        """

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Give the write its place in the order."""
            rows.written = rows.next_number()

        await self.rows.change(cohort_id, work)

    async def mark(self, ref: ExportRef, state: ExportState) -> None:
        """Store what became of a spent export, if it is known and not put aside."""

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Change its state."""
            export = rows.of_request(ref.request_id)
            if export is not None and export.state in SPENT - {state}:
                rows.change(export, at=self._clock.utcnow(), state=state)

        if ref.cohort_id is not None:
            await self.rows.save(ref.cohort_id, work)

    async def saved_before(
        self,
        cohort_id: str,
        target: str,
        format: str,  # noqa: A002
    ) -> DeliveryRow | None:
        """Return the last delivery of a cohort to a target."""

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> DeliveryRow | None:
            """Look for the last of them."""
            found = [
                (each.finished_at, each.sequence, each.id)
                for each in rows.deliveries.values()
                if each.finished_at is not None
                and (each.target, each.format) == (target, format)
            ]
            return rows.deliveries[max(found)[2]] if found else None

        return await self.rows.change(cohort_id, work)

    def _claimed(
        self, rows: CohortRows, call: Call, export: ExportRow | None, now: float
    ) -> Claim:
        at = self._clock.utcnow()
        self._give_up_unknown(rows, call)
        export = export or ExportRow(
            id=new_id(),
            cohort_id=call.cohort_id,
            properties=call.properties,
            occurrence=call.occurrence,
            created_at=at,
            label=self._label,
        )
        number = export.claims + 1
        export = rows.change(
            export, at=at, claims=number, lease=self.rows.lease(number, now)
        )
        delivery = self._delivery(rows, call, export, None, now)

        return Claim(self.rows, export, delivery)

    def _give_up_unknown(self, rows: CohortRows, call: Call) -> None:
        # An attempt that gets here is too old to be adopted, or its caller said so.
        for each in list(rows.exports.values()):
            if each.state is ExportState.ATTEMPTED and (
                each.properties,
                each.occurrence,
            ) == (call.properties, call.occurrence):
                _logger.warning(
                    "an export of cohort %s may have been spent at %s, and its id was "
                    "never known; a new one is requested",
                    each.cohort_id,
                    each.attempted_at,
                )
                rows.forget(each)

    def _delivery(
        self,
        rows: CohortRows,
        call: Call,
        export: ExportRow,
        left: DeliveryRow | None,
        now: float,
    ) -> Delivery:
        left = left or DeliveryRow(
            id=new_id(),
            export_id=export.id,
            target=call.target,
            format=call.format,
            begun_at=self._clock.utcnow(),
        )
        number = left.lease.number + 1 if left.lease else 1
        row = rows.deliver(
            left,
            sequence=export.sequence,
            run=call.run,
            lease=self.rows.lease(number, now),
        )

        return Delivery(self.rows, call.cohort_id, row.id, row)


def target_name(target: Target) -> str:
    """Return a target as its host and path."""
    return f"{socket.gethostname()}:{target.place}"
