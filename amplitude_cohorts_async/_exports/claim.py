"""
The claim of an export, and its delivery: what one call may do with a job store's rows.

Every step is recorded before what it allows. A claim is a lease with a number: who
has lost it can change nothing, and only the id of what was spent is always recorded.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

import attrs

from .._core.claims import Publishing, when_to_publish
from .._core.job_rows import (
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
    job_record,
)
from .._core.tokens import ExportRef, to_token
from .._io.cancellation import finish_despite_cancel
from ..errors import JobStoreUnavailableError
from ..models import JobRecord
from .app_rows import AppRows, Change, pauses

_logger = logging.getLogger(__name__)

_NOTE_INTERVAL = 1.0
"""Seconds between two records of how far a download is."""


class ClaimLostError(Exception):
    """Another process took over the claim of an export; nothing was sent."""


class _Leased(ABC):
    """A row of which one call holds the lease."""

    def __init__(self, app: AppRows, cohort_id: str) -> None:
        self._app = app
        self._cohort_id = cohort_id

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Renew the lease until the context is left; an error gives it up."""
        try:
            async with self._app.renewed(self._renew):
                yield
        except BaseException:
            await finish_despite_cancel(self.release())
            raise

    @abstractmethod
    async def release(self) -> None:
        """Give the lease up."""

    @abstractmethod
    def extend(self, rows: CohortRows) -> None:
        """Extend the lease, if it is still this call's."""

    async def _renew(self) -> None:
        await self._app.transact(self._cohort_id, self.extend)


class Delivery(_Leased):
    """
    The delivery of an export to one call.

    Attributes:
        row: As it was begun; None if the store does not keep it.

    Args:
        replaces: As in `when_to_publish()`: for an export that the caller names.
    """

    def __init__(
        self,
        app: AppRows,
        cohort_id: str,
        row: DeliveryRow | None,
        *,
        replaces: int = 0,
    ) -> None:
        super().__init__(app, cohort_id)
        self.row = row
        self._replaces = replaces
        self._next_note: float | None = None

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Hold the delivery's lease: no other call goes on with it meanwhile."""
        if self.row is None:
            yield
            return

        async with super().held():
            yield

    async def release(self) -> None:
        """Give the lease up; the next call may go on with the delivery."""
        await self._change()

    def received(self, count: int) -> None:
        """Record how many bytes have come, if the last time is a second ago."""
        now = self._app.now()

        if self._next_note is None:
            self._next_note = now + _NOTE_INTERVAL
        elif self.row is not None and now >= self._next_note:
            self._next_note = now + _NOTE_INTERVAL
            self._app.in_background(self._change(received=count, is_over=False))

    async def begin_publishing(self) -> bool:
        """
        Return whether the file may be renamed to its target, and record that it is.

        Waits until no other export is being renamed there. False is returned if a
        newer one is there.
        """
        row = self.row

        if row is None:
            return True

        with self._app.waits.watch(
            f"another export, which is being saved at {row.target}",
            cohort_id=self._cohort_id,
        ):
            return await self._wait_to_publish(row)

    async def _wait_to_publish(self, row: DeliveryRow) -> bool:
        when, waits = Publishing.NOW, pauses()
        seconds_left = self._app.store.lease

        while True:
            try:
                when, self.row = await self._app.transact(
                    self._cohort_id, partial(self._begin_publishing, row)
                )
                seconds_left = self._app.store.lease
            except JobStoreUnavailableError:
                # Who is waited for cannot renew its lease either.
                if when is Publishing.NOW or seconds_left <= 0:
                    _logger.warning("the job store does not tell what is at a target")
                    return True

            if when is not Publishing.LATER:
                return when is Publishing.NOW

            wait = next(waits)
            await asyncio.sleep(wait)
            seconds_left -= wait

    async def finished(self, saved: Mapping[str, object] | None) -> None:
        """Record that the file got its name, or that the stream was read to its end."""

        def work(rows: CohortRows) -> None:
            """Change the delivery, and its export."""
            delivery = self.row and rows.deliveries.get(self.row.id, self.row)
            if delivery is None:
                return
            rows.update_delivery(
                delivery, finished_at=rows.at, saved=saved, answered_at=None
            )
            export = rows.exports.get(delivery.export_id)
            if export is not None and export.state is ExportState.REQUESTED:
                rows.update_export(export, state=ExportState.READY)

        await self._save(work)

    def answered(self) -> None:
        """Record that the call returned its result; call it last."""
        if self.row is not None:
            self._app.in_background(self._change(answered_at=self._app.utcnow()))

    def extend(self, rows: CohortRows) -> None:
        """Extend its lease, if it is still this call's."""
        delivery = self._held_row(rows)

        if delivery is not None and delivery.lease is not None:
            lease = self._app.lease(delivery.lease.number, rows.now)
            rows.update_delivery(delivery, lease=lease)

    def _begin_publishing(
        self, mine: DeliveryRow, rows: CohortRows
    ) -> tuple[Publishing, DeliveryRow]:
        """Decide, and take the lease if it may be renamed now."""
        row = self._stored(rows) or mine
        when = when_to_publish(rows, row, replaces=self._replaces)

        if when is not Publishing.NOW:
            return when, mine

        if self._held_row(rows) is not None and row.lease is not None:
            number = row.lease.number
        else:
            number = row.next_number
            if rows.is_alive(row.lease):
                # Another call goes on with it: this one has a delivery of its own.
                row = attrs.evolve(row, id=new_id())

        return when, rows.update_delivery(
            row,
            publisher=number,
            lease=self._app.lease(number, rows.now),
            finished_at=None,
            answered_at=None,
            saved=None,
        )

    async def _change(self, *, is_over: bool = True, **changes: object) -> None:
        def work(rows: CohortRows) -> None:
            """Change the delivery, and give its lease up if this call is over."""
            delivery, held = self._stored(rows), self._held_row(rows)
            if is_over and held is not None and held.lease is not None:
                changes["lease"] = held.lease.ended()
            if delivery is not None and changes:
                rows.update_delivery(delivery, **changes)

        await self._save(work)

    def polled(self) -> None:
        """Note that its export has a status: the call goes on with no other now."""
        if self.row is not None:
            self.row = attrs.evolve(self.row, is_adopted=False)

    async def put_back(self, **changes: object) -> JobRecord | None:
        """
        Give the lease up between two steps, and record what the next one must know.

        Returns the export, or None if it is not stored any more.

        Args:
            changes: Of the export; nothing is changed if another call goes on with
                the delivery.
        """

        def work(rows: CohortRows) -> JobRecord | None:
            """Change both, if nobody else has taken the delivery."""
            delivery, held = self._stored(rows), self._held_row(rows)
            if delivery is None or delivery.export_id not in rows.exports:
                return None
            export = rows.exports[delivery.export_id]
            if self.row and held is not None and held.lease is not None:
                rows.update_delivery(
                    held,
                    lease=held.lease.ended(),
                    is_adopted=self.row.is_adopted,
                )
                export = rows.update_export(export, **changes)
            return job_record(rows, export)

        return await self._app.transact(self._cohort_id, work)

    def _stored(self, rows: CohortRows) -> DeliveryRow | None:
        return self.row and rows.deliveries.get(self.row.id)

    def _held_row(self, rows: CohortRows) -> DeliveryRow | None:
        """Return the delivery, if its lease is still this call's."""
        delivery = self._stored(rows)
        lease, mine = delivery and delivery.lease, self.row and self.row.lease

        return delivery if lease and mine and lease.number == mine.number else None

    async def _save(self, work: Change[None]) -> None:
        if self.row is not None and not await self._app.save(self._cohort_id, work):
            _logger.warning("a delivery of cohort %s is not stored", self._cohort_id)


class Claim(_Leased):
    """
    The right of one call to request an export.

    Args:
        is_kept: Whether an export for which nothing was sent stays queued when the
            claim is given up, for the call's next step.
    """

    def __init__(
        self,
        app: AppRows,
        export: ExportRow,
        delivery: Delivery,
        *,
        is_kept: bool = False,
    ) -> None:
        super().__init__(app, export.cohort_id)
        self.export = export
        self.delivery = delivery
        self._is_kept = is_kept

    async def release(self) -> None:
        """
        Give the claim and its delivery up.

        The next call goes on with both; an export for which nothing was sent is
        forgotten with them, unless it is kept.
        """
        await self._app.save(self._cohort_id, self._release)
        await self.delivery.release()

    async def withdraw(self) -> None:
        """Give the claim up, and forget an export for which nothing was sent."""
        self._is_kept = False
        await self.release()

    async def attempted(self, *, used: int | None) -> None:
        """
        Record durably that a request is about to be sent.

        Raises:
            ClaimLostError: Another process took the claim over.
            JobStoreUnavailableError: It cannot be recorded.
        """

        def work(rows: CohortRows) -> bool:
            """Record it, if the claim is still this call's."""
            export = self._held_row(rows)
            if export is None or export.state is not ExportState.QUEUED:
                return False

            is_again = _give_up_unknown(rows, export)
            number = rows.next_sequence()
            rows.update_export(
                export,
                state=ExportState.ATTEMPTED,
                sequence=number,
                attempted_at=rows.at,
                used=used,
                is_again=is_again or export.is_again,
            )
            self._number_delivery(rows, export.id, number)
            return True

        if not await self._app.transact(self._cohort_id, work):
            raise ClaimLostError

    async def refused(self) -> None:
        """Record that the last request spent no export; never raises."""

        def work(rows: CohortRows) -> None:
            """Put it back into the queue."""
            export = self._held_row(rows)
            if export is not None and export.state is ExportState.ATTEMPTED:
                rows.update_export(
                    export,
                    state=ExportState.QUEUED,
                    sequence=0,
                    attempted_at=None,
                )

        await self._app.save(self._cohort_id, work)

    async def requested(self, ref: ExportRef) -> None:
        """
        Record the id of the export that was spent, even if the claim was lost.

        It never raises.
        """

        def work(rows: CohortRows) -> None:
            """Record it: as a row of its own, if the attempt's was replaced."""
            export = self._held_row(rows)
            # A store that failed after this was stored is given it again.
            if export is None or not (
                export.state is ExportState.ATTEMPTED
                or export.request_id == ref.request_id
            ):
                export = rows.of_request(ref.request_id) or attrs.evolve(
                    self.export,
                    id=new_id(),
                    sequence=rows.next_sequence(),
                    attempted_at=rows.at,
                )
            rows.update_export(export, lease=None, **facts_of(ref))
            self._number_delivery(rows, export.id, export.sequence)

        if not await self._app.save(self._cohort_id, work):
            _logger.warning(
                "an export was spent, and the job store cannot record it; its token is "
                "%s",
                to_token(ref),
            )

    def extend(self, rows: CohortRows) -> None:
        """Extend its lease and that of its delivery, if they are still this call's."""
        export = self._held_row(rows)

        if export is not None and export.lease is not None:
            lease = self._app.lease(export.claims, rows.now)
            rows.exports[export.id] = attrs.evolve(export, lease=lease)
            self.delivery.extend(rows)

    def _release(self, rows: CohortRows) -> None:
        export = self._held_row(rows)

        if export is None:
            return
        if export.state is not ExportState.QUEUED or self._is_kept:
            rows.update_export(export, lease=None)
            return

        if self.delivery.row is not None:
            rows.deliveries.pop(self.delivery.row.id, None)
        if rows.deliveries_of(export):
            # It is in the queue for another call's next step as well.
            rows.update_export(export, lease=None)
        else:
            rows.forget(export)

    def _held_row(self, rows: CohortRows) -> ExportRow | None:
        export = rows.exports.get(self.export.id)

        return export if export and export.claims == self.export.claims else None

    def _number_delivery(self, rows: CohortRows, export_id: str, number: int) -> None:
        row = self.delivery.row
        delivery = row and rows.deliveries.get(row.id, row)

        if row is not None and delivery is not None:
            # Also here, for one that is forgotten meanwhile.
            self.delivery.row = attrs.evolve(row, export_id=export_id, sequence=number)
            rows.update_delivery(delivery, export_id=export_id, sequence=number)


def _give_up_unknown(rows: CohortRows, export: ExportRow) -> bool:
    """
    Forget attempts that ended without an answer: they are too old, or spent again.

    Returns whether there was one.
    """
    found = False

    for each in list(rows.exports.values()):
        if (
            each.state is ExportState.ATTEMPTED
            and (each.properties, each.occurrence)
            == (export.properties, export.occurrence)
            and not rows.is_alive(each.lease)
        ):
            _logger.warning(
                "an export of cohort %s may have been spent at %s, and its id was "
                "never known; a new one is requested",
                each.cohort_id,
                each.attempted_at,
            )
            rows.forget(each)
            found = True

    return found


def facts_of(ref: ExportRef) -> dict[str, object]:
    """Return what a row of a spent export says of it."""
    return {
        "state": ExportState.REQUESTED,
        "request_id": ref.request_id,
        "properties": ref.properties,
        "requested_at": ref.requested_at,
        "as_of": ref.as_of,
        "region": ref.region,
        "traceparent": ref.traceparent,
    }


def new_id() -> str:
    """Return an id for a row."""
    return uuid4().hex[:12]
