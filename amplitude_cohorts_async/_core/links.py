"""Checks of the link to a file, and of the range a store's answer holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import SplitResult, urljoin, urlsplit

import attrs

from ..errors import UnexpectedResponseError
from .redact import redact_url
from .secret import Secret

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def is_loopback(host: str | None) -> bool:
    """Whether *host* is this machine."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def link_target(
    asked: str, location: str | None, *, show: Callable[[str], str] = redact_url
) -> Secret:
    """
    Return the target of a redirect from *asked*, byte for byte as the service wrote it.

    Raises `UnexpectedResponseError` if it is missing, not a URL, not encrypted, or
    carries credentials of its own; *show* returns what the message may show of it.
    """
    if not location:
        raise UnexpectedResponseError(
            "the file was answered with a redirect that leads nowhere: its "
            "Location is missing; try again later"
        )

    # Nothing in the frame of an error shows the link.
    location = Secret(location)
    link = _read_link(asked, location)

    if link is None:
        raise UnexpectedResponseError(
            "the file's link cannot be read as a URL and was not followed; try again "
            "later"
        )

    if link.fault is not None:
        raise UnexpectedResponseError(
            f"the file's link {show(link.target)!r} {link.fault} and was not followed"
        )

    return link.target


@attrs.frozen
class _Link:
    target: Secret
    fault: str | None


def _read_link(asked: str, location: str) -> _Link | None:
    try:
        target = _joined(asked, location)
        parts = urlsplit(target)
        _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:
        return None

    return _Link(Secret(target), _fault_of(target, parts))


def _fault_of(target: str, parts: SplitResult) -> str | None:
    # A space or a control character would end the request line.
    if not (target.isascii() and target.isprintable()) or " " in target:
        return "holds a character that no URL has,"

    is_local = parts.scheme == "http" and is_loopback(parts.hostname)

    if parts.scheme != "https" and not is_local:
        return "is not https"

    if "@" in parts.netloc or not parts.hostname:
        return "names a user, or no host,"

    return None


def _joined(asked: str, location: str) -> str:
    # The signature covers the URL as it stands: it must not be quoted again, nor its
    # path shortened, as urljoin() does.
    if urlsplit(location).scheme:
        return location

    if location.startswith("/") and not location.startswith("//"):
        asked_parts = urlsplit(asked)
        return f"{asked_parts.scheme}://{asked_parts.netloc}{location}"

    return urljoin(asked, location)


@attrs.frozen(kw_only=True)
class Part:
    """
    The part of an object that an answer holds, in bytes.

    `length` is None if it was not announced, `total` if the whole size is unknown.
    """

    start: int
    length: int | None
    total: int | None


def part_of(status: int, headers: dict[str, str]) -> Part | None:
    """Return the part of the object that a 200 or 206 holds; None when unreadable."""
    text = headers.get("content-length", "")
    length = int(text) if text.isdecimal() else None

    if status == 200:  # noqa: PLR2004 - the whole object
        return Part(start=0, length=length, total=length)

    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())

    if match is None:
        return None

    start, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    size = end - start + 1
    is_sound = size > 0 and length in {None, size} and (total is None or end < total)

    return Part(start=start, length=size, total=total) if is_sound else None
