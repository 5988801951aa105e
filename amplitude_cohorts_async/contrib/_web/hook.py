"""The hook of the page's client: what the page shows of its events."""

from __future__ import annotations

from ...events import Event
from .downloads import Downloads
from .writes import count_written

__all__ = ("downloads", "on_event")

downloads = Downloads()
"""Those of this process: the service's ids of exports are its own, whoever asked."""


def on_event(event: Event) -> None:
    """Note the bytes that come and the ids that are written: a client's hook."""
    downloads.note(event)
    count_written(event)
