"""
Answers as models or errors.

An answer is structured into an attrs class by `converter`, and its subject is compared
with the request's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
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
from ..models import Cohort, ExportStatus, Routes, Usage
from .converter import Tolerant, odd_fields, structure
from .ids import checked_request_id
from .json_stream import elements, list_of, mapping_of, opening_of
from .messages import Request, Response
from .polling import JobFailed
from .redact import redact_links, shorten
from .requests import FEWER_PROPERTIES

# Characters that are shown of an unreadable answer, and kept of one short text.
_SHOWN = 300
_SHORT = 100

_NEVER = datetime.max.replace(tzinfo=UTC)
_LATER = "look at it later with `resume_export()`"
_LOOK_FIRST = "find out what was done before trying again"

# Bytes of a document that are decoded in one call: a millisecond's work.
_LONG = 128 * 1024

# Whole words of a status: "UNSUCCESSFUL" and "INCOMPLETE" have parts that say done.
_FAILED = frozenset(
    {
        *("fail", "failed", "failure", "error", "errors", "expired"),
        *("cancel", "canceled", "cancelled", "abort", "aborted"),
    }
)
_DONE = frozenset(
    {
        *("complete", "completed", "done", "finished"),
        *("success", "successful", "succeeded"),
    }
)
_RUNNING = frozenset(
    {
        *("progress", "inprogress", "running", "computing"),
        *("queue", "queued", "enqueued", "pending", "wait", "waiting"),
    }
)


@attrs.frozen(kw_only=True)
class _ExportAnswer(Tolerant):
    # Of any type: the error keeps what cannot be followed.
    request_id: object = None
    cohort_id: str | None = None


@attrs.frozen(kw_only=True)
class _StatusAnswer(Tolerant):
    request_id: str | None = None
    cohort_id: str | None = None
    # Of any type: an unreadable status must not pass for a missing one.
    async_status: object = attrs.field(default=None, repr=False)
    status: object = attrs.field(default=None, repr=False)

    @property
    def word(self) -> str:
        """The status as it may be shown; "" for none."""
        status = self.status if self.async_status is None else self.async_status

        return "" if status is None else shorten(redact_links(str(status)), _SHORT)


@attrs.frozen(kw_only=True)
class _ErrorBody(Tolerant):
    http_code: int | None = None
    type: str = ""
    message: str = ""
    metadata: Mapping[str, object] = attrs.field(factory=dict[str, object])


def decode(request: Request, response: Response) -> Mapping[str, object]:
    """
    Return the JSON object of a successful answer.

    Raises `UnexpectedResponseError` for any other body, as of a proxy or a login page.
    """
    try:
        document = json.loads(response.body)
    except (ValueError, RecursionError):
        document = None

    if isinstance(document, dict):
        return cast("dict[str, object]", document)

    raise _unreadable(request, response)


def each_cohort(
    request: Request,
    response: Response,
    *,
    routes: Routes = Routes.VENDOR,
    odd: list[str] | None = None,
) -> Iterator[Cohort]:
    """
    Yield the listed cohorts, decoded one at a time.

    What cannot be read of one is left out, as is one without an id, and its path is
    added to *odd*. `UnexpectedResponseError` if that leaves none; the third-party
    description has an example of a list whose only entry is a word.
    """
    paths = [] if odd is None else odd
    is_empty = True

    for index, value in enumerate(_listed(request, response)):
        path = f"$.cohorts[{index}]"

        try:
            cohort = structure(value, Cohort, path=path)
        except UnexpectedResponseError:
            paths.append(path)
            continue

        paths += [f"{path}.{key}" for key in odd_fields(cohort)]
        is_empty = False
        yield cohort

    if is_empty and paths and routes is Routes.VENDOR:
        raise UnexpectedResponseError(
            f"the list of cohorts cannot be read: $.cohorts has no object with an id "
            f"among its {len(paths)} entries: {_quoted(response.body)}",
            path="$.cohorts",
        )


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
            f"the list of cohorts cannot be read: $.cohorts should be an array and is "
            f"{type(listed).__name__}: {_quoted(response.body)}",
            path="$.cohorts",
        )

    yield from listed


def usage(request: Request, response: Response) -> Usage:
    """Return the month's usage."""
    document = decode(request, response)
    counted = document.get("rest_download", document)

    return structure(counted, Usage, path="$.rest_download")


def export_request_id(request: Request, response: Response) -> str:
    """Return the id of the requested job."""
    answer = structure(decode(request, response), _ExportAnswer, path="$")
    request_id = answer.request_id
    text = None if request_id is None else str(request_id)
    check_subject(request, answer, request_id=text)

    try:
        return checked_request_id(text if type(request_id) is int else request_id)
    except InvalidInputError as error:
        raise UnexpectedResponseError(
            f"the export was accepted without a request id that can be followed "
            f"({error}); see in `get_usage()` whether it was counted",
            path="$.request_id",
            request_id=text,
        ) from None


def answered_at(response: Response, *, now: datetime) -> datetime:
    """Return when an answer was made, aware UTC, by the earlier of the two clocks."""
    header_date = date_of(response.headers)

    return now if header_date is None else min(now, header_date)


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """Return the service's clock by the headers of an answer, aware UTC."""
    return _date(headers.get("date", ""))


def export_status(request: Request, response: Response) -> ExportStatus | JobFailed:
    """
    Return the status of a job; `UnexpectedResponseError` if it is another job's.

    The code goes before the text: 202 is running, even with a word of failure, since the
    page has two texts and no failure, and a spent export is not given up for a guess.
    Otherwise the text decides: 200 is done if it says so or is missing, failed or running
    if it says that, as in a third-party description that answers 200 throughout, and
    `UnexpectedResponseError` if it is unknown.
    """
    answer = structure(decode(request, response), _StatusAnswer, path="$")
    check_subject(request, answer)
    text = answer.word
    words = frozenset(re.findall("[a-z]+", text.casefold()))

    if response.status == 202:  # noqa: PLR2004 - still running
        return ExportStatus(done=False, word=text)

    if words & _FAILED:
        return JobFailed(text)

    if words & _RUNNING:
        return ExportStatus(done=False, word=text)

    if words & _DONE or (not text and answer.request_id is not None):
        return ExportStatus(done=True, word=text)

    raise UnexpectedResponseError(
        f"the job was answered {response.status} with the status "
        f"{shorten(repr(text), _SHORT)}, which means neither done nor running; {_LATER}",
        path="$.async_status",
    )


def _holds(text: str, parts: Sequence[str]) -> bool:
    return any(part in text.casefold() for part in parts)


def check_subject(
    request: Request, answer: object, *, request_id: str | None = None
) -> None:
    """
    Raise `UnexpectedResponseError` if an answer names another subject than the request.

    The subject is read from the attributes of *answer*; *request_id* is for the error.
    """
    for name, asked in request.subject.items():
        answered = getattr(answer, name, None)

        if answered is not None and answered not in asked:
            what = name.removesuffix("_id")
            shown = shorten(redact_links(repr(answered)), _SHORT)
            job = f"; the request id is {request_id!r}" if request_id else ""
            advice = _LATER if request.kind == "poll" else _LOOK_FIRST
            raise UnexpectedResponseError(
                f"{request.operation} was answered for {what} {shown}, where "
                f"{' or '.join(map(repr, asked))} was asked for{job}; {advice}",
                path=f"$.{name}",
                request_id=request_id,
            )


def _unreadable(request: Request, response: Response) -> UnexpectedResponseError:
    kind = shorten(response.headers.get("content-type", "no content type"), _SHORT)

    return UnexpectedResponseError(
        f"{request.operation} was answered {response.status} with {kind} instead of "
        f"a JSON object: {_quoted(response.body)}; check the base URL and any proxy in "
        f"between"
    )


def refusal_in(request: Request, response: Response) -> ApiError | None:
    """Return the error that a success holds; None if its code is not 4xx or 5xx."""
    code = _error_body(response.body).http_code or 0
    # The headers are those of a success, so there is no date in them to compare.
    bare = attrs.evolve(response, headers={})

    return error_of(request, bare, now=_NEVER) if code // 100 in {4, 5} else None


def error_of(request: Request, response: Response, *, now: datetime) -> ApiError:
    """Return the error for an unsuccessful answer; *now* is aware UTC."""
    body = _error_body(response.body)
    # In a success that holds an error, the error's code decides.
    status = (response.is_success and body.http_code) or response.status
    details = _details(body, response.body)
    kind = _class_of(status, details)
    # The page lists no status of a refusal that names ids: any that says no more.
    ids = _ids_in(body.metadata) if kind is BadRequestError else ()
    kind = InvalidIdsError if ids else kind
    build = partial(InvalidIdsError, sample=ids) if ids else kind

    code = (
        ""
        if body.http_code in {None, response.status}
        else f" (its body says {body.http_code})"
    )
    shown = f": {shorten(details, _SHOWN)}" if details else ""

    return build(
        f"{request.operation} ({request.method} {request.path}) was answered "
        f"{response.status}{code}{shown}; {_NEXT[kind]}{_more_advice(request, status)}",
        status=status,
        type=shorten(body.type, _SHORT),
        details=details,
        api_message=body.message,
        http_code=body.http_code,
        metadata=body.metadata,
        retry_after=retry_after(response.headers, now=now),
        date=date_of(response.headers),
    )


def _more_advice(request: Request, status: int) -> str:
    is_slow = status == 504 and "props=1" in request.query  # noqa: PLR2004

    return f". {FEWER_PROPERTIES}" if is_slow else ""


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return the seconds the service asks to wait; None without a valid header."""
    text = headers.get("retry-after", "").strip()

    try:
        seconds = float(text)
    except ValueError:
        until = _date(text)
        if until is None:
            return None
        seconds = (until - now).total_seconds()

    # NaN compares false.
    return seconds if 0 <= seconds < float("inf") else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None

    return None if date.tzinfo is None else date


def _error_body(body: bytes) -> _ErrorBody:
    text = redact_links(body.decode("utf-8", "surrogateescape"))

    try:
        document = mapping_of(json.loads(text.encode("utf-8", "surrogateescape")))
    except (ValueError, RecursionError):
        return _ErrorBody()

    error = document.get("error", document)
    # The error may be an object, or a text beside its metadata.
    envelope = mapping_of(error) or {**document, "message": error}

    return structure(envelope, _ErrorBody, path="$.error")


def _details(error: _ErrorBody, body: bytes) -> str:
    # The useful text is in the metadata; "message" is mostly boilerplate.
    details = error.metadata.get("details")

    return (
        (details if isinstance(details, str) else "") or error.message or _excerpt(body)
    )


def _excerpt(body: bytes) -> str:
    text = " ".join(body[: 4 * _SHOWN].decode("utf-8", "replace").split())

    return shorten(redact_links(text), _SHOWN)


def _quoted(body: bytes) -> str:
    return shorten(repr(_excerpt(body)), _SHOWN)


def _class_of(status: int, details: str) -> type[ApiError]:
    if status == 403:  # noqa: PLR2004 - wrong keys and a wrong plan look alike
        wrong_keys = _holds(details, ("api key", "secret key"))
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
    # A list of ids may stand anywhere, under various names. A stack, because a body may
    # nest deeper than Python's recursion limit.
    found: list[str] = []
    stack: list[tuple[object, bool]] = [(metadata, False)]

    while stack:
        value, are_ids = stack.pop()

        if are_ids and isinstance(value, str | int):
            found.append(str(value))

        inside = [(item, are_ids) for item in list_of(value)]
        inside += [
            (item, isinstance(item, list) and "ids" in key.casefold())
            for key, item in mapping_of(value).items()
        ]
        stack += reversed(inside)

    return list(dict.fromkeys(found))


_NEXT: dict[type[ApiError], str] = {
    AuthenticationError: "check both keys and the region: keys work only in the "
    "region of their project",
    PermissionDeniedError: "ask an admin whether the plan and the project allow this",
    NotFoundError: "check the id; only discoverable cohorts can be found",
    RateLimitedError: "try again later, or share one limiter between all processes",
    ServerError: "try again later",
    BadRequestError: "see the error's .details and .metadata",
    InvalidIdsError: "take the ids in .sample out; skip_invalid_ids=True skips them, "
    "unless none of the ids is known",
}
