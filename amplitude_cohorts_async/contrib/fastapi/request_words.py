"""Says errors whose advice is a call of the client in the words of who sends requests."""

from __future__ import annotations

import re

from ...errors import AmbiguousExportError, CohortsError

__all__ = ("in_request_words",)

_ENDPOINT = re.compile(r" \([A-Z]+ /api/\S+\)| at https?://\S+?/api/\S+")
"""Which endpoint of Amplitude's was asked: none that the reader can ask."""

_WORDS = (
    ("look at `get_usage()`", "look at the month's usage"),
    ("see in `get_usage()`", "see in the month's usage"),
    (
        "call forget_job() with its record and request it again",
        "start a new one, with another Idempotency-Key",
    ),
    ("; see the error's .details and .metadata", ""),
)
"""What errors say to callers of the client, and to callers of a service."""


def in_request_words(error: CohortsError) -> str:
    """Return the text of an error, with the request that helps."""
    if isinstance(error, AmbiguousExportError):
        return (
            f"{error.doubt}. Nothing more was spent: look at the month's usage; the same "
            f"order with another Idempotency-Key requests another export"
        )

    text = _ENDPOINT.sub("", str(error))

    for python, http in _WORDS:
        text = text.replace(python, http)

    return text
