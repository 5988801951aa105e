"""
What an answer means: a model, or the right error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import cast

import attrs

from ..errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    InvalidIdsError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnexpectedResponseError,
)
from ..models import Cohort, ExportStatus, Usage
from .converter import structure, structure_each
from .elements import elements, opening_of
from .ids import checked_request_id
from .redact import redact_links
from .shapes import list_of, mapping_of, strings_of
from .wire import Request, Response

_SHOWN = 300
"""
Characters of an unreadable answer that a message shows.
"""

_LONG = 128 * 1024
"""
Bytes of a document that are decoded in one go: a millisecond's work.
"""

_FAILED_WORDS = ("fail", "error", "cancel", "abort", "expired")
_DONE_WORDS = ("complete", "done", "success", "finished")
_RUNNING_WORDS = ("progress", "queue", "comput", "pending", "running", "wait")


def decode(request: Request, response: Response) -> Mapping[str, object]:
    """
    Read the JSON object of a success.

    Raises:
        UnexpectedResponseError: It is something else, as when a proxy or a
            login page answered in the service's place.
    """
    try:
        document = json.loads(response.body)
    except (ValueError, RecursionError):
        document = None

    if isinstance(document, dict):
        return cast("dict[str, object]", document)

    raise _unreadable(request, response)


def each_cohort(request: Request, response: Response) -> Iterator[Cohort]:
    """
    Read the list of cohorts, one at a time.
    """
    return structure_each(_listed(request, response), Cohort, path="$.cohorts")


def _listed(request: Request, response: Response) -> Iterator[object]:
    start = opening_of(response.body, "cohorts")

    if start is not None and len(response.body) > _LONG:
        try:
            yield from elements(response.body, start)
        except (ValueError, RecursionError):
            raise _unreadable(request, response) from None
        return

    listed = decode(request, response).get("cohorts")

    if not isinstance(listed, list):
        raise UnexpectedResponseError(
            f"the list of cohorts cannot be read: an array is due at $.cohorts, and "
            f"there is {type(listed).__name__}: {_excerpt(response.body)!r}",
            path="$.cohorts",
        )

    yield from listed


def usage(request: Request, response: Response) -> Usage:
    """
    Read the month's usage.
    """
    document = decode(request, response)
    counted = document.get("rest_download", document)

    return structure(counted, Usage, path="$.rest_download")


def export_request_id(request: Request, response: Response) -> str:
    """
    Read which job was made.
    """
    document = decode(request, response)
    request_id = document.get("request_id", document.get("requestId"))

    if isinstance(request_id, int) and not isinstance(request_id, bool):
        return str(request_id)

    try:
        return checked_request_id(request_id)
    except InvalidInputError as error:
        raise UnexpectedResponseError(
            f"the export was accepted without a request id that can be followed "
            f"({error}); see in `get_usage()` whether it was counted",
            path="$.request_id",
            request_id=None if request_id is None else str(request_id),
        ) from None


def answered_at(response: Response, *, now: datetime) -> datetime:
    """
    Tell when an answer was made, by the earlier of the two clocks.

    Args:
        now: Aware UTC, by ours.
    """
    told = _date(response.headers.get("date", ""))

    return now if told is None else min(now, told)


@attrs.frozen
class JobFailed:
    """
    The service said that a job ended without a file.
    """

    word: str


def export_status(request: Request, response: Response) -> ExportStatus | JobFailed:
    """
    Read how a job is.

    202 is running, whatever the word: the service documents two words, and
    nobody knows the others. 200 is done if the word says so, or if there is
    none. A word of failure is believed with either code. A third-party
    description answers 200 throughout and lets its word decide.

    Raises:
        UnexpectedResponseError: 200 with a word nobody knows.
    """
    document = decode(request, response)
    told = document.get("async_status", document.get("status", ""))
    word = "" if told is None else redact_links(str(told))
    spoken = word.casefold()

    if any(part in spoken for part in _FAILED_WORDS):
        return JobFailed(word)

    if response.status == 202:  # noqa: PLR2004 - accepted: still running
        return ExportStatus(done=False, word=word)

    if any(part in spoken for part in _RUNNING_WORDS):
        return ExportStatus(done=False, word=word)

    is_silent = not word and "request_id" in document

    if is_silent or any(part in spoken for part in _DONE_WORDS):
        return ExportStatus(done=True, word=word)

    raise UnexpectedResponseError(
        f"the job was answered {response.status} with the status {word!r}, which "
        f"means neither done nor running; look at it later with `resume_export()`",
        path="$.async_status",
    )


def _unreadable(request: Request, response: Response) -> UnexpectedResponseError:
    kind = response.headers.get("content-type", "no content type")

    return UnexpectedResponseError(
        f"{request.operation} was answered {response.status} with {kind} instead of "
        f"a JSON object: {_excerpt(response.body)!r}; check the base URL and any "
        f"proxy in between"
    )


def error_of(request: Request, response: Response, *, now: datetime) -> ApiError:
    """
    Make the error an unsuccessful answer stands for.

    Args:
        now: Aware UTC; a ``Retry-After`` may name a date.
    """
    envelope = _envelope(_without_links(response.body))
    metadata = mapping_of(envelope.get("metadata"))
    details = _details(envelope, metadata, response.body)
    kind = _class_of(response.status, details, metadata)

    error = kind(
        _message(request, response.status, details, kind),
        status=response.status,
        type=str(envelope.get("type") or ""),
        details=details,
        metadata=metadata,
        retry_after=retry_after(response.headers, now=now),
    )

    if isinstance(error, InvalidIdsError):
        error.sample = _skipped_ids(metadata)

    return error


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """
    Read how many seconds the service asks to wait; None when it does not.
    """
    text = headers.get("retry-after", "").strip()

    if not text:
        return None

    try:
        seconds = float(text)
    except ValueError:
        until = _date(text)
        if until is None:
            return None
        seconds = (until - now).total_seconds()

    # Not a number compares false and falls away here.
    return seconds if 0 <= seconds < float("inf") else None


def _date(text: str) -> datetime | None:
    try:
        told = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None

    return told if told.tzinfo is not None else None


def _without_links(body: bytes) -> bytes:
    text = body.decode("utf-8", "surrogateescape")

    return redact_links(text).encode("utf-8", "surrogateescape")


def _envelope(body: bytes) -> Mapping[str, object]:
    try:
        document = mapping_of(json.loads(body))
    except (ValueError, RecursionError):
        return {}

    error = document.get("error", document)

    return mapping_of(error) or {**document, "message": error}


def _details(
    envelope: Mapping[str, object], metadata: Mapping[str, object], body: bytes
) -> str:
    # The useful text is in the metadata; "message" is mostly boilerplate.
    for text in (metadata.get("details"), envelope.get("message")):
        if isinstance(text, str) and text:
            return text

    return _excerpt(body)


def _excerpt(body: bytes) -> str:
    text = " ".join(body[: 4 * _SHOWN].decode("utf-8", "replace").split())

    return redact_links(text)[:_SHOWN]


def _class_of(
    status: int, details: str, metadata: Mapping[str, object]
) -> type[ApiError]:
    if status == 403:  # noqa: PLR2004 - wrong keys and a wrong plan look alike
        wrong_keys = "api key" in details.casefold() or "secret" in details.casefold()
        return AuthenticationError if wrong_keys else PermissionDeniedError

    if status == 400 and _skipped_ids(metadata):  # noqa: PLR2004
        return InvalidIdsError

    if status >= 500:  # noqa: PLR2004
        return ServerError

    return {
        401: AuthenticationError,
        404: NotFoundError,
        410: NotFoundError,
        429: RateLimitedError,
    }.get(status, BadRequestError)


def _skipped_ids(metadata: Mapping[str, object]) -> list[str]:
    found = metadata.get("invalid_ids_sample") or metadata.get("skipped_ids")
    sample = strings_of(found)

    for result in list_of(metadata.get("memberships_result")):
        sample += strings_of(mapping_of(result).get("skipped_ids"))

    return sample


_NEXT: dict[type[ApiError], str] = {
    AuthenticationError: "check both keys and the region: keys work only in the "
    "region of their project",
    PermissionDeniedError: "ask an admin whether the plan and the project allow this",
    NotFoundError: "check the id; only discoverable cohorts can be found",
    RateLimitedError: "try again later, or share one limiter between all processes",
    ServerError: "try again later",
    BadRequestError: "see the error's .details and .metadata",
    InvalidIdsError: "take the ids in .sample out, or pass skip_invalid_ids=True",
}


def _message(request: Request, status: int, details: str, kind: type[ApiError]) -> str:
    said = f": {details}" if details else ""

    return (
        f"{request.operation} ({request.method} {request.path}) was answered "
        f"{status}{said}; {_NEXT[kind]}"
    )
