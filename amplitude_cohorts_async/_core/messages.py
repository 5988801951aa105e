"""What goes out and what comes back, as values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Literal

import attrs

from ..limits import Kind

Operation = Literal["list", "usage", "export", "status", "file", "upload", "membership"]


class Replay(Enum):
    """
    What sending a request once more may do.

    Attributes:
        SAFE: Nothing: the end is the same.

        COSTLY: Spend another of the month's exports.

        UNSAFE: Make a second cohort.
    """

    SAFE = "safe"
    COSTLY = "costly"
    UNSAFE = "unsafe"


@attrs.frozen(kw_only=True)
class Request:
    """
    One request, complete but for the origin and the credentials.

    Attributes:
        path: Absolute and already percent-encoded.

        query: Already percent-encoded, without the question mark.

        body: JSON, encoded.

        subject: What it is about, by the name that the answer has for it, as in
            ``cohort_id``; an answer about something else is an error.
    """

    operation: Operation
    method: Literal["GET", "POST"] = "GET"
    path: str
    query: str = ""
    body: bytes | None = attrs.field(default=None, repr=False)
    replay: Replay = Replay.SAFE
    kind: Kind = "other"
    subject: Mapping[str, Collection[str]] = attrs.field(factory=dict[str, list[str]])


@attrs.frozen(kw_only=True)
class Response:
    """
    One answer, read to its end.

    Attributes:
        headers: By lower-case name; the last of a repeated name.

        body: The content, after any content encoding has been undone.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the service did what it was asked for."""
        return 200 <= self.status < 300  # noqa: PLR2004
