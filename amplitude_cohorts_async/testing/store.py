"""
The store behind the links: one object, with the manners of Amazon S3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime

import attrs

from .answers import Answer, xml_answer
from .csvfiles import StoredObject
from .links import Link

__all__ = (
    "StoreRequest",
    "answer_object",
    "check_age",
    "check_request",
    "object_headers",
    "signature_mismatch",
)

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@attrs.frozen(kw_only=True)
class StoreRequest:
    """
    What was asked of the store.

    Attributes:
        headers: Names in lower case; those that a fault hides are not there.
    """

    method: str
    headers: Mapping[str, str]


def check_request(request: StoreRequest) -> tuple[str, Answer] | None:
    """
    Return the rule that a request breaks, and the answer to that.
    """
    if "authorization" in request.headers:
        message = (
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query "
            "parameter, Signature query string parameter or the Authorization "
            "header should be specified"
        )
        answer = xml_answer(
            400, "InvalidArgument", message, ArgumentName="Authorization"
        )
        return "credentials at the store", answer

    if "cookie" in request.headers:
        return "cookie at the store", xml_answer(
            400, "InvalidArgument", "No cookies are for this origin"
        )

    if request.method != "GET":
        return "method at the store", signature_mismatch()

    return None


def check_age(link: Link, *, now: float, utcnow: datetime) -> Answer | None:
    """
    Return the refusal of a link that is no longer good.
    """
    if now < link.expires_at:
        return None

    return xml_answer(
        403,
        "AccessDenied",
        "Request has expired",
        Expires=f"{link.expires_on:%Y-%m-%dT%H:%M:%SZ}",
        ServerTime=f"{utcnow:%Y-%m-%dT%H:%M:%SZ}",
    )


def answer_object(
    request: StoreRequest, stored: StoredObject, headers: Mapping[str, str]
) -> Answer:
    """
    Return the object, a part of it, or why not.

    Args:
        headers: What the store sends with this object besides.
    """
    asked = request.headers
    common = {**headers, "ETag": stored.etag, "Accept-Ranges": "bytes"}

    if answer := _condition_failed(asked, stored.etag):
        return answer

    span = None

    if asked.get("if-range", stored.etag) == stored.etag:
        span = _span(asked.get("range", ""), stored.size)

    if span is None:
        return Answer(status=200, headers=common, body=stored.part(0, stored.size))

    start, stop = span

    if start >= stop:
        return _unsatisfiable(asked["range"], stored.size)

    common["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size}"

    return Answer(status=206, headers=common, body=stored.part(start, stop))


def object_headers(modified: datetime, *, encoding: str | None) -> dict[str, str]:
    """
    Return the headers that do not depend on the request.
    """
    headers = {
        "Content-Type": "binary/octet-stream",
        "Last-Modified": format_datetime(modified, usegmt=True),
        "Server": "AmazonS3",
        "x-amz-request-id": "4YHEP1F2R3J7D0AB",
        "x-amz-server-side-encryption": "AES256",
    }

    return headers if encoding is None else {**headers, "Content-Encoding": encoding}


def signature_mismatch() -> Answer:
    """
    Return the refusal of a request that is not, byte for byte, as signed.
    """
    return xml_answer(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you "
        "provided. Check your key and signing method.",
    )


def _condition_failed(asked: Mapping[str, str], etag: str) -> Answer | None:
    if not _matches(asked.get("if-match", "*"), etag):
        return xml_answer(
            412,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            Condition="If-Match",
        )

    if "if-none-match" in asked and _matches(asked["if-none-match"], etag):
        return Answer(status=304, headers={"ETag": etag, "Server": "AmazonS3"})

    return None


def _matches(condition: str, etag: str) -> bool:
    # Compared as strong tags: a weak one never matches.
    tags = [tag.strip() for tag in condition.split(",")]

    return "*" in tags or etag in tags


def _span(header: str, size: int) -> tuple[int, int] | None:
    """
    Return the bytes that a Range asks for.

    None when it is no single range of bytes: then it is as if it were not
    there. An empty span cannot be satisfied.
    """
    match = _RANGE.fullmatch(header.replace(" ", ""))

    if match is None or match[1] == match[2] == "":
        return None

    if not match[1]:
        last = int(match[2])
        return (max(0, size - last), size) if last else (size, size)

    start = int(match[1])
    stop = int(match[2]) + 1 if match[2] else size

    if match[2] and stop <= start:
        return None

    return start, min(stop, size)


def _unsatisfiable(header: str, size: int) -> Answer:
    answer = xml_answer(
        416,
        "InvalidRange",
        "The requested range is not satisfiable",
        RangeRequested=header,
        ActualObjectSize=str(size),
    )

    return attrs.evolve(
        answer, headers={**answer.headers, "Content-Range": f"bytes */{size}"}
    )
