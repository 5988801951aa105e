"""What the commands read of the record of exports."""

from __future__ import annotations

import socket
from pathlib import Path

from .. import CohortsClient
from ..models import JobDelivery, JobRecord

__all__ = (
    "NOTHING_OPEN",
    "delivered_to",
    "file_here",
    "find_record",
    "left_deliveries",
    "name_of",
    "place_of",
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
