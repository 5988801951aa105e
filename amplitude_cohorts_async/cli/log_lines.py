"""What libraries log, and which of it is printed."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from .resume_hints import announce

__all__ = ("silence_psycopg", "warnings_on_stderr")

_DISCARDS = logging.NullHandler()


class StderrHandler(logging.Handler):
    """Prints what is logged as a line on stderr, without a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        announce(record.getMessage())


@contextmanager
def warnings_on_stderr() -> Generator[None]:
    """Print the warnings of this library, as that a new store is waited for."""
    logger = logging.getLogger("amplitude_cohorts_async")
    handler = StderrHandler(logging.WARNING)
    logger.addHandler(handler)

    try:
        yield
    finally:
        logger.removeHandler(handler)


def silence_psycopg() -> None:
    """Print nothing of psycopg's pool: it logs each try to connect, the error says it."""
    # A logger with any handler does not fall back on `logging.lastResort`, which prints
    # to stderr. A handler that it has already is not added again.
    logging.getLogger("psycopg.pool").addHandler(_DISCARDS)
