"""
Events passed to a hook: small frozen values without secrets or ids of people.

Any release may add events and attributes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, TypeAlias, runtime_checkable

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
    "Phase",
    "PhaseEnded",
    "PhaseStarted",
    "QuotaWait",
    "RequestFailed",
    "RequestSent",
    "RetryScheduled",
    "RowsDiffer",
    "StatusPolled",
    "TracingHook",
    "UsageRead",
)

Phase: TypeAlias = Literal["export", "tick", "request", "wait", "download"]
"""
A part of the work for one export, in which others may be: all of it ("export"), one
step ("tick"), until its id is known, until its file is ready, and until that is here.
"""


@attrs.frozen(kw_only=True)
class RequestSent:
    """
    An attempt at a request ended with an answer.

    Attributes:
        operation: "list", "usage", "export", "status", "file", "upload" or
            "membership".
        status: The HTTP status.
        seconds: From taking the slot to the answer.
        attempt: Counted from 1.
        waited: Seconds for which this attempt waited for its slot.
        method: The HTTP method.
        template: The path, with names in braces for its ids.
        origin: Where it was sent, as in "https://amplitude.com".
        date: The service's clock, aware UTC, if the answer tells it.
        content_type: Without parameters; empty if the answer has none.
        header_names: Of the answer, in lower case and sorted; no values.
    """

    operation: str
    status: int
    seconds: float
    attempt: int = 1
    waited: float = 0.0
    method: str = ""
    template: str = ""
    origin: str = ""
    date: datetime | None = None
    content_type: str = ""
    header_names: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class RequestFailed:
    """
    An attempt at a request ended without an answer.

    Attributes:
        error: The name of the exception's class.
        operation: As for `RequestSent`, and so are the others.
    """

    operation: str
    error: str
    seconds: float
    attempt: int = 1
    waited: float = 0.0
    method: str = ""
    template: str = ""
    origin: str = ""


@attrs.frozen(kw_only=True)
class UsageRead:
    """
    The month's usage was read.

    Attributes:
        used: Exports of the month.
        remaining: Those that are left; None if there is no limit.
    """

    used: int
    remaining: int | None


@attrs.frozen(kw_only=True)
class PhaseStarted:
    """
    A phase of an export began; a `PhaseEnded` follows.

    Both are reported in the same context of the same task, unless it is a stream.

    Attributes:
        id: The same for start and end, and different for all others of this process.
        phase: Which one.
        request_id: The service's id; None before it is known.
        is_stream: Whether the caller reads the file meanwhile.
        traceparent: What `TracingHook.traceparent()` returned when the export was
            requested, by whichever process; None if it is not known yet.
    """

    id: int
    phase: Phase
    cohort_id: str | None
    request_id: str | None = None
    is_stream: bool = False
    traceparent: str | None = None


@attrs.frozen(kw_only=True)
class PhaseEnded:
    """
    A phase of an export ended.

    Attributes:
        id: As for `PhaseStarted`, and so are the others.
        seconds: How long it took.
        error: The name of the exception's class; None if it went well.
        reason: Its text, without secrets.
        rows: Members in the file that was saved, where they were counted.
        size: Bytes of that file.
    """

    id: int
    phase: Phase
    cohort_id: str | None
    request_id: str | None = None
    traceparent: str | None = None
    seconds: float
    error: str | None = None
    reason: str = ""
    rows: int | None = None
    size: int | None = None


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
        seconds_left: How long the rest takes at the pace so far, once that is known.
    """

    request_id: str
    received: int
    total: int | None
    seconds_left: float | None = None


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
    | RequestFailed
    | RetryScheduled
    | UsageRead
    | PhaseStarted
    | PhaseEnded
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


@runtime_checkable
class TracingHook(Protocol):
    """A hook that also says which trace the present work belongs to."""

    def __call__(self, event: Event, /) -> None:
        """Handle *event*."""

    def traceparent(self) -> str | None:
        """
        Return the present span as the W3C header ``traceparent``; None without one.

        It is kept with the export that is requested just now, for the one who goes
        on with it: see `PhaseStarted.traceparent`.
        """
