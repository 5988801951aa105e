"""
What an answer means: a model, or the right error.

An answer is structured into an attrs class by `converter`, and what it is about is
compared with what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypedDict, cast

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
from .converter import Tolerant, structure, structure_each
from .ids import checked_request_id
from .json_stream import elements, list_of, mapping_of, opening_of
from .messages import Request, Response
from .redact import redact_links, shorten

_SHOWN = 300
"""Characters of an unreadable answer that a message shows."""

_WORD = 100
"""Characters of a word of the service's that are kept."""

_LONG = 128 * 1024
"""Bytes of a document that are decoded in one go: a millisecond's work."""

_FAILED_WORDS = ("fail", "error", "cancel", "abort", "expired")
_DONE_WORDS = ("complete", "done", "success", "finished")
_RUNNING_WORDS = ("progress", "queue", "comput", "pending", "running", "wait")


@attrs.frozen(kw_only=True)
class _ExportAnswer(Tolerant):
    # Whatever it is: it is kept where it cannot be followed.
    request_id: object = None
    cohort_id: str | None = None


@attrs.frozen(kw_only=True)
class _StatusAnswer(Tolerant):
    request_id: str | None = None
    # Whatever it is: a word that was not read must not pass for none.
    async_status: object = None
    status: object = None


@attrs.frozen(kw_only=True)
class _ErrorBody(Tolerant):
    http_code: int | None = None
    type: str = ""
    message: str = ""
    metadata: Mapping[str, object] = attrs.field(factory=dict[str, object])


@attrs.frozen(kw_only=True)
class _ErrorMetadata(Tolerant):
    details: str = ""


def decode(request: Request, response: Response) -> Mapping[str, object]:
    """
    Return the JSON object of a success.

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
    """Return the listed cohorts, one at a time."""
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
            f"there is {type(listed).__name__}: {shorten(repr(_excerpt(response.body)), _SHOWN)}",
            path="$.cohorts",
        )

    yield from listed


def usage(request: Request, response: Response) -> Usage:
    """Return the month's usage."""
    document = decode(request, response)
    counted = document.get("rest_download", document)

    return structure(counted, Usage, path="$.rest_download")


def export_request_id(request: Request, response: Response) -> str:
    """Return the id of the job that was made."""
    answer = structure(decode(request, response), _ExportAnswer, path="$")
    given = answer.request_id
    request_id = str(given) if type(given) is int else given
    check_subject(
        request, answer, request_id=None if request_id is None else str(request_id)
    )

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
    Return when an answer was made, by the earlier of the two clocks.

    Args:
        now: Aware UTC, by ours.
    """
    header_date = _date(response.headers.get("date", ""))

    return now if header_date is None else min(now, header_date)


@attrs.frozen
class JobFailed:
    """The service said that a job ended without a file."""

    word: str


def export_status(request: Request, response: Response) -> ExportStatus | JobFailed:
    """
    Return the status of a job.

    202 is running, whatever the word: the service documents two words, and
    others are not known. 200 is done if the word says so, or if there is
    none. A word of failure is believed with either code. A third-party
    description answers 200 throughout and lets its word decide.

    Raises:
        UnexpectedResponseError: 200 with a word that is not known.
    """
    answer = structure(decode(request, response), _StatusAnswer, path="$")
    status = answer.status if answer.async_status is None else answer.async_status
    word = "" if status is None else shorten(redact_links(str(status)), _WORD)
    lower_word = word.casefold()

    if any(part in lower_word for part in _FAILED_WORDS):
        return JobFailed(word)

    if response.status == 202:  # noqa: PLR2004 - accepted: still running
        return ExportStatus(done=False, word=word)

    if any(part in lower_word for part in _RUNNING_WORDS):
        return ExportStatus(done=False, word=word)

    is_silent = not word and answer.request_id is not None

    if is_silent or any(part in lower_word for part in _DONE_WORDS):
        return ExportStatus(done=True, word=word)

    raise UnexpectedResponseError(
        f"the job was answered {response.status} with the status {shorten(repr(word), _WORD)}, which "
        f"means neither done nor running; look at it later with `resume_export()`",
        path="$.async_status",
    )


def check_subject(
    request: Request, answer: object, *, request_id: str | None = None
) -> None:
    """
    Check that an answer is about what was asked, as far as it says so.

    Args:
        answer: Has an attribute, perhaps None, for what it says it is about.

        request_id: The job that was made, for the error.

    Raises:
        UnexpectedResponseError: It is about something else.
    """
    for name, asked in request.subject.items():
        answered = getattr(answer, name, None)

        if answered is not None and answered not in asked:
            what = name.removesuffix("_id")
            shown = shorten(redact_links(repr(answered)), _WORD)
            made = f"; the request id is {request_id!r}" if request_id else ""
            raise UnexpectedResponseError(
                f"{request.operation} was answered for {what} {shown}, where "
                f"{' or '.join(map(repr, asked))} was asked for{made}; find out what "
                f"was done before trying again",
                path=f"$.{name}",
                request_id=request_id,
            )


def _unreadable(request: Request, response: Response) -> UnexpectedResponseError:
    kind = shorten(response.headers.get("content-type", "no content type"), _WORD)

    return UnexpectedResponseError(
        f"{request.operation} was answered {response.status} with {kind} instead of "
        f"a JSON object: {shorten(repr(_excerpt(response.body)), _SHOWN)}; check the base URL and any "
        f"proxy in between"
    )


def error_of(request: Request, response: Response, *, now: datetime) -> ApiError:
    """
    Return the error that an unsuccessful answer stands for.

    Args:
        now: Aware UTC; a ``Retry-After`` may name a date.
    """
    body = _error_body(_without_links(response.body))
    details = _details(body, response.body)
    parts = _ErrorParts(
        status=response.status,
        type=shorten(body.type, _WORD),
        details=details,
        api_message=body.message,
        http_code=body.http_code,
        metadata=body.metadata,
        retry_after=retry_after(response.headers, now=now),
    )

    if response.status == 400 and (ids := _ids_in(body.metadata)):  # noqa: PLR2004
        message = _message(request, parts, InvalidIdsError)
        return InvalidIdsError(message, sample=ids, **parts)

    kind = _class_of(response.status, details)

    return kind(_message(request, parts, kind), **parts)


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return how many seconds the service asks to wait; None when it does not."""
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
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None

    return moment if moment.tzinfo is not None else None


def _without_links(body: bytes) -> bytes:
    text = body.decode("utf-8", "surrogateescape")

    return redact_links(text).encode("utf-8", "surrogateescape")


def _error_body(body: bytes) -> _ErrorBody:
    try:
        document = mapping_of(json.loads(body))
    except (ValueError, RecursionError):
        return _ErrorBody()

    error = document.get("error", document)
    # The error may be an object, or one word beside its metadata.
    envelope = mapping_of(error) or {**document, "message": error}

    return structure(envelope, _ErrorBody, path="$.error")


def _details(error: _ErrorBody, body: bytes) -> str:
    # The useful text is in the metadata; "message" is mostly boilerplate.
    details = structure(error.metadata, _ErrorMetadata, path="$.metadata").details

    return details or error.message or _excerpt(body)


def _excerpt(body: bytes) -> str:
    text = " ".join(body[: 4 * _SHOWN].decode("utf-8", "replace").split())

    return shorten(redact_links(text), _SHOWN)


def _class_of(status: int, details: str) -> type[ApiError]:
    if status == 403:  # noqa: PLR2004 - wrong keys and a wrong plan look alike
        wrong_keys = "api key" in details.casefold() or "secret" in details.casefold()
        return AuthenticationError if wrong_keys else PermissionDeniedError

    if status >= 500:  # noqa: PLR2004
        return ServerError

    return {
        401: AuthenticationError,
        404: NotFoundError,
        410: NotFoundError,
        429: RateLimitedError,
    }.get(status, BadRequestError)


def _ids_in(metadata: Mapping[str, object]) -> Sequence[str]:
    # Wherever a list of ids stands, and whatever it is called. A stack, because a
    # body may nest deeper than Python's own calls go.
    found: list[str] = []
    left: list[tuple[object, bool]] = [(metadata, False)]

    while left:
        value, are_ids = left.pop()

        if are_ids and isinstance(value, str | int):
            found.append(str(value))

        inside = [(item, are_ids) for item in list_of(value)]
        inside += [
            (item, isinstance(item, list) and "ids" in key.casefold())
            for key, item in mapping_of(value).items()
        ]
        left += reversed(inside)

    return list(dict.fromkeys(found))


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


class _ErrorParts(TypedDict):
    status: int
    type: str
    details: str
    api_message: str
    http_code: int | None
    metadata: Mapping[str, object]
    retry_after: float | None


def _message(request: Request, parts: _ErrorParts, kind: type[ApiError]) -> str:
    status, code = parts["status"], parts["http_code"]
    differing = "" if code in {None, status} else f" (its body says {code})"
    details = f": {shorten(parts['details'], _SHOWN)}" if parts["details"] else ""

    return (
        f"{request.operation} ({request.method} {request.path}) was answered "
        f"{status}{differing}{details}; {_NEXT[kind]}"
    )
