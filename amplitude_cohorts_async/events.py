"""
Events passed to a hook: small frozen values without secrets or ids of people.

Any release may add events and attributes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, TypeAlias

import attrs

__all__ = (
    "BatchWritten",
    "BytesReceived",
    "Event",
    "EventHook",
    "ExportAdopted",
    "ExportRequested",
    "LinkRenewed",
    "PartlyUnreadable",
    "QuotaWait",
    "RequestSent",
    "RetryScheduled",
    "RowsDiffer",
    "StatusPolled",
)


@attrs.frozen(kw_only=True)
class RequestSent:
    """
    An attempt at a request ended with an answer.

    Attributes:
        operation: "list", "usage", "export", "status", "file", "upload" or
            "membership".
        status: The HTTP status.
        seconds: From taking the slot to the answer.
    """

    operation: str
    status: int
    seconds: float


@attrs.frozen(kw_only=True)
class PartlyUnreadable:
    """
    A warning: some of an answer could not be read, and was left out.

    Attributes:
        operation: As for `RequestSent`.
        count: How many values.
        paths: Where the first ones are, as in "$.cohorts[0].size". The values are in
            `Cohort.extra`.
    """

    operation: str
    count: int
    paths: tuple[str, ...]


@attrs.frozen(kw_only=True)
class QuotaWait:
    """
    An export has to wait for its place in a window.

    Attributes:
        seconds: The wait, as far as is known now.
    """

    cohort_id: str
    seconds: float


@attrs.frozen(kw_only=True)
class RetryScheduled:
    """
    An attempt failed and another follows.

    Attributes:
        operation: As in `RequestSent`.
        attempt: The attempt that failed, counted from 1.
        seconds: The wait before the next one.
        reason: The error as text, without secrets.
    """

    operation: str
    attempt: int
    seconds: float
    reason: str


@attrs.frozen(kw_only=True)
class ExportRequested:
    """One of the month's exports was spent."""

    cohort_id: str
    request_id: str


@attrs.frozen(kw_only=True)
class ExportAdopted:
    """
    A call goes on with an export that was requested before it; none was spent.

    Attributes:
        requested_at: When it was requested; aware UTC. Its file shows the members of
            that time.
    """

    cohort_id: str
    request_id: str
    requested_at: datetime


@attrs.frozen(kw_only=True)
class StatusPolled:
    """
    A job's status was polled.

    Attributes:
        word: The status as the service spells it.
        elapsed: Seconds since `ExportJob.wait()` began.
        next_poll: Seconds until the next poll; None when the job is done.
    """

    request_id: str
    word: str
    elapsed: float
    next_poll: float | None


@attrs.frozen(kw_only=True)
class LinkRenewed:
    """
    A download continues with another link.

    Attributes:
        links: Links used so far.
        received: Bytes kept from the earlier links; zero after a new start.
        reason: Why the last link was given up.
    """

    request_id: str
    links: int
    received: int
    reason: str


@attrs.frozen(kw_only=True)
class BytesReceived:
    """
    More of a file was received.

    Attributes:
        received: Bytes so far, as stored (compressed or not); less than before
            when a download starts over.
        total: Bytes of the whole file, if the store says.
    """

    request_id: str
    received: int
    total: int | None


@attrs.frozen(kw_only=True)
class RowsDiffer:
    """
    A saved file has more or fewer members than its cohort was listed with.

    A cohort may have been computed anew in between: this is a warning, no error.

    Attributes:
        rows: Members in the file.
        size: Members of the cohort, as listed.
    """

    request_id: str
    cohort_id: str | None
    rows: int
    size: int


@attrs.frozen(kw_only=True)
class BatchWritten:
    """
    A batch of ids was accepted.

    Attributes:
        operation: "upload", "add" or "remove".
        batch: Index of the batch, counted from 0.
        ids: The number of its ids.
        at: The time, aware UTC.
    """

    cohort_id: str
    operation: str
    batch: int
    ids: int
    at: datetime


Event: TypeAlias = (
    QuotaWait
    | PartlyUnreadable
    | RequestSent
    | RetryScheduled
    | ExportRequested
    | ExportAdopted
    | StatusPolled
    | LinkRenewed
    | BytesReceived
    | RowsDiffer
    | BatchWritten
)
"""Any of the events."""


class EventHook(Protocol):
    """Receives events as they happen; must return without blocking."""

    def __call__(self, event: Event, /) -> None:
        """Handle *event*."""
