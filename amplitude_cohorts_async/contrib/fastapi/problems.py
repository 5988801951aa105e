"""Errors as answers: `application/problem+json` (RFC 9457) for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from ... import errors

__all__ = ("Problem", "ProblemRoute", "Refusal", "handle_error", "problem_of")

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


class Refusal(Exception):  # noqa: N818 - it is an answer
    """An answer of the kit itself that is a problem."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.problem: Problem = _problem(status, detail, retry_after=retry_after)


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
            except Refusal as refusal:
                response = _response(refusal.problem)
            except errors.CohortsError as error:
                response = await handle_error(request, error)
            except AnyHTTPException as error:
                response = _response(_problem_of_status(error))
                response.headers.update(error.headers or {})
            except RequestValidationError as error:
                response = _response(
                    _problem(HTTPStatus.UNPROCESSABLE_ENTITY, _invalid(error))
                )

            response.headers.setdefault("Cache-Control", "no-store")
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
            return response

        return answer


async def handle_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """
    Answer with the problem of an error.

    For the routes of your own: ``app.add_exception_handler(CohortsError, handle_error)``.
    """
    if not isinstance(error, errors.CohortsError):
        raise error

    return _response(problem_of(error))


def problem_of(error: errors.CohortsError) -> Problem:
    """Return an error as a problem."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    problem = _problem(status, str(error), retry_after=_retry_after(error))

    return problem.model_copy(
        update={"error": type(error).__name__, "token": error.token}
    )


def _problem_of_status(error: AnyHTTPException) -> Problem:
    """Return an answer of somebody else's code, whose status may be none of HTTP's."""
    try:
        title = HTTPStatus(error.status_code).phrase
    except ValueError:
        title = "Error"

    return Problem(title=title, status=error.status_code, detail=str(error.detail))


def _problem(
    status: HTTPStatus, detail: str, *, retry_after: float | None = None
) -> Problem:
    return Problem(
        title=status.phrase,
        status=status.value,
        detail=detail,
        retry_after=None if retry_after is None else max(1, math.ceil(retry_after)),
    )


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


def _response(problem: Problem) -> Response:
    headers: dict[str, str] = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)

    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


def _invalid(error: RequestValidationError) -> str:
    """Return which fields are invalid; without their values, which may be long."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
    )
