"""What the commands read of the record of exports."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from .. import CohortsClient
from ..models import JobDelivery, JobRecord

__all__ = (
    "NOTHING_OPEN",
    "can_finish",
    "delivered_to",
    "file_here",
    "find_record",
    "left_deliveries",
    "name_of",
    "place_of",
    "reason_not_here",
    "state_of",
)

NOTHING_OPEN = "no export is open"


async def find_record(client: CohortsClient, job: str) -> JobRecord | None:
    """Return the export with an id of the store's, or of the service's."""
    found = (each for each in await client.jobs() if job in {each.id, each.request_id})

    return next(found, None)


def name_of(record: JobRecord) -> str:
    """Return how a message names an export."""
    return f"export {record.request_id or record.id} of cohort {record.cohort_id}"


def file_here(delivery: JobDelivery) -> Path | None:
    """Return the file of this machine that a delivery is meant for, if it is one."""
    host, _, path = (delivery.target or "").partition(":")

    return Path(path) if path and host == socket.gethostname() else None


def left_deliveries(record: JobRecord) -> list[JobDelivery]:
    """Return the deliveries of an export that did not come to their end."""
    return [each for each in record.deliveries if each.finished_at is None]


def delivered_to(record: JobRecord) -> str | None:
    """Return the place of the last delivery that came to its end, if there is one."""
    places = [
        place_of(each) for each in record.deliveries if each.finished_at is not None
    ]

    return places[-1] if places else None


def place_of(delivery: JobDelivery) -> str:
    """Return how a message names where a delivery goes."""
    return str(file_here(delivery) or delivery.target or "a stream")


def state_of(record: JobRecord) -> str:
    """
    Return the state of an export, as a list shows it.

    "ready" is one whose file somebody has yet to bring: once all of it was delivered,
    it is "saved", or "read" where it went to streams alone.
    """
    if record.is_open or record.state != "ready":
        return record.state

    return "saved" if any(each.target for each in record.deliveries) else "read"


def reason_not_here(record: JobRecord, records: Sequence[JobRecord]) -> str | None:
    """
    Return why an open export cannot be finished by `jobs run` here.

    None if it can, or a run has told of it, or nobody waits for what is left of it.
    """
    left = left_deliveries(record)
    files = [each for each in left if file_here(each)]
    is_brought = not any(each.target for each in left) and delivered_to(record)

    if record.token is None or is_brought:
        return None

    if not files:
        places = ", ".join(map(place_of, left)) or "a stream"
        return f"was meant for {places}, which is no file here"

    if all(_is_replaced(each, record, records) for each in files):
        return f"a newer export has the place {place_of(files[-1])}"

    return None


def can_finish(record: JobRecord, records: Sequence[JobRecord]) -> bool:
    """Whether `jobs run` could still finish an open export here."""
    return record.token is None or any(
        file_here(each) and not _is_replaced(each, record, records)
        for each in left_deliveries(record)
    )


def _is_replaced(
    delivery: JobDelivery, record: JobRecord, records: Sequence[JobRecord]
) -> bool:
    # Of a newer export of this cohort, or by a later call for another one.
    return any(
        each.target == delivery.target
        and (
            _is_newer(other, record)
            if other.cohort_id == record.cohort_id
            else each.begun_at > delivery.begun_at
        )
        for other in records
        for each in other.deliveries
    )


def _is_newer(one: JobRecord, other: JobRecord) -> bool:
    return (
        one.requested_at is not None
        and other.requested_at is not None
        and one.requested_at > other.requested_at
    )
