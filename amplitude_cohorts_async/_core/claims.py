"""
Which export answers a call: the laws by which none is spent twice, or goes stale.

In this order, for the same cohort, properties and occurrence: an open run of the
caller's own is continued; what was requested after the call began is joined; what
runs or was left undelivered is adopted, if nothing changed since; what may have been
spent is in doubt; otherwise a new one is requested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum, auto
from typing import TypeAlias, cast

import attrs

from ..errors import InvalidInputError
from ..models import Cohort
from .job_rows import (
    ON_UNKNOWN,
    SPENT,
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
    OnUnknown,
    Wanted,
)
from .tokens import FILE_KEPT, ExportRef

LONGEST_OCCURRENCE = 200
"""How many characters an occurrence may have."""


@attrs.frozen(kw_only=True)
class Call:
    """
    What a call asks for.

    Attributes:
        since_sequence: The number of the cohort's last event when the call began; None
            if it begins now.
        target: As in `DeliveryRow`.
        reuse_within: Seconds: how old an export may be that is adopted.
        continues: The open runs that the call continues.
        run: The run that the call belongs to.
        delivery_id: The name of the call's delivery, if it takes several steps.
        listed_path: The path of that delivery, if the store has named it.
        export_id: The export that an earlier step has claimed or joined.
        is_sent: Whether that step, or one before it, may have sent its request.
        spent: What an earlier step has spent.
        traceparent: The span in which the call is made.
    """

    cohort_id: str
    properties: Wanted = False
    occurrence: str | None = None
    since_sequence: int | None = None
    target: str | None = None
    format: str | None = None
    reuse_within: float = 3600.0
    on_unknown: OnUnknown = "raise"
    continues: frozenset[str] = frozenset()
    run: str | None = None
    delivery_id: str | None = None
    listed_path: str | None = None
    export_id: str | None = None
    is_sent: bool = False
    spent: ExportRef | None = None
    traceparent: str | None = None


@attrs.frozen
class Join:
    """
    Go on with an export that is spent.

    Attributes:
        delivery: The call's own delivery that did not end, if there is one.
        is_adopted: Whether it was requested before the call, by another one.
    """

    export: ExportRow
    delivery: DeliveryRow | None = None
    is_adopted: bool = False


@attrs.frozen
class Delivered:
    """
    Answer from the record of a delivered file.

    Attributes:
        is_final: Whether the record answers whatever became of the file.
    """

    delivery: DeliveryRow
    is_final: bool = False


@attrs.frozen
class Superseded:
    """The export of an occurrence or a step, whose target has a newer one by now."""

    export: ExportRow


@attrs.frozen
class Ended:
    """The export of an earlier step, which has no file, or was put aside."""

    export: ExportRow


@attrs.frozen
class WaitForOther:
    """Another caller is about to request the same export, or is bringing its file."""

    export: ExportRow


@attrs.frozen
class Doubt:
    """An export may have been spent, and its id is not known."""

    export: ExportRow


@attrs.frozen
class ReadList:
    """An export can be adopted, if the list shows that its cohort was not edited."""

    export: ExportRow


@attrs.frozen
class RequestNew:
    """Request an export that is not spent: one that is queued, or none yet (None)."""

    export: ExportRow | None = None


Decision: TypeAlias = (
    Join | Delivered | Superseded | Ended | WaitForOther | Doubt | ReadList | RequestNew
)


@attrs.frozen(kw_only=True)
class Listing:
    """The list, as it was read for a call: the cohort, or None if it tells nothing."""

    cohort: Cohort | None = None


@attrs.frozen(kw_only=True)
class Claims:
    """The rows of a cohort at one moment, asked by one call."""

    rows: CohortRows
    call: Call
    listing: Listing | None = None

    def decide(self) -> Decision:
        """Return which export answers the call."""
        exports = sorted(self._same(), key=lambda export: -export.sequence)

        return (
            self._of_earlier_step()
            or self._of_run()
            or self._of_occurrence(exports)
            or self._requested_meanwhile(exports)
            or self._left(exports)
            or self._queued(exports)
            or RequestNew()
        )

    def _same(self) -> Iterator[ExportRow]:
        call = self.call

        for export in self.rows.exports.values():
            if (export.properties, export.occurrence) == (
                call.properties,
                call.occurrence,
            ):
                yield export

    def _of_earlier_step(self) -> Decision | None:
        delivery = self.rows.deliveries.get(self.call.delivery_id or "")

        if delivery is not None and delivery.saved is not None:
            return Delivered(delivery, self._has_newer(delivery.sequence))

        export_id = self.call.export_id if delivery is None else delivery.export_id
        export = self.rows.exports.get(export_id or "")

        if export is None:
            return None

        # Another call may have gone on with the delivery of the last step.
        saved = [each for each in self._own(export) if each.saved is not None]

        if saved:
            return Delivered(saved[-1], self._is_superseded(export))

        return self._after_earlier_step(export, delivery)

    def _after_earlier_step(
        self, export: ExportRow, delivery: DeliveryRow | None
    ) -> Decision | None:
        is_held = self.rows.is_alive(export.lease)
        is_adopted = delivery is not None and delivery.is_adopted

        if is_held or (delivery and self.rows.is_alive(delivery.lease)):
            return WaitForOther(export)

        match export.state:
            case ExportState.QUEUED:
                return RequestNew(export)
            case ExportState.ATTEMPTED:
                # Once more, unless another step of the same key has done so already.
                return Doubt(export) if self._counts(export) else None
            case ExportState.REQUESTED | ExportState.READY:
                if self._is_superseded(export):
                    return Superseded(export)
                return Join(export, delivery, is_adopted=is_adopted)
            case _:
                return None if is_adopted else Ended(export)

    def _of_run(self) -> Decision | None:
        deliveries = [
            each
            for each in self.rows.deliveries.values()
            if each.run in self.call.continues
        ]

        for delivery in sorted(deliveries, key=lambda each: -each.sequence):
            export = self.rows.exports.get(delivery.export_id)

            if delivery.saved is not None:
                return Delivered(delivery, is_final=True)
            if export is not None and self._is_younger(export, FILE_KEPT):
                if export.state in SPENT and not self._is_superseded(export):
                    return Join(export, self._open_delivery(export))
                if self._counts(export):
                    return self._attempted(export)

        return None

    def _of_occurrence(self, exports: list[ExportRow]) -> Decision | None:
        if self.call.occurrence is None:
            return None

        for export in exports:
            if export.state in SPENT:
                saved = [each for each in self._own(export) if each.saved is not None]
                if saved:
                    return Delivered(saved[-1], self._is_superseded(export))
                if self._is_superseded(export):
                    return Superseded(export)
                return Join(export, self._open_delivery(export))
            if self._counts(export):
                return self._attempted(export)

        return None

    def _requested_meanwhile(self, exports: list[ExportRow]) -> Decision | None:
        since = self.call.since_sequence
        since = self.rows.sequence if since is None else since

        for export in exports:
            if export.sequence <= since:
                continue
            if export.state in SPENT:
                return Join(export, self._open_delivery(export))
            if self._counts(export):
                return self._attempted(export)

        return None

    def _left(self, exports: list[ExportRow]) -> Decision | None:
        within = timedelta(seconds=self.call.reuse_within)

        for export in exports:
            if export.state is ExportState.ATTEMPTED and self.rows.is_alive(
                export.lease
            ):
                return WaitForOther(export)
            if not self._is_younger(export, within) or self._is_outdated(export):
                continue
            if self._counts(export):
                return self._attempted(export)
            if export.state in SPENT and self._is_undelivered(export):
                if self.listing is None:
                    return ReadList(export)
                if not self._was_edited(export):
                    return Join(export, self._open_delivery(export), is_adopted=True)

        return None

    def _queued(self, exports: list[ExportRow]) -> Decision | None:
        for export in exports:
            if export.state is ExportState.QUEUED:
                if self.rows.is_alive(export.lease):
                    return WaitForOther(export)
                return RequestNew(export)

        return None

    def _counts(self, export: ExportRow) -> bool:
        """Whether an attempt is waited for, or in doubt for this call."""
        if export.state is not ExportState.ATTEMPTED:
            return False

        # An engine repeats its steps unasked: they spend once more, not each time.
        is_step = self.call.delivery_id is not None

        return (
            self.call.on_unknown == "raise"
            or self.rows.is_alive(export.lease)
            or (is_step and export.is_again)
        )

    def _attempted(self, export: ExportRow) -> WaitForOther | Doubt:
        if self.rows.is_alive(export.lease):
            return WaitForOther(export)

        return Doubt(export)

    def _is_younger(self, export: ExportRow, life: timedelta) -> bool:
        return self.rows.at - export.began_at < life

    def _is_outdated(self, export: ExportRow) -> bool:
        return self.rows.written > export.sequence or self._is_superseded(export)

    def _is_superseded(self, export: ExportRow) -> bool:
        return self._has_newer(export.sequence)

    def _has_newer(self, sequence: int) -> bool:
        return has_newer(self.rows, sequence, self.call.target)

    def _is_undelivered(self, export: ExportRow) -> bool:
        deliveries = self.rows.deliveries_of(export)

        return self._open_delivery(export) is not None or not any(
            each.finished_at is not None for each in deliveries
        )

    def _open_delivery(self, export: ExportRow) -> DeliveryRow | None:
        """Return the last delivery to the call's target that did not return."""
        mine = [each for each in self._own(export) if each.answered_at is None]
        finished = [each for each in mine if each.finished_at is not None]

        return next(reversed(finished or mine), None)

    def _own(self, export: ExportRow) -> list[DeliveryRow]:
        return [
            each
            for each in self.rows.deliveries_of(export)
            if (each.target, each.format) == (self.call.target, self.call.format)
        ]

    def _was_edited(self, export: ExportRow) -> bool:
        cohort = self.listing.cohort if self.listing else None
        since = export.as_of or export.began_at

        return (
            cohort is not None
            and cohort.last_modified is not None
            and cohort.last_modified >= since.replace(microsecond=0)
        )


def has_newer(rows: CohortRows, sequence: int, target: str | None) -> bool:
    """Whether an export after this number was begun for a target, or delivered."""
    return target is not None and any(
        each.target == target and each.sequence > sequence
        for each in rows.deliveries.values()
    )


def has_later(rows: CohortRows, delivery: DeliveryRow) -> bool:
    """Whether a file came to the target of a delivery after its own, or may have."""
    since = delivery.finished_at or delivery.begun_at

    return any(
        each.target == delivery.target
        and (each.finished_at or each.begun_at) > since
        and _may_be_there(each)
        for each in rows.deliveries.values()
    )


class Publishing(Enum):
    """
    When a file may be renamed to its target.

    NOW: it may. LATER: that of another export is just being renamed to it. NEVER: a
    newer one is there, or may be.
    """

    NOW = auto()
    LATER = auto()
    NEVER = auto()


def when_to_publish(
    rows: CohortRows, delivery: DeliveryRow, *, replaces: int = 0
) -> Publishing:
    """
    Return when the file of a delivery may be renamed to its target.

    Args:
        replaces: The number of the newest export that it may replace as well.
    """
    newest = max(delivery.sequence, replaces)

    if newest_at(rows, delivery.target) > newest:
        return Publishing.NEVER

    # Callers that share an export bring the same bytes.
    if any(
        each.target == delivery.target
        and each.export_id != delivery.export_id
        and _is_being_published(rows, each)
        for each in rows.deliveries.values()
    ):
        return Publishing.LATER

    return Publishing.NOW


def newest_at(rows: CohortRows, target: str | None) -> int:
    """Return the number of the newest export that is, or may be, at a target; or 0."""
    numbers = (
        each.sequence
        for each in rows.deliveries.values()
        if each.target == target and _may_be_there(each)
    )

    return max(numbers, default=0)


def _may_be_there(delivery: DeliveryRow) -> bool:
    # A publisher that was killed may have renamed its file.
    return delivery.finished_at is not None or delivery.publisher > 0


def _is_being_published(rows: CohortRows, delivery: DeliveryRow) -> bool:
    return (
        delivery.finished_at is None
        and delivery.lease is not None
        and delivery.lease.number == delivery.publisher
        and rows.is_alive(delivery.lease)
    )


def checked_reuse(seconds: float) -> float:
    """Return *seconds*, or raise `InvalidInputError` if they are no age."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise InvalidInputError(
            f"reuse_within is a finite number of seconds, zero or more, got {seconds!r}"
        )

    return seconds


def checked_on_unknown(choice: str) -> OnUnknown:
    """Return *choice*, or raise `InvalidInputError` if there is none such."""
    if choice not in ON_UNKNOWN:
        raise InvalidInputError(
            f"on_unknown is {' or '.join(map(repr, ON_UNKNOWN))}, got {choice!r}"
        )

    return cast("OnUnknown", choice)


def checked_occurrence(occurrence: str | None) -> str | None:
    """Return *occurrence*, or raise `InvalidInputError` if it is no key."""
    if occurrence is not None and not (
        isinstance(occurrence, str) and 0 < len(occurrence) <= LONGEST_OCCURRENCE
    ):
        raise InvalidInputError(
            f"occurrence is a text of 1 to {LONGEST_OCCURRENCE} characters that names "
            f"one time of a repeated export, such as its date; got {occurrence!r}"
        )

    return occurrence
