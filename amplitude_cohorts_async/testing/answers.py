"""
Answers as values, in the shapes the live service sends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import attrs

__all__ = ("Answer", "FileBody", "Refused", "envelope", "json_answer", "xml_answer")

_JSON_HEADERS = {
    "Content-Type": "application/json; charset=UTF-8",
    "Cache-Control": "no-cache",
    "Server-Timing": "dash;dur=42",
    "Set-Cookie": "SERVERID=; Expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/",
}


@attrs.frozen
class FileBody:
    """
    A part of a file on disk, to be sent without reading it here.
    """

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        """
        Count the bytes.
        """
        return self.stop - self.start


@attrs.frozen(kw_only=True)
class Answer:
    """
    One answer.

    Attributes:
        chunked: Whether it goes out in chunks, without a Content-Length.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    body: bytes | FileBody = b""
    chunked: bool = False


class Refused(Exception):  # noqa: N818 - the service's word, not our error
    """
    The service says no.

    Attributes:
        details: The one useful text of the vendor's error envelope.

        rule: The rule the client broke, if it broke one.

        metadata: What stands beside the details.
    """

    def __init__(
        self,
        status: int,
        details: str,
        *,
        rule: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(details)
        self.status = status
        self.details = details
        self.rule = rule
        self.metadata: Mapping[str, object] = metadata or {}


def json_answer(value: object, *, status: int = 200) -> Answer:
    """
    Return *value* as the live service sends JSON: chunked, with a weak tag.
    """
    body = json.dumps(value, separators=(",", ":")).encode()
    tag = hashlib.sha1(body, usedforsecurity=False).hexdigest()

    return Answer(
        status=status,
        headers={**_JSON_HEADERS, "Etag": f'W/"{tag}"'},
        body=body,
        chunked=True,
    )


def envelope(
    status: int, details: str, *, metadata: Mapping[str, object] | None = None
) -> Answer:
    """
    Return the error envelope that all endpoints of the vendor share.
    """
    error = {
        "http_code": status,
        "type": "unspecified",
        "message": "Unspecified Error",
        "metadata": {"details": details, **(metadata or {})},
    }

    return json_answer({"error": error}, status=status)


def xml_answer(status: int, code: str, message: str, **more: str) -> Answer:
    """
    Return an error of the store, in its XML.
    """
    parts = {"Code": code, "Message": message, **more, "RequestId": "4YHEP1F2R3J7D0AB"}
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in parts.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'

    return Answer(
        status=status,
        headers={"Content-Type": "application/xml", "Server": "AmazonS3"},
        body=body.encode(),
        chunked=True,
    )
