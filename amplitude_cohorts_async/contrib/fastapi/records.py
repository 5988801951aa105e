"""
Which records of the job store are exports of a router, and what names them.

The name of an export is made of what it is: so each worker finds it in the store, and
makes the record for its next step, without any other memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path, PurePath

import attrs

from ...jobs import JobDelivery, JobRecord
from .schemas import ExportOrder, ExportState, State

__all__ = (
    "SPENT",
    "ExportRoot",
    "key_occurrence",
    "name_of",
    "next_occurrence",
    "order_of",
)

SPENT = {"requested", "ready"}
"""The states of an export that is paid for, and whose file is still to come."""

_KEYED = "web:key:"
_DAILY = "web:day:"
_NAME_LENGTH = 32
_OVER = {"saved", "refused", "gone", "failed", "parked", "cancelled"}


@attrs.frozen
class ExportRoot:
    """
    Where the files of a router go, and which records are of its exports.

    Attributes:
        address: A folder, absolute and without links, or the address of a bucket and the
            first part of its keys.
    """

    address: str

    @property
    def folder(self) -> Path | None:
        """The folder, if it is one."""
        return None if "://" in self.address else Path(self.address)

    def record(self, order: ExportOrder, occurrence: str) -> JobRecord:
        """Return the record of an order, for its first step and all others."""
        wanted = order.properties
        properties = wanted if isinstance(wanted, bool) else tuple(wanted)
        name = _name(order.cohort_id, properties, occurrence, order.format)

        return JobRecord.new(
            order.cohort_id,
            f"{self.address}/{name}.{order.format}",
            properties=properties,
            occurrence=occurrence,
        )

    def name(self, record: JobRecord) -> str:
        """Return the name of an export: its own, or the store's for one of others."""
        mine = self.delivery(record)

        if mine is None or mine.format is None or record.occurrence is None:
            return record.id

        return _name(
            record.cohort_id, record.properties, record.occurrence, mine.format
        )

    def delivery(self, record: JobRecord) -> JobDelivery | None:
        """Return the delivery of a record that a router began below this root."""
        occurrence = record.occurrence or ""

        if not occurrence.startswith((_KEYED, _DAILY)):
            return None

        for each in record.deliveries:
            name = _name(
                record.cohort_id, record.properties, occurrence, each.format or ""
            )
            if where(each) == f"{self.address}/{name}.{each.format}":
                return each

        return None

    def step(self, record: JobRecord) -> JobRecord | None:
        """Return the record for the next step; None if there is none to make here."""
        mine = self.delivery(record)

        if mine is None or record.occurrence is None or self.state(record).is_over:
            return None

        return JobRecord.new(
            record.cohort_id,
            str(where(mine)),
            properties=record.properties,
            occurrence=record.occurrence,
        )

    def state(self, record: JobRecord) -> ExportState:
        """Return the state of an export."""
        mine = self.delivery(record)
        delivery = mine or (record.deliveries[-1] if record.deliveries else None)
        wanted = record.properties
        name = _state_of(record, delivery)
        state = ExportState(
            id=self.name(record),
            cohort_id=record.cohort_id,
            properties=wanted if isinstance(wanted, bool) else list(wanted),
            state=name,
            is_over=name in _OVER,
            is_own=mine is not None,
            has_file=name == "saved" and mine is not None and self.folder is not None,
            requested_at=record.requested_at,
            updated_at=record.updated_at,
            revision=record.revision,
            token=record.token,
        )

        return state if delivery is None else _delivered(state, delivery)


def where(delivery: JobDelivery) -> str | None:
    """Return the address of a delivery, or the path of its file on whichever host."""
    target = delivery.target

    if target is None or "://" in target:
        return target

    return target.partition(":")[2]


def name_of(record: JobRecord) -> str:
    """Return the name of an export by the record for its steps."""
    return PurePath(str(record.to)).name.partition(".")[0]


def key_occurrence(key: str) -> str:
    """Return the occurrence of an idempotency key."""
    return _KEYED + sha256(key.encode()).hexdigest()[:_NAME_LENGTH]


def next_occurrence(
    order: ExportOrder, records: Sequence[JobRecord], root: ExportRoot, today: date
) -> str:
    """
    Return the occurrence of an order without a key.

    That of an export that is not over, if there is one: whoever asks twice spends one.
    Workers that ask at the same moment get the same one. Another format, and a router
    with another root, has an export of its own.
    """
    first = f"{_DAILY}{today.isoformat()}:"
    number = 0

    for record in records:
        occurrence = record.occurrence or ""
        is_same = order_of(record, root) == order and occurrence.startswith(_DAILY)
        if is_same and not root.state(record).is_over:
            return occurrence
        if record.cohort_id == order.cohort_id and occurrence.startswith(first):
            number = max(number, int(occurrence.removeprefix(first)))

    return f"{first}{number + 1}"


def order_of(record: JobRecord, root: ExportRoot) -> ExportOrder | None:
    """Return what was ordered by a record; None for one of others."""
    mine = root.delivery(record)

    if mine is None:
        return None

    wanted = record.properties
    return ExportOrder.model_construct(
        cohort_id=record.cohort_id,
        properties=wanted if isinstance(wanted, bool) else list(wanted),
        format=mine.format,
    )


def _delivered(state: ExportState, delivery: JobDelivery) -> ExportState:
    """Return a state with what is known of its file."""
    location = where(delivery) or ""

    return state.model_copy(
        update={
            "format": delivery.format,
            "location": location if "://" in location else None,
            "received": delivery.received,
            "size": delivery.size,
            "sha256": delivery.sha256,
            "saved_at": delivery.finished_at,
        }
    )


def _state_of(record: JobRecord, delivery: JobDelivery | None) -> State:
    if delivery is not None and delivery.finished_at is not None:
        return "saved"

    match record.state:
        case "queued" | "attempted" | "requested" | "ready" | "gone" | "failed":
            return record.state
        case _:
            return "parked"


def _name(
    cohort_id: str, properties: bool | Sequence[str], occurrence: str, suffix: str
) -> str:
    wanted = properties if isinstance(properties, bool) else list(properties)
    text = json.dumps([cohort_id, wanted, occurrence, suffix])

    return sha256(text.encode()).hexdigest()[:_NAME_LENGTH]
