"""
The exports of one app in its job store.

The only place where exports meet the store. `_core.claims` decides, this stores:
first what may be spent, then the bytes leave.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime
from typing import TypeAlias, TypeVar
from uuid import uuid4

import attrs

from .._core.claims import (
    Call,
    Claims,
    Decision,
    Join,
    Listing,
    Request,
    is_superseded,
)
from .._core.job_rows import (
    SPENT,
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
    IsAlive,
    Lease,
    Rows,
    read_cohort,
    write_cohort,
)
from .._core.tokens import ExportRef, export_key, to_token
from .._io.cancellation import background, finish_despite_cancel
from .._io.context import Clock
from .._io.jobs.base import JobStore
from .._io.machine import has_ended, this_process
from .._io.sinks.target import Target
from ..errors import JobStoreUnavailableError

_logger = logging.getLogger(__name__)

T = TypeVar("T")

Change: TypeAlias = Callable[[CohortRows, IsAlive, float], T]
"""Reads and changes the rows of a cohort; gets the store's time, too."""


class ClaimLostError(Exception):
    """Another process took over the claim of an export; nothing was sent."""


class AppJobs:
    """
    The exports, deliveries and writes of one app.

    A store that fails after a purchase loses no id: what could not be stored is
    stored before anything else is read, and at the end.
    """

    def __init__(
        self, store: JobStore, app: str, clock: Clock, *, label: str | None = None
    ) -> None:
        self.store = store
        self.app = app
        self._clock = clock
        self._label = label
        # Nobody outside of this process sees what only its memory has.
        self._owner = this_process if store.durable else _no_name
        self._unsaved: list[tuple[str, Change[None]]] = []
        self._answers: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Store what is not stored yet."""
        await self._settle()

        for cohort_id in {cohort_id for cohort_id, _ in self._unsaved}:
            with suppress(JobStoreUnavailableError):
                await self.change(cohort_id, lambda *_: None)

    def lock(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Return a lock that one task of this process holds for the same export."""
        key = export_key(call.cohort_id, call.properties)

        return self.store.lock(f"{self.app}:{key}:{call.occurrence or ''}")

    async def begin(self, cohort_id: str) -> int:
        """Return the number of the cohort's last event."""
        await self._settle()

        return await self.change(cohort_id, lambda rows, *_: rows.sequence)

    async def claim(
        self, call: Call, listing: Listing | None, *, is_new: bool = False
    ) -> Decision | Claim | Joined:
        """
        Decide which export answers a call, and store the claim or the delivery.

        Args:
            is_new: Whether only a new export will do.

        Raises:
            JobStoreUnavailableError: The store does not tell; nothing was sent.
        """

        made: Decision | Claim | Joined | None = None

        def work(
            rows: CohortRows, is_alive: IsAlive, now: float
        ) -> Decision | Claim | Joined:
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
            return await self.change(call.cohort_id, work)
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
            return Delivery(self, "", "", None)

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
                        id=_new_id(),
                        cohort_id=call.cohort_id,
                        created_at=ref.requested_at or at,
                    ),
                    at=at,
                    **_facts(ref),
                )

            return self._delivery(rows, call, export, None, now)

        try:
            return await self.change(call.cohort_id, work)
        except JobStoreUnavailableError:
            _logger.warning("the delivery cannot be stored", exc_info=True)
            return Delivery(self, "", "", None)

    async def record_write(self, cohort_id: str) -> None:
        """
        Record that a write to a cohort is about to be sent.

        Raises:
            JobStoreUnavailableError: Do not send it: a later export would not know.
        """

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Give the write its place in the order."""
            rows.written = rows.next_number()

        await self.change(cohort_id, work)

    async def mark(self, ref: ExportRef, state: ExportState) -> None:
        """Store what became of a spent export, if it is known and not put aside."""

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Change its state."""
            export = rows.of_request(ref.request_id)
            if export is not None and export.state in SPENT - {state}:
                rows.change(export, at=self._clock.utcnow(), state=state)

        if ref.cohort_id is not None:
            await self.save(ref.cohort_id, work)

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

        return await self.change(cohort_id, work)

    async def change(self, cohort_id: str, change: Change[T]) -> T:
        """
        Run *change* on the rows of a cohort, atomically; a cancellation waits.

        Raises:
            JobStoreUnavailableError: Nothing was changed.
        """
        unsaved = [entry for entry in self._unsaved if entry[0] == cohort_id]

        def work(rows: Rows, now: float) -> T:
            """Make up for what could not be stored, then change."""
            cohort = read_cohort(rows)
            is_alive = self._is_alive_at(now)
            for _, missed in unsaved:
                missed(cohort, is_alive, now)
            result = change(cohort, is_alive, now)
            write_cohort(rows, cohort)
            return result

        result = await finish_despite_cancel(
            self.store.transact(self.app, f"cohort:{cohort_id}", work)
        )
        self._unsaved = [entry for entry in self._unsaved if entry not in unsaved]

        return result

    async def save(self, cohort_id: str, change: Change[None]) -> bool:
        """
        Run *change* now, or as soon as the store is back; return whether it is stored.

        For what has happened already: it must not be lost, nor hold up its caller.
        """
        try:
            await self.change(cohort_id, change)
        except JobStoreUnavailableError:
            self._unsaved.append((cohort_id, change))
            return False

        return True

    def utcnow(self) -> datetime:
        """Return the date and time of the client's clock."""
        return self._clock.utcnow()

    def answer(self, work: Awaitable[None]) -> None:
        """
        Run *work* in the background; the next call and `aclose()` wait for it.

        A call records that it returned after its last step. Would it wait for that,
        a cancellation could come between the record and the return.
        """
        task = asyncio.ensure_future(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def lease(self, number: int, now: float) -> Lease:
        """Return a lease of this process, from *now* on."""
        return Lease(owner=self._owner(), number=number, until=now + self.store.lease)

    @asynccontextmanager
    async def renewed(
        self, *renew: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[None]:
        """Renew leases until the context is left."""

        async def renewing() -> None:
            """Renew them three times in their life."""
            while True:
                await asyncio.sleep(self.store.lease / 3)
                for each in renew:
                    with suppress(JobStoreUnavailableError):
                        await each()

        async with background(renewing()):
            yield

    def _is_alive_at(self, now: float) -> IsAlive:
        def is_alive(lease: Lease | None) -> bool:
            """Whether a lease may be held by a running call."""
            if lease is None or lease.until <= now:
                return False

            return not self.store.durable or not has_ended(lease.owner)

        return is_alive

    async def _settle(self) -> None:
        if self._answers:
            await asyncio.wait(self._answers)

    def _claimed(
        self, rows: CohortRows, call: Call, export: ExportRow | None, now: float
    ) -> Claim:
        at = self._clock.utcnow()
        self._give_up_unknown(rows, call)
        export = export or ExportRow(
            id=_new_id(),
            cohort_id=call.cohort_id,
            properties=call.properties,
            occurrence=call.occurrence,
            created_at=at,
            label=self._label,
        )
        number = export.claims + 1
        export = rows.change(
            export, at=at, claims=number, lease=self.lease(number, now)
        )
        delivery = self._delivery(rows, call, export, None, now)

        return Claim(self, export, delivery)

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
            id=_new_id(),
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
            lease=self.lease(number, now),
        )

        return Delivery(self, call.cohort_id, row.id, row)


@attrs.frozen
class Joined:
    """A spent export that a call goes on with, and the call's own delivery."""

    join: Join
    delivery: Delivery


@attrs.define(eq=False)
class Delivery:
    """
    The delivery of an export to one call.

    Attributes:
        row: As it was begun; None if the store does not keep it.
    """

    _jobs: AppJobs
    _cohort_id: str
    _id: str
    row: DeliveryRow | None

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Hold the delivery's lease: nobody else goes on with it meanwhile."""
        if self.row is None:
            yield
            return

        try:
            async with self._jobs.renewed(self._renew):
                yield
        finally:
            await self.release()

    async def release(self) -> None:
        """Give the lease up; whoever comes next may go on with the delivery."""
        await self._change(lease=None)

    async def finished(self, saved: Mapping[str, object] | None) -> None:
        """Record that the file got its name, or that the stream was read to its end."""

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Change the delivery, and its export."""
            at = self._jobs.utcnow()
            delivery = rows.deliveries.get(self._id, self.row)
            if delivery is None:
                return
            rows.deliver(delivery, finished_at=at, saved=saved, answered_at=None)
            export = rows.exports.get(delivery.export_id)
            if export is not None and export.state is ExportState.REQUESTED:
                rows.change(export, at=at, state=ExportState.READY)

        await self._save(work)

    def answered(self) -> None:
        """Record that the call returned its result; call it last."""
        if self.row is not None:
            self._jobs.answer(self._change(answered_at=self._jobs.utcnow(), lease=None))

    async def is_superseded(self) -> bool:
        """Whether a newer export was begun for the same target."""
        row = self.row
        if row is None:
            return False

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> bool:
            """Compare it with the others."""
            export = rows.exports.get(row.export_id)
            return export is not None and is_superseded(rows, export, row.target)

        return await self._jobs.change(self._cohort_id, work)

    async def _renew(self) -> None:
        def work(rows: CohortRows, _alive: IsAlive, now: float) -> None:
            """Extend the lease, if it is still this call's."""
            delivery = rows.deliveries.get(self._id)
            lease = self.row and self.row.lease
            if (
                delivery
                and lease
                and delivery.lease
                and (delivery.lease.number == lease.number)
            ):
                rows.deliver(delivery, lease=self._jobs.lease(lease.number, now))

        await self._jobs.change(self._cohort_id, work)

    async def _change(self, **changes: object) -> None:
        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Change the delivery."""
            if self._id in rows.deliveries:
                rows.deliver(rows.deliveries[self._id], **changes)

        await self._save(work)

    async def _save(self, work: Change[None]) -> None:
        if self.row is not None and not await self._jobs.save(self._cohort_id, work):
            _logger.warning("a delivery of cohort %s is not stored", self._cohort_id)


class Claim:
    """The right of one call to request an export."""

    def __init__(self, jobs: AppJobs, export: ExportRow, delivery: Delivery) -> None:
        self._jobs = jobs
        self._export = export
        self.delivery = delivery

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Hold the claim; one with which nothing was sent is forgotten at the end."""
        try:
            async with self._jobs.renewed(self._renew):
                yield
        finally:
            await self.release()

    async def release(self) -> None:
        """Give the claim up, and forget the export if nothing was sent for it."""
        await self._jobs.save(self._export.cohort_id, self._release)

    async def attempted(self, *, used: int | None) -> None:
        """
        Record durably that a request is about to be sent.

        Raises:
            ClaimLostError: Another process took the claim over.
            JobStoreUnavailableError: It cannot be recorded.
        """

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> bool:
            """Record it, if the claim is still this call's."""
            at = self._jobs.utcnow()
            export = self._held_row(rows)
            if export is None or export.state is not ExportState.QUEUED:
                return False

            number = rows.next_number()
            rows.change(
                export,
                at=at,
                state=ExportState.ATTEMPTED,
                sequence=number,
                attempted_at=at,
                used=used,
            )
            self._number_delivery(rows, export.id, number)
            return True

        if not await self._jobs.change(self._export.cohort_id, work):
            raise ClaimLostError

    async def refused(self) -> None:
        """Record that the last request spent no export; never raises."""

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Put it back into the queue."""
            export = self._held_row(rows)
            if export is not None and export.state is ExportState.ATTEMPTED:
                rows.change(
                    export,
                    at=self._jobs.utcnow(),
                    state=ExportState.QUEUED,
                    sequence=0,
                    attempted_at=None,
                )

        await self._jobs.save(self._export.cohort_id, work)

    async def requested(self, ref: ExportRef) -> None:
        """
        Record the id of the export that was spent, whoever has the claim by now.

        It never raises.
        """

        def work(rows: CohortRows, _alive: IsAlive, _now: float) -> None:
            """Record it: as a row of its own, if the attempt's was replaced."""
            at = self._jobs.utcnow()
            export = self._held_row(rows)
            if export is None or export.state is not ExportState.ATTEMPTED:
                number = rows.next_number()
                export = attrs.evolve(
                    self._export, id=_new_id(), sequence=number, attempted_at=at
                )
            rows.change(export, at=at, lease=None, **_facts(ref))
            self._number_delivery(rows, export.id, export.sequence)

        if not await self._jobs.save(self._export.cohort_id, work):
            _logger.warning(
                "an export was spent, and the job store cannot record it; its token is "
                "%s",
                to_token(ref),
            )

    async def _renew(self) -> None:
        def work(rows: CohortRows, _alive: IsAlive, now: float) -> None:
            """Extend the lease, if it is still this call's."""
            export = self._held_row(rows)
            if export is not None:
                lease = self._jobs.lease(export.claims, now)
                rows.exports[export.id] = attrs.evolve(export, lease=lease)

        await self._jobs.change(self._export.cohort_id, work)

    def _release(self, rows: CohortRows, _alive: IsAlive, _now: float) -> None:
        export = self._held_row(rows)

        if export is None:
            return
        if export.state is ExportState.QUEUED:
            rows.forget(export)
        else:
            rows.change(export, at=self._jobs.utcnow(), lease=None)

    def _held_row(self, rows: CohortRows) -> ExportRow | None:
        export = rows.exports.get(self._export.id)

        return export if export and export.claims == self._export.claims else None

    def _number_delivery(self, rows: CohortRows, export_id: str, number: int) -> None:
        row = self.delivery.row
        delivery = row and rows.deliveries.get(row.id, row)

        if delivery is not None:
            rows.deliver(delivery, export_id=export_id, sequence=number)


def target_name(target: Target) -> str:
    """Return a target as its host and path."""
    return f"{socket.gethostname()}:{target.place}"


def _no_name() -> str:
    return ""


def _facts(ref: ExportRef) -> dict[str, object]:
    return {
        "state": ExportState.REQUESTED,
        "request_id": ref.request_id,
        "properties": ref.properties,
        "requested_at": ref.requested_at,
        "as_of": ref.as_of,
        "region": ref.region,
    }


def _new_id() -> str:
    return uuid4().hex[:12]
