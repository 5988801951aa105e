"""Which link may be followed, and what the store's answer is a part of."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

import attrs

from ..errors import UnexpectedResponseError
from .redact import redact_url

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def is_loopback(host: str | None) -> bool:
    """Whether *host* is this machine."""
    if host is None:
        return False

    if host == "localhost":
        return True

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def link_target(
    asked: str, location: str | None, *, show: Callable[[str], str] = redact_url
) -> str:
    """
    Return where a redirect leads, byte for byte as the service wrote it.

    Args:
        asked: The URL that answered with the redirect.

        location: Its ``Location``.

        show: Makes of a link what a message may say of it.

    Raises:
        UnexpectedResponseError: There is none, it would send the file's link
            in the clear, it carries credentials of its own, or it is no URL.
    """
    if not location:
        raise UnexpectedResponseError(
            "the file was answered with a redirect that leads nowhere: its "
            "Location is missing; try again later"
        )

    try:
        target = _joined(asked, location)
        parts = urlsplit(target)
        _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:
        raise UnexpectedResponseError(
            "the file's link cannot be read as a URL and was not followed; try again later"
        ) from None

    # A space or a control character would end the line it is sent in.
    if not (target.isascii() and target.isprintable()) or " " in target:
        raise UnexpectedResponseError(
            f"the file's link {show(target)!r} holds a character that no URL "
            f"has, and was not followed"
        )

    encrypted = parts.scheme == "https"

    if not encrypted and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise UnexpectedResponseError(
            f"the file's link {show(target)} is not https and was not followed"
        )

    if "@" in parts.netloc or not parts.hostname:
        raise UnexpectedResponseError(
            f"the file's link {show(target)} names a user, or no host, and was not "
            f"followed"
        )

    return target


def _joined(asked: str, location: str) -> str:
    # A presigned URL is signed as it stands: nothing may be quoted anew, and
    # no path made shorter, as joining does.
    if urlsplit(location).scheme:
        return location

    if location.startswith("/") and not location.startswith("//"):
        asked_parts = urlsplit(asked)
        return f"{asked_parts.scheme}://{asked_parts.netloc}{location}"

    return urljoin(asked, location)


@attrs.frozen(kw_only=True)
class Part:
    """
    What a store sends of an object.

    Attributes:
        start: Offset of the first byte.

        length: Bytes announced, if they are.

        total: Bytes of the whole object, if the store says.
    """

    start: int
    length: int | None
    total: int | None


def part_of(status: int, headers: dict[str, str]) -> Part | None:
    """
    Return which part of the object an answer holds; None when it is unreadable.

    Args:
        status: 200 or 206.

        headers: By lower-case name.
    """
    text = headers.get("content-length", "")
    length = int(text) if text.isdecimal() else None

    if status == 200:  # noqa: PLR2004 - the whole object
        return Part(start=0, length=length, total=length)

    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())

    if match is None:
        return None

    start, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    counted = end - start + 1

    if counted < 1 or (length is not None and length != counted):
        return None

    if total is not None and end >= total:
        return None

    return Part(start=start, length=counted, total=total)
