"""
Sends every request for Amplitude: waits for the limiter, sends, reports, repeats.

A slot is released as soon as Amplitude's own answer has been read; the body of a
file from the object store holds none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Self

import anyio
import attrs

from ..._core.links import link_target
from ..._core.messages import Request, Response
from ..._core.responses import date_of, error_of
from ..._core.retrying import NO_RETRIES, retry_delay
from ..._core.secret import Secret
from ...errors import (
    ApiError,
    CohortsError,
    LimiterUnavailableError,
    QuotaWaitError,
    TransportError,
    UnexpectedResponseError,
)
from ...events import RequestFailed, RequestSent, RetryScheduled
from ...limits import Kind
from ...policies import Retrying
from ..context import Context
from ..limits.base import Limiter, Permit
from .streamed_response import StreamedResponse
from .transport import Transport

_logger = logging.getLogger(__name__)

_TOO_MANY = 429
_UNAVAILABLE = 503

GRACE = 5.0
"""Seconds an export request goes on after its caller is cancelled, to learn its id."""


@attrs.define
class Try:
    """
    A request that is made only if it need not wait.

    Attributes:
        waits_for: What it would wait for, if it was not made.
    """

    ticket: str | None
    is_made: bool = False
    waits_for: str = ""


_try: ContextVar[Try | None] = ContextVar("amplitude_cohorts_async_try", default=None)


@attrs.define
class _Attempt:
    """What events tell of one attempt at a request: its number, its wait for a slot."""

    number: int = 1
    waited: float = 0.0


_attempt: ContextVar[_Attempt] = ContextVar("amplitude_cohorts_async_attempt")


class Attempts:
    """
    The attempts at one request; each succeeds, is repeated, or raises.

    As in stamina::

        async for attempt in session.attempts(request):
            with attempt:
                return await ...
    """

    def __init__(self, context: Context, request: Request, retrying: Retrying) -> None:
        self._context = context
        self._request = request
        self._retrying = retrying
        self._count = 0
        self._waited = 0.0
        self._delay: float | None = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        if self._delay is None:
            raise StopAsyncIteration

        if self._count:
            await self._context.clock.sleep(self._delay)

        self._waited += self._delay
        self._count += 1
        self._delay = None
        _attempt.set(_Attempt(self._count))

        return self

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: object, error: BaseException | None, _trace: object
    ) -> bool:
        if not isinstance(error, ApiError | TransportError):
            return False

        self._delay = retry_delay(
            self._retrying,
            self._request.replay,
            error,
            attempt=self._count,
            waited=self._waited,
            jitter=self._context.rng(),
        )

        if self._delay is None:
            return False

        operation = self._request.operation
        _logger.info(
            "%s failed, trying again in %.1f s: %s",
            *(operation, self._delay, error),
            extra={"operation": operation, "attempt": self._count},
        )
        self._context.emit(
            RetryScheduled(
                operation=operation,
                attempt=self._count,
                seconds=self._delay,
                reason=str(error),
            )
        )

        return True


class Session:
    """Sends requests as the limits allow, and repeats those that are safe to repeat."""

    def __init__(
        self,
        *,
        transport: Transport,
        limiter: Limiter,
        context: Context,
        origin: str,
    ) -> None:
        self.transport = transport
        self.limiter = limiter
        self.context = context
        self._origin = origin
        self._purchases = 0
        self._is_idle = asyncio.Event()

    async def aclose(self) -> None:
        """Wait for the answers to export requests, then close the connections."""
        if self._purchases:
            with anyio.move_on_after(GRACE):
                await self._is_idle.wait()

        await self.transport.aclose()

    def attempts(
        self, request: Request, *, retrying: Retrying | None = None
    ) -> Attempts:
        """Return the attempts at a request, for an ``async for`` loop."""
        if _pending_try() is not None:
            retrying = NO_RETRIES

        return Attempts(self.context, request, retrying or self.context.retrying)

    @contextmanager
    def without_waiting(self, ticket: str | None) -> Generator[Try]:
        """
        Neither wait for the first slot in this context, nor repeat its request.

        A slot that is not free raises `QuotaWaitError`.

        Args:
            ticket: See `Limiter.try_slot()`.
        """
        pending = Try(ticket)
        token = _try.set(pending)

        try:
            yield pending
        finally:
            _try.reset(token)

    @asynccontextmanager
    async def slot(self, kind: Kind) -> AsyncGenerator[Permit]:
        """Hold a slot; a limiter that fails meanwhile leaves the request in doubt."""
        is_held = False
        pending = _pending_try()

        try:
            async with AsyncExitStack() as stack:
                if pending is None:
                    permit = await self._wait_for_slot(kind, stack)
                else:
                    permit = await self._try_slot(kind, pending, stack)
                is_held = True
                yield permit
        except LimiterUnavailableError as error:
            error.may_have_happened = is_held
            raise

    async def _try_slot(
        self, kind: Kind, pending: Try, stack: AsyncExitStack
    ) -> Permit:
        slot = self.limiter.try_slot(kind, ticket=pending.ticket)

        try:
            permit = await stack.enter_async_context(slot)
        except QuotaWaitError:
            pending.waits_for = self.limiter.waits_for(kind)
            raise

        pending.is_made = True
        return permit

    async def _wait_for_slot(self, kind: Kind, stack: AsyncExitStack) -> Permit:
        limiter = self.limiter

        came_at = self.context.clock.now()
        # Of exports only; and before this one is in line, or it would count itself.
        (left,) = limiter.expected_starts(1) if kind == "export" else (0.0,)
        starts_at = came_at + left

        def seconds() -> float:
            """Return how long the wait may still take; less than zero if unknown."""
            return starts_at - self.context.clock.now()

        with self.context.waits.watch(
            partial(limiter.waits_for, kind), seconds=seconds, kind=kind
        ):
            permit = await stack.enter_async_context(limiter.slot(kind))

        if attempt := _attempt.get(None):
            attempt.waited = self.context.clock.now() - came_at

        return permit

    async def send(
        self,
        request: Request,
        *,
        retrying: Retrying | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Response:
        """
        Return the successful answer to *request*.

        Raise a `QuotaError`, `ApiError` or `TransportError` otherwise. Before each
        attempt *before* is called; if it raises, nothing is sent.
        """
        async for attempt in self.attempts(request, retrying=retrying):
            with attempt:
                async with self.slot(request.kind) as permit:
                    if before is not None:
                        await before()
                    response = await self.exchange(request, permit)

                # Outside of the slot, because any answer is a clean end of it.
                if not response.is_success:
                    raise self.refusal(request, response)

                return response

        raise out_of_attempts()

    @asynccontextmanager
    async def file(self, request: Request) -> AsyncGenerator[StreamedResponse | Secret]:
        """
        Yield a link to a job's file, or the answer that contains it.

        An answer holds a slot until the context is left; a link holds none.
        """
        async with AsyncExitStack() as stack:
            answer = None

            async for attempt in self.attempts(request):
                with attempt:
                    answer = await self._open_once(request, stack)

            if answer is None:
                raise out_of_attempts()

            yield answer

    async def exchange(self, request: Request, permit: Permit) -> Response:
        """Send *request*, holding *permit*; return the answer, successful or not."""
        started = self.context.clock.now()

        with self._reporting_failure(request, started):
            response = await self.transport.send(request)

        self._report(request, response, permit, started)

        return response

    def refusal(self, request: Request, response: Response) -> CohortsError:
        """Return the error for an unsuccessful answer."""
        if response.status < 400:  # noqa: PLR2004 - a redirect, or 1xx
            return UnexpectedResponseError(
                f"{request.operation} was answered {response.status}, a redirect; "
                f"check the base URL: only a file is redirected"
            )

        return error_of(request, response, now=self.context.clock.utcnow())

    @contextmanager
    def purchase(self) -> Generator[None]:
        """Make `aclose()` wait until this context is left."""
        self._purchases += 1
        self._is_idle.clear()

        try:
            yield
        finally:
            self._purchases -= 1
            if not self._purchases:
                self._is_idle.set()

    async def _open_once(
        self, request: Request, stack: AsyncExitStack
    ) -> StreamedResponse | Secret:
        async with AsyncExitStack() as attempt:
            permit = await attempt.enter_async_context(self.slot(request.kind))
            started = self.context.clock.now()

            with self._reporting_failure(request, started):
                answer = await attempt.enter_async_context(self.transport.open(request))

            if answer.status == 200:  # noqa: PLR2004 - the file itself
                self._report(request, answer, permit, started)
                stack.push_async_exit(attempt.pop_all())
                return answer

            response = await self.transport.read(answer, request.operation)
            self._report(request, response, permit, started)

        if 300 <= response.status < 400:  # noqa: PLR2004 - a redirect
            url = f"{self._origin}{request.path}"
            location = response.headers.get("location")
            return link_target(url, location, show=self.transport.redactor.url)

        if not response.is_success:
            raise self.refusal(request, response)

        raise UnexpectedResponseError(
            f"the file was answered {response.status} with neither a file nor a link; "
            f"wait for the job first, then try again"
        )

    def _report(
        self,
        request: Request,
        answer: Response | StreamedResponse,
        permit: Permit,
        started: float,
    ) -> None:
        if isinstance(answer, Response) and answer.status in {_TOO_MANY, _UNAVAILABLE}:
            self._slow_down(request, answer, permit)

        attempt = _attempt.get(_Attempt())
        self.context.emit(
            RequestSent(
                operation=request.operation,
                status=answer.status,
                seconds=self.context.clock.now() - started,
                attempt=attempt.number,
                waited=attempt.waited,
                method=request.method,
                template=request.template or request.path,
                origin=self._origin,
                date=date_of(answer.headers),
                content_type=_media_type(answer.headers),
                header_names=tuple(sorted(answer.headers)),
            )
        )

    @contextmanager
    def _reporting_failure(self, request: Request, started: float) -> Generator[None]:
        try:
            yield
        except TransportError as error:
            attempt = _attempt.get(_Attempt())
            self.context.emit(
                RequestFailed(
                    operation=request.operation,
                    error=type(error).__name__,
                    seconds=self.context.clock.now() - started,
                    attempt=attempt.number,
                    waited=attempt.waited,
                    method=request.method,
                    template=request.template or request.path,
                    origin=self._origin,
                )
            )
            raise

    def _slow_down(self, request: Request, answer: Response, permit: Permit) -> None:
        error = error_of(request, answer, now=self.context.clock.utcnow())
        seconds = error.retry_after

        if seconds or error.status == _TOO_MANY:
            if seconds is not None:
                seconds = min(seconds, self.context.retrying.max_retry_after)

            permit.throttled(seconds, details=error.details)


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _pending_try() -> Try | None:
    pending = _try.get()

    return None if pending is None or pending.is_made else pending


def out_of_attempts() -> AssertionError:
    """Return the error to raise after a loop of attempts; it is never reached."""
    return AssertionError("the last attempt returns or raises")
