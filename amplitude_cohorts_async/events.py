"""
What a hook is told: small frozen values, no ids of people, no secrets.

New kinds of event and new attributes may come with any release.
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
    "ExportRequested",
    "LinkRenewed",
    "QuotaWait",
    "RequestSent",
    "RetryScheduled",
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

        seconds: From having a slot to having the answer.
    """

    operation: str
    status: int
    seconds: float


@attrs.frozen(kw_only=True)
class QuotaWait:
    """
    An export has to wait for its place in a window.

    Attributes:
        seconds: How long, as far as is known now.
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

        reason: The failure, in words without secrets.
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
class StatusPolled:
    """
    A job was asked how it is.

    Attributes:
        elapsed: Seconds since `ExportJob.wait()` began.

        next_poll: Seconds until the next question; None when done.
    """

    request_id: str
    word: str
    elapsed: float
    next_poll: float | None


@attrs.frozen(kw_only=True)
class LinkRenewed:
    """
    A download goes on with another link.

    Attributes:
        links: Links used so far.

        received: Bytes kept from the earlier links; zero after a fresh start.

        reason: Why the last link was given up.
    """

    request_id: str
    links: int
    received: int
    reason: str


@attrs.frozen(kw_only=True)
class BytesReceived:
    """
    More of a file is here. May go back, when a download starts over.

    Attributes:
        received: Bytes on the wire so far, as stored: compressed if it is.

        total: Bytes in all, if the store says.
    """

    request_id: str
    received: int
    total: int | None


@attrs.frozen(kw_only=True)
class BatchWritten:
    """
    A batch of ids was accepted.

    Attributes:
        operation: "upload", "add" or "remove".

        batch: Index of the batch, counted from 0.

        ids: How many ids it held.

        at: When, aware UTC.
    """

    cohort_id: str
    operation: str
    batch: int
    ids: int
    at: datetime


Event: TypeAlias = (
    QuotaWait
    | RequestSent
    | RetryScheduled
    | ExportRequested
    | StatusPolled
    | LinkRenewed
    | BytesReceived
    | BatchWritten
)


class EventHook(Protocol):
    """Receives events as they happen; must return at once."""

    def __call__(self, event: Event, /) -> None:
        """Handle *event*."""
        ...
