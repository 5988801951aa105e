"""Requests to the service and its answers, as values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Literal

import attrs

from ..limits import Kind

Operation = Literal["list", "usage", "export", "status", "file", "upload", "membership"]


class Replay(Enum):
    """
    What sending a request a second time can cause.

    SAFE: no harm. COSTLY: another export of the monthly quota is spent. UNSAFE: a
    second cohort is created.
    """

    SAFE = "safe"
    COSTLY = "costly"
    UNSAFE = "unsafe"


@attrs.frozen(kw_only=True)
class Request:
    """
    One request, complete except for the origin and the credentials.

    Attributes:
        path: Absolute and already percent-encoded.
        query: Already percent-encoded, without the question mark.
        template: The path with a name in braces for each id; empty for one without ids.
        subject: The allowed values of each answer field that names what the request
            is about, as in ``cohort_id``; an answer about something else is an error.
    """

    operation: Operation
    method: Literal["GET", "POST"] = "GET"
    path: str
    template: str = ""
    query: str = ""
    body: bytes | None = attrs.field(default=None, repr=False)
    replay: Replay = Replay.SAFE
    kind: Kind = "other"
    subject: Mapping[str, Collection[str]] = attrs.field(factory=dict[str, list[str]])


@attrs.frozen(kw_only=True)
class Response:
    """
    One answer, read to its end, without its content encoding.

    `headers` are by lower-case name, with the last value of a repeated one.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004
