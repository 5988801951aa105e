"""What libraries log, and which of it is printed."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import attrs

from ..events import BytesReceived, Event
from .resume_hints import announce

__all__ = ("logged_on_stderr", "silence_psycopg", "tell_event")

_UNSHOWN = {"date", "content_type", "header_names"}
"""Attributes of events that would fill the line, and help nobody who reads it."""

_DISCARDS = logging.NullHandler()


class StderrHandler(logging.Handler):
    """Prints what is logged as a line on stderr, without a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        announce(record.getMessage())


@contextmanager
def logged_on_stderr(*, verbose: bool = False) -> Generator[None]:
    """Print the warnings of this library, as that a store is waited for, or all of it."""
    logger = logging.getLogger("amplitude_cohorts_async")
    handler = StderrHandler(logging.INFO if verbose else logging.WARNING)
    before = logger.level
    logger.addHandler(handler)

    if verbose:
        logger.setLevel(logging.INFO)

    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def tell_event(event: Event) -> None:
    """Print an event as a line on stderr, with the time."""
    if isinstance(event, BytesReceived):  # many a second
        return

    facts = attrs.asdict(event, recurse=False)
    words = " ".join(
        f"{name}={_shown(value)}"
        for name, value in facts.items()
        if name not in _UNSHOWN
    )
    announce(f"{datetime.now(UTC):%H:%M:%S} {type(event).__name__} {words}")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"

    text = str(value)

    return repr(text) if " " in text else text


def silence_psycopg() -> None:
    """Print nothing of psycopg's pool: it logs each try to connect, the error says it."""
    # A logger with any handler does not fall back on `logging.lastResort`, which prints
    # to stderr. A handler that it has already is not added again.
    logging.getLogger("psycopg.pool").addHandler(_DISCARDS)
