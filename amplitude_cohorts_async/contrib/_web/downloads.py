"""The files that this process is receiving: how much is here, how fast, how long yet."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from ...events import BytesReceived, Event, PhaseEnded

__all__ = ("Download", "Downloads")

_MOST_ROWS = 1000


@attrs.frozen(kw_only=True)
class Download:
    """
    How far a file is.

    Attributes:
        received: Bytes so far, as the service's store has them: mostly compressed.
        total: Bytes of the whole file there; None if the store does not say.
        pace: Bytes a second; None before it is known.
        seconds_left: From now on; None if it is not known.
    """

    received: int
    total: int | None = None
    pace: float | None = None
    seconds_left: float | None = None


@attrs.frozen
class _Report:
    """The last event of a download, and when it came."""

    at: float
    event: BytesReceived


class Downloads:
    """
    What the events of a client tell of its downloads.

    Args:
        now: Returns seconds, on a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: dict[str, _Report] = {}
        self._last: dict[str, _Report] = {}
        self._rows: dict[str, int] = {}

    def note(self, event: Event) -> None:
        """Note what an event tells."""
        match event:
            case BytesReceived():
                self._count(event)
            case PhaseEnded(phase="download", request_id=str(request_id)):
                self._first.pop(request_id, None)
                self._last.pop(request_id, None)
                self._note_rows(request_id, event.rows)
            case _:
                pass

    def find(self, request_id: str) -> Download | None:
        """Return how far the file of an export is; None if none of it comes here."""
        last = self._last.get(request_id)

        if last is None:
            return None

        event, left = last.event, last.event.seconds_left
        if left is not None:
            left = max(0.0, left - (self._now() - last.at))

        return Download(
            received=event.received,
            total=event.total,
            pace=self._pace(request_id, last),
            seconds_left=left,
        )

    def rows(self, request_id: str) -> int | None:
        """Return the rows of a file that came whole; None if they are not known."""
        return self._rows.get(request_id)

    def _count(self, event: BytesReceived) -> None:
        report = _Report(self._now(), event)
        first = self._first.get(event.request_id)

        # Less than before: it starts over.
        if first is None or event.received < first.event.received:
            self._first[event.request_id] = report
        self._last[event.request_id] = report

    def _pace(self, request_id: str, last: _Report) -> float | None:
        event, first = last.event, self._first[request_id]

        if event.total is not None and event.seconds_left:
            return (event.total - event.received) / event.seconds_left

        seconds = last.at - first.at
        return (event.received - first.event.received) / seconds if seconds else None

    def _note_rows(self, request_id: str, rows: int | None) -> None:
        if rows is None:
            return

        self._rows[request_id] = rows
        for name in [*self._rows][:-_MOST_ROWS]:
            del self._rows[name]
