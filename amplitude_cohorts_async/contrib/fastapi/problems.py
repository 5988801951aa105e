"""Errors as answers: `application/problem+json` (RFC 9457) for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from ... import errors
from .request_words import in_request_words

__all__ = (
    "PROBLEM_RESPONSE",
    "Problem",
    "ProblemError",
    "ProblemRoute",
    "install_problems",
    "problem_of",
    "problem_of_any",
)

_MEDIA_TYPE = "application/problem+json"

_NO_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}

_SOON = 5.0
"""Seconds until a store or a connection may work again."""

# The first class that fits decides. An error of our keys is none of the caller's.
_STATUS: tuple[tuple[type[errors.CohortsError], HTTPStatus], ...] = (
    (errors.InvalidInputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.LimiterUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.JobStoreUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.QuotaError, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.RateLimitedError, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.RequestTimeoutError, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.NotFoundError, HTTPStatus.NOT_FOUND),
    (errors.ExportExpiredError, HTTPStatus.GONE),
    (errors.AmbiguousExportError, HTTPStatus.CONFLICT),
    (errors.StorageError, HTTPStatus.INSUFFICIENT_STORAGE),
    (errors.ConfigurationError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.MissingExtraError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.CohortsError, HTTPStatus.BAD_GATEWAY),
)


class Problem(BaseModel):
    """
    What went wrong, as RFC 9457 has it, with three members of ours.

    Attributes:
        title: The status in words.
        detail: What happened, to which thing, how much, and what to do next.
        error: The class of the error in `amplitude_cohorts_async.errors`, if it is one.
        token: With it a spent export goes on, by ``CohortsClient.resume_export()``.
        retry_after: Seconds, as in the header ``Retry-After``.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    error: str | None = None
    token: str | None = None
    retry_after: int | None = None


class ProblemError(Exception):
    """A problem that the kit itself finds: it is the answer."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.problem: Problem = _problem(status, detail, retry_after=retry_after)


_EXPECTED = (
    ProblemError,
    errors.CohortsError,
    AnyHTTPException,
    RequestValidationError,
)
"""Errors that are answers; all others are faults of the server."""

# Its schema is written out: an app may have a model of the same name.
PROBLEM_RESPONSE: dict[str, object] = {
    "description": "A problem",
    "content": {_MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
}
"""How OpenAPI describes the answer to an error."""


class ProblemRoute(APIRoute):
    """A route whose errors are problems, and whose answers are kept by no cache."""

    def get_route_handler(
        self,
    ) -> Callable[[Request], Coroutine[object, object, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            """Answer with a problem instead of an error."""
            try:
                response = await handle(request)
            except _EXPECTED as error:
                response = _answer(error)

            response.headers.setdefault("Cache-Control", "no-store")
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
            return response

        return answer


def install_problems(app: FastAPI) -> None:
    """
    Let an app answer with a problem to every error, on whichever route or on none.

    The router's own routes do so anyway. This is for the others: no route (404), a
    method that a route does not have (405), an invalid request, an `HTTPException`, a
    `CohortsError`, and anything unforeseen (500), of which only the log says more.
    Headers of an `HTTPException` are kept. A handler that is added later goes before.
    """
    for kind in (*_EXPECTED, Exception):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return _answer(error)


def problem_of_any(error: Exception) -> Problem:
    """Return any error as a problem; of one that is unforeseen nothing is told."""
    match error:
        case ProblemError():
            return error.problem
        case errors.CohortsError():
            return problem_of(error)
        case AnyHTTPException():
            return _problem(error.status_code, str(error.detail))
        case RequestValidationError():
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, _invalid(error))
        case _:
            return _problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "the server failed unexpectedly; its log says more",
            )


def problem_of(error: errors.CohortsError) -> Problem:
    """Return an error as a problem."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    detail = in_request_words(error)
    problem = _problem(status, detail, retry_after=_retry_after(error))

    return problem.model_copy(
        update={"error": type(error).__name__, "token": error.token}
    )


def _problem(status: int, detail: str, *, retry_after: float | None = None) -> Problem:
    return Problem(
        title=_phrase(status),
        status=status,
        detail=detail,
        retry_after=None if retry_after is None else max(1, math.ceil(retry_after)),
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # as 499 of some proxies
        return f"Status {status}"


def _retry_after(error: errors.CohortsError) -> float | None:
    match error:
        case errors.QuotaWaitError():
            return error.seconds
        case errors.MonthlyQuotaError(resets_at=datetime() as resets_at):
            return (resets_at - datetime.now(UTC)).total_seconds()
        case errors.ApiError(retry_after=float() | int() as seconds):
            return seconds
        case (
            errors.LimiterUnavailableError()
            | errors.JobStoreUnavailableError()
            | errors.TransportError()
            | errors.RateLimitedError()
            | errors.ServerError()
        ):
            return _SOON
        case _:
            return None


def _answer(error: Exception) -> Response:
    if not isinstance(error, AnyHTTPException):
        return _response(problem_of_any(error))
    if error.status_code in _NO_BODY:
        return Response(status_code=error.status_code, headers=error.headers)

    response = _response(problem_of_any(error))
    response.headers.update(error.headers or {})

    return response


def _response(problem: Problem) -> Response:
    headers: dict[str, str] = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)

    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=_MEDIA_TYPE,
    )


def _invalid(error: RequestValidationError) -> str:
    """Return which fields are invalid; without their values, which may be long."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
    )
