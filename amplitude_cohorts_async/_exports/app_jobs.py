"""
The exports of one app in its job store.

The only place where exports meet the store. `_core.claims` decides, this stores:
first what may be spent, then the bytes leave.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import attrs

from .._core.claims import (
    Call,
    Claims,
    Delivered,
    Doubt,
    Ended,
    Join,
    Listing,
    ReadList,
    RequestNew,
    Superseded,
    WaitForOther,
    has_later,
    has_newer,
    newest_at,
)
from .._core.job_rows import (
    SPENT,
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
    job_record,
)
from .._core.tokens import ExportRef, export_key
from .._io.cancellation import finish_despite_cancel
from .._io.context import Clock
from .._io.jobs.base import JobStore
from .._io.sinks.target import Target
from .._locations import is_location
from ..errors import InvalidInputError, JobStoreUnavailableError
from ..models import JobRecord
from .app_rows import AppRows, Change, T
from .claim import Claim, Delivery, facts_of, new_id
from .directory_store import stores_of_directories

_logger = logging.getLogger(__name__)


@attrs.frozen
class Joined:
    """A spent export that a call goes on with, and the call's own delivery."""

    join: Join
    delivery: Delivery


@attrs.frozen
class KnownJob:
    """
    An export in the store.

    Attributes:
        due: Its deliveries that were left: no running call holds them.
        doubt: The export, if it may have been spent and its id is not known.
    """

    record: JobRecord
    due: list[DeliveryRow]
    doubt: ExportRow | None


Answer: TypeAlias = Claim | Joined | Delivered | Superseded | Ended | Doubt | ReadList
"""What answers a call; a claim or a delivery is stored already."""

Found: TypeAlias = Answer | WaitForOther

_SENT_SINCE = {
    (ExportState.QUEUED.value, state) for state in (ExportState.ATTEMPTED, *SPENT)
}
"""The state by a record, and by the store, of an export that was sent meanwhile."""


class AppJobs:
    """The exports, deliveries and writes of one app."""

    def __init__(
        self, store: JobStore, app: str, clock: Clock, *, label: str | None = None
    ) -> None:
        self.rows: AppRows = AppRows(store, app, clock)
        self._clock = clock
        self.label = label

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

    async def last_sequence(self, cohort_id: str) -> int:
        """Return the number of the cohort's last event."""
        await self.rows.settle()

        return await self.rows.transact(cohort_id, lambda rows: rows.sequence)

    async def claim_new(self, call: Call) -> Claim:
        """
        Store the claim of a new export, whichever others there are.

        Raises:
            JobStoreUnavailableError: Nothing was sent.
        """
        stored: list[Claim | Delivery] = []

        def work(rows: CohortRows) -> Claim:
            """Store it within one transaction, which may start again."""
            rows.prune()
            claim = self._claimed(rows, call, None)
            stored[:] = [claim]
            return claim

        return await self._change(call.cohort_id, work, stored)

    async def claim(self, call: Call, listing: Listing | None) -> Found:
        """
        Decide which export answers a call, and store the claim or the delivery.

        Raises:
            JobStoreUnavailableError: The store does not tell; nothing was sent.
        """
        stored: list[Claim | Delivery] = []

        def work(rows: CohortRows) -> Found:
            """Decide and store within one transaction, which may start again."""
            rows.prune()
            if call.spent is not None:
                _store_spent(rows, call, call.spent)
            _check_known(rows, call)
            decision = Claims(rows=rows, call=call, listing=listing).decide()

            match decision:
                case RequestNew(export):
                    claim = self._claimed(rows, call, export)
                    stored[:] = [claim]
                    return claim
                case Join(export, delivery, is_adopted):
                    if delivery is not None and rows.is_alive(delivery.lease):
                        delivery = None
                    mine = self._delivery(
                        rows, call, export, delivery, is_adopted=is_adopted
                    )
                    stored[:] = [mine]
                    return Joined(decision, mine)
                case _:
                    return decision

        return await self._change(call.cohort_id, work, stored)

    async def deliver(
        self,
        ref: ExportRef,
        target: str | None,
        format: str | None,  # noqa: A002
        begun: Delivery | None = None,
        *,
        is_named: bool = False,
    ) -> Delivery:
        """
        Begin the delivery of an export that is known to be spent.

        A store that fails does not hold it up.

        Args:
            begun: One that was begun before its target was known.
            is_named: Whether a user names the export, and so replaces what is there.
        """
        unstored = Delivery(self.rows, "", None)

        if ref.cohort_id is None:
            return unstored

        stored: list[Claim | Delivery] = []
        call = Call(
            cohort_id=ref.cohort_id,
            properties=ref.properties,
            target=target,
            format=format,
        )

        def work(rows: CohortRows) -> Delivery:
            """Find the export, or add it; and add or take over the delivery."""
            export = _spent_row(rows, ref)
            if export.state is ExportState.PARKED:
                # It was put aside; the caller names it, and so takes it up.
                export = rows.update_export(export, state=ExportState.REQUESTED)

            row = begun.row if begun else None
            left = rows.deliveries.get(row.id) if row else None
            # Another call may have gone on with what was begun and not held.
            if (
                row
                and left
                and left.finished_at is None
                and (left.lease == row.lease or not rows.is_alive(left.lease))
            ):
                left = attrs.evolve(left, target=target, format=format)
            else:
                left = _left_to(rows, export, call)

            mine = self._delivery(
                rows,
                call,
                export,
                left,
                replaces=newest_at(rows, target) if is_named else 0,
            )
            stored[:] = [mine]
            return mine

        try:
            return await self._change(call.cohort_id, work, stored)
        except JobStoreUnavailableError:
            _logger.warning("the delivery cannot be stored", exc_info=True)
            return unstored

    async def keep_ticket(self, export: ExportRow, ticket: str | None) -> None:
        """Store the place in the limiter's order of an export that may be taken up."""

        def work(rows: CohortRows) -> None:
            """Change it, unless the export was forgotten."""
            if export.id in rows.exports:
                rows.update_export(rows.exports[export.id], ticket=ticket)

        await self.rows.transact(export.cohort_id, work)

    async def deliver_again(self, call: Call, ref: ExportRef) -> Joined | None:
        """
        Begin to bring a delivered file once more, in the delivery that a call names.

        Returns None if another caller does so just now.

        Raises:
            JobStoreUnavailableError: Nothing was begun.
        """
        stored: list[Claim | Delivery] = []

        def work(rows: CohortRows) -> Joined | None:
            """Find the export, or add it; and take over the delivery."""
            earlier = rows.deliveries.get(str(call.delivery_id))
            if earlier is not None and rows.is_alive(earlier.lease):
                return None
            export = _spent_row(rows, ref)
            mine = self._delivery(rows, call, export, earlier)
            stored[:] = [mine]
            return Joined(Join(export, earlier), mine)

        return await self._change(call.cohort_id, work, stored)

    async def was_replaced(self, delivery: DeliveryRow, cohort_id: str) -> bool:
        """Return whether the file of another cohort came later to its target."""

        def work(rows: CohortRows) -> bool:
            """Look in one cohort."""
            return has_later(rows, delivery)

        for other in await self.rows.cohort_ids():
            if other != cohort_id and await self.rows.transact(other, work):
                return True

        return False

    async def record_write(self, cohort_id: str) -> None:
        """
        Record that a write to a cohort is about to be sent.

        Raises:
            JobStoreUnavailableError: Do not send it: a later export would not know.
        """

        def work(rows: CohortRows) -> None:
            """Give the write its place in the order."""
            rows.written = rows.next_sequence()

        await self.rows.transact(cohort_id, work)

    async def mark(self, ref: ExportRef, state: ExportState) -> None:
        """Store what became of a spent export, if it is known and not put aside."""

        def work(rows: CohortRows) -> None:
            """Change its state."""
            export = rows.of_request(ref.request_id)
            if export is not None and export.state in SPENT - {state}:
                rows.update_export(export, state=state)

        if ref.cohort_id is not None:
            await self.rows.save(ref.cohort_id, work)

    async def saved_before(
        self,
        cohort_id: str,
        target: str,
        format: str,  # noqa: A002
    ) -> DeliveryRow | None:
        """Return the last delivery of a cohort's newest export at a target."""

        def work(rows: CohortRows) -> DeliveryRow | None:
            """Look for the last of them."""
            found = [
                (each.sequence, each.finished_at, each.id)
                for each in rows.deliveries.values()
                if each.finished_at is not None
                and (each.target, each.format) == (target, format)
            ]
            return rows.deliveries[max(found)[2]] if found else None

        return await self.rows.transact(cohort_id, work)

    async def records(self) -> list[KnownJob]:
        """Return all exports, the newest first."""
        await self.rows.settle()
        found: list[KnownJob] = []

        def work(rows: CohortRows) -> list[KnownJob]:
            """Return those of one cohort, without what is too old."""
            rows.prune()
            return [
                KnownJob(
                    job_record(rows, export),
                    due=[
                        each
                        for each in rows.deliveries_of(export)
                        if _is_due(rows, export, each)
                    ],
                    doubt=export if _is_in_doubt(rows, export) else None,
                )
                for export in rows.exports.values()
            ]

        for cohort_id in await self.rows.cohort_ids():
            found += await self.rows.transact(cohort_id, work)
        _leave_to_others(found)

        return sorted(found, key=lambda each: _moment(each.record), reverse=True)

    async def park(self, record: JobRecord) -> JobRecord:
        """Put an export aside, and return it."""
        _check_record(record)

        def work(rows: CohortRows) -> JobRecord:
            """Change its state."""
            export = _known(rows, record)
            if export.state not in SPENT | {ExportState.PARKED}:
                raise InvalidInputError(
                    f"export {record.id} of cohort {record.cohort_id} is "
                    f"{export.state.value}; only a spent one, whose file is or will be "
                    f"there, can be put aside"
                )
            return job_record(
                rows, rows.update_export(export, state=ExportState.PARKED)
            )

        return await self.rows.transact(record.cohort_id, work)

    async def forget(self, record: JobRecord) -> None:
        """
        Remove an export and its deliveries; one that is not there is forgotten.

        It is removed from the stores of its directories as well.

        Raises:
            InvalidInputError: By the record it is queued, and it may be spent by now.
        """
        _check_record(record)

        def work(rows: CohortRows) -> None:
            """Remove its rows."""
            # The first record of steps has no id, and the name of its delivery.
            delivery = rows.deliveries.get(record.delivery_id or "")
            export_id = record.id or (delivery.export_id if delivery else "")
            export = rows.exports.get(export_id)
            if export is None:
                return
            if record.id and (record.state, export.state) in _SENT_SINCE:
                raise InvalidInputError(
                    f"export {export.id} of cohort {export.cohort_id} was sent since "
                    f"this record was read: take the one that `jobs()` has now"
                )
            rows.forget(export)

        paths = filter(None, (path_of(each.target) for each in record.deliveries))
        for store in await stores_of_directories(self.store, paths):
            async with aclosing(store):
                rows = AppRows(store, self.rows.app, self._clock)
                await rows.transact(record.cohort_id, work)

        await self.rows.transact(record.cohort_id, work)

    async def delivery_of(self, record: JobRecord) -> DeliveryRow:
        """
        Return the last delivery of a listed export that this host can make.

        One that is not finished comes first.
        """

        def work(rows: CohortRows) -> DeliveryRow | None:
            """Look for the last of them."""
            found = [
                each
                for each in rows.deliveries_of(_known(rows, record))
                if to_of(each.target) is not None
            ]
            return max(found, key=_is_left_and_begun, default=None)

        found = await self.rows.transact(record.cohort_id, work)

        if found is None:
            raise InvalidInputError(
                f"export {record.id} of cohort {record.cohort_id} goes to no file of "
                f"this host, and to no bucket; make a record with JobRecord.new(), or "
                f"download it with resume_export(record.token)"
            )

        return found

    async def _change(
        self, cohort_id: str, work: Change[T], stored: list[Claim | Delivery]
    ) -> T:
        """Change the rows; give up what was *stored* if the call is cancelled."""
        try:
            return await self.rows.transact(cohort_id, work)
        except asyncio.CancelledError:
            for each in stored:
                await finish_despite_cancel(each.release())
            raise

    def _claimed(self, rows: CohortRows, call: Call, export: ExportRow | None) -> Claim:
        export = export or ExportRow(
            id=new_id(),
            cohort_id=call.cohort_id,
            properties=call.properties,
            occurrence=call.occurrence,
            created_at=rows.at,
            label=self.label,
            traceparent=call.traceparent,
        )
        number = export.claims + 1
        export = rows.update_export(
            export, claims=number, lease=self.rows.lease(number, rows.now)
        )
        delivery = self._delivery(rows, call, export, None)

        return Claim(self.rows, export, delivery, is_kept=call.delivery_id is not None)

    def _delivery(
        self,
        rows: CohortRows,
        call: Call,
        export: ExportRow,
        left: DeliveryRow | None,
        *,
        replaces: int = 0,
        is_adopted: bool = False,
    ) -> Delivery:
        if call.delivery_id is not None:
            left = _renamed(rows, call, left)
        left = left or DeliveryRow(
            id=call.delivery_id or new_id(),
            export_id=export.id,
            target=call.target,
            format=call.format,
            begun_at=rows.at,
        )
        row = rows.update_delivery(
            left,
            export_id=export.id,
            sequence=export.sequence,
            run=call.run,
            is_adopted=is_adopted,
            lease=self.rows.lease(left.next_number, rows.now),
        )

        return Delivery(self.rows, call.cohort_id, row, replaces=replaces)


def _check_record(record: object) -> None:
    if not isinstance(record, JobRecord):
        raise InvalidInputError(
            f"a job is a JobRecord, one of `client.jobs()`, not a "
            f"{type(record).__name__}"
        )


def _known(rows: CohortRows, record: JobRecord) -> ExportRow:
    export = rows.exports.get(record.id)

    if export is None:
        raise _unknown(record.id, record.cohort_id)

    return export


def _check_known(rows: CohortRows, call: Call) -> None:
    delivery = rows.deliveries.get(call.delivery_id or "")
    export = rows.exports.get(delivery.export_id if delivery else call.export_id or "")

    # What an earlier step may have spent is not spent again because it was forgotten.
    # What nothing was sent for is forgotten after a day, and begins anew.
    is_gone = call.export_id is not None and export is None and delivery is None
    if call.is_sent and is_gone:
        raise _unknown(str(call.export_id), call.cohort_id)

    if call.listed_path is not None and not _is_listed(call, export, delivery):
        raise changed_record(call.cohort_id)


def changed_record(cohort_id: str) -> InvalidInputError:
    """Return the error for a record that does not describe what its name says."""
    return InvalidInputError(
        f"this record of cohort {cohort_id} was changed by hand: its name is that of "
        f"another export or target; make a new one with JobRecord.new()"
    )


def _is_listed(
    call: Call, export: ExportRow | None, delivery: DeliveryRow | None
) -> bool:
    """Whether a record is as the store has it; a delivery may be gone since."""
    if export is None and delivery is None:
        return False
    if export is not None and (export.properties, export.occurrence) != (
        call.properties,
        call.occurrence,
    ):
        return False

    return delivery is None or (
        delivery.target is not None
        and _listed_path(delivery.target) == call.listed_path
        and delivery.format in {None, call.format}
    )


def _listed_path(target: str) -> str:
    """Return the path of a file on whichever host, or an address."""
    return target if is_location(target) else target.partition(":")[2]


def _unknown(export_id: str, cohort_id: str) -> InvalidInputError:
    return InvalidInputError(
        f"export {export_id} of cohort {cohort_id} is not in the job store; `jobs()` "
        f"lists what is"
    )


def _spent_row(rows: CohortRows, ref: ExportRef) -> ExportRow:
    """Return the row of an export that is known to be spent; a new one, if needed."""
    found = rows.of_request(ref.request_id)

    return found or rows.update_export(
        ExportRow(
            id=new_id(),
            cohort_id=str(ref.cohort_id),
            created_at=ref.requested_at or rows.at,
        ),
        **facts_of(ref),
    )


def _store_spent(rows: CohortRows, call: Call, ref: ExportRef) -> None:
    """Store what an earlier step has spent, if the store was away just then."""
    export = rows.exports.get(str(call.export_id))

    if export is not None and export.state is ExportState.ATTEMPTED:
        rows.update_export(export, **facts_of(ref))


def _left_to(rows: CohortRows, export: ExportRow, call: Call) -> DeliveryRow | None:
    """Return the last delivery to the call's target that was left, if any."""
    left = [
        each
        for each in rows.deliveries_of(export)
        if call.target is not None
        and (each.target, each.format) == (call.target, call.format)
        and each.finished_at is None
        and not rows.is_alive(each.lease)
    ]

    return left[-1] if left else None


def _renamed(
    rows: CohortRows, call: Call, left: DeliveryRow | None
) -> DeliveryRow | None:
    """Return the delivery of the call's earlier step, or one that was left to it."""
    name = str(call.delivery_id)
    earlier = rows.deliveries.get(name)

    if earlier is None and left is not None:
        earlier = rows.deliveries.pop(left.id)

    # The next step may be made on another host.
    return earlier and attrs.evolve(
        earlier, id=name, target=call.target, format=call.format
    )


def _leave_to_others(found: list[KnownJob]) -> None:
    """Drop what is due at a target to which a later call delivers another cohort."""
    deliveries = [row for each in found for row in each.record.deliveries]
    # The last one of each target is the one that stays.
    deliveries.sort(key=lambda row: row.begun_at)
    last = {row.target: row.begun_at for row in deliveries}

    for each in found:
        each.due[:] = [row for row in each.due if row.begun_at >= last[row.target]]


def _is_left_and_begun(delivery: DeliveryRow) -> tuple[bool, datetime]:
    return delivery.finished_at is None, delivery.begun_at


def _moment(record: JobRecord) -> str:
    return str(record.requested_at or record.updated_at)


def _is_due(rows: CohortRows, export: ExportRow, delivery: DeliveryRow) -> bool:
    """Whether a delivery was left, and its file is still wanted at its target."""
    return (
        export.state in SPENT
        and rows.is_left(delivery)
        and not rows.is_alive(delivery.lease)
        and not has_newer(rows, export.sequence, delivery.target)
    )


def _is_in_doubt(rows: CohortRows, export: ExportRow) -> bool:
    return export.state is ExportState.ATTEMPTED and not rows.is_alive(export.lease)


def for_delivery(record: JobRecord, row: DeliveryRow) -> JobRecord:
    """Return a listed record that names one of its deliveries that this host can make."""
    return attrs.evolve(
        record,
        delivery_id=row.id,
        to=to_of(row.target),
        format=row.format,
    )


def target_name(target: Target) -> str:
    """Return the name of a target in the store."""
    if target.destination is not None:
        # Without a host: any can go on with it.
        return target.destination.location

    return path_name(target.resolved)


def path_name(path: Path) -> str:
    """Return the name of a file or folder of this host, whose links are resolved."""
    return f"{socket.gethostname()}:{path}"


def to_of(target: str | None) -> Path | str | None:
    """Return where a target's name leads, if it can be written from this host."""
    if target is not None and is_location(target):
        return target

    path = path_of(target)
    return None if path is None else Path(path)


def path_of(target: str | None) -> str | None:
    """Return the path of a target's name, if it is a file of this host."""
    host, _, path = (target or "").partition(":")

    is_path = path and not path.startswith("//")
    return path if is_path and host == socket.gethostname() else None
