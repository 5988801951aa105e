"""
The gates every request for Amplitude passes, in order, at each attempt.

Quota first, slot second (both are the limiter's), then send, then decide. The
slot is given back as soon as Amplitude's own answer has been read: the body of
a file that comes from the store holds none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from typing import TypeVar

import anyio

from .._core.links import link_target
from .._core.responses import error_of, retry_after
from .._core.retrying import retry_delay
from .._core.wire import Request, Response
from ..errors import (
    ApiError,
    CohortsError,
    LimiterUnavailableError,
    TransportError,
    UnexpectedResponseError,
)
from ..events import Event, EventHook, RequestSent, RetryScheduled
from ..policies import Retrying
from .clock import Clock
from .limits.base import Limiter, Permit, RunningJobs
from .limits.board import LocalBoard
from .rescue import brought_in
from .wire.answer import Answer
from .wire.transport import Transport

_logger = logging.getLogger(__name__)

_TOO_MANY = 429
_UNAVAILABLE = 503

_GRACE = 5.0
"""
Seconds a cancelled purchase waits for its receipt.
"""

T = TypeVar("T")


class Session:
    """
    Sends requests as the limits allow, and again where that does no harm.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        limiter: Limiter,
        clock: Clock,
        retrying: Retrying,
        rng: Callable[[], float],
        hook: EventHook | None,
        origin: str,
        file_mode: int | None = None,
    ) -> None:
        self.limiter = limiter
        self.clock = clock
        self.rng = rng
        self.retrying = retrying
        self.transport = transport
        self.file_mode = file_mode
        self._hook = hook
        self._origin = origin
        self._board = LocalBoard(clock)
        self._purchases = 0
        self._is_idle = asyncio.Event()

    @property
    def board(self) -> RunningJobs:
        """
        The running exports: of all that share the limiter, if it keeps them.
        """
        shared = self.limiter.job_store

        return self._board if shared is None else shared

    def writing_to(self, cohort_id: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other task writes to this cohort.
        """
        return self.limiter.cohort_lock(cohort_id)

    def emit(self, event: Event) -> None:
        """
        Tell the hook; a broken hook is logged and harms nobody.
        """
        if self._hook is None:
            return

        try:
            self._hook(event)
        except Exception:
            _logger.warning("event hook failed", exc_info=True)

    async def send(
        self, request: Request, *, retrying: Retrying | None = None
    ) -> Response:
        """
        Send *request* and return its successful answer.

        Raises:
            QuotaError: The limiter refused; nothing was sent.

            ApiError: The service said no.

            TransportError: No usable answer came.
        """
        send = partial(self._send_once, request)

        return await self._repeat(request, send, retrying or self.retrying)

    async def aclose(self) -> None:
        """
        Close the connections, but wait for the answers to purchases first.
        """
        if self._purchases:
            with anyio.move_on_after(_GRACE):
                await self._is_idle.wait()

        await self.transport.aclose()

    async def buy(
        self,
        request: Request,
        take: Callable[[Response], Awaitable[T]],
        *,
        paying: Callable[[], None],
    ) -> T:
        """
        Send a request that costs something, and *take* its successful answer.

        Calls *paying* when nothing is left to wait for. A caller that is cancelled
        while the request is under way hears of it when the answer has been taken,
        or after a few seconds.

        Raises:
            QuotaError: The limiter refused; nothing was sent.

            ApiError: The service said no.

            TransportError: No usable answer came.
        """

        return await self._repeat(
            request, partial(self._buy_once, request, take, paying), self.retrying
        )

    @asynccontextmanager
    async def file(self, request: Request) -> AsyncGenerator[Answer | str]:
        """
        Ask for a job's file: a link to it, or an answer that holds it.

        An answer holds a slot until the context is left; a link holds none.
        """
        open_it = partial(self._open_once, request)
        stack, answer = await self._repeat(request, open_it, self.retrying)

        async with stack:
            yield answer

    async def _repeat(
        self,
        request: Request,
        attempt: Callable[[], Awaitable[T]],
        retrying: Retrying,
    ) -> T:
        count, waited = 0, 0.0

        while True:
            count += 1

            try:
                return await attempt()
            except (ApiError, TransportError) as failure:
                delay = retry_delay(
                    retrying,
                    request.replay,
                    failure,
                    attempt=count,
                    waited=waited,
                    jitter=self.rng(),
                )
                if delay is None:
                    raise
                self._tell_retry(request, count, delay, failure)

            await self.clock.sleep(delay)
            waited += delay

    async def _send_once(self, request: Request) -> Response:
        async with self.limiter.slot(request.kind) as permit:
            response = await self._exchange(request, permit)

        # Raised out here: an answer is a clean end for the slot, whatever it says.
        return self._accepted(request, response)

    async def _buy_once(
        self,
        request: Request,
        take: Callable[[Response], Awaitable[T]],
        paying: Callable[[], None],
    ) -> T:
        answers: list[Response] = []
        bought: list[T] = []

        async def exchange_and_take(permit: Permit) -> None:
            answers.append(await self._exchange(request, permit))
            if _is_success(answers[0]):
                bought.append(await take(answers[0]))

        try:
            # Waiting for the slot may be cancelled; what comes after may not.
            async with self.limiter.slot(request.kind) as permit:
                paying()
                with self._purchase():
                    await brought_in(exchange_and_take(permit), seconds=_GRACE)
        except LimiterUnavailableError:
            # The place was lost, but not what was bought in it.
            if not bought:
                raise

        self._accepted(request, answers[0])

        return bought[0]

    @contextmanager
    def _purchase(self) -> Generator[None]:
        self._purchases += 1
        self._is_idle.clear()

        try:
            yield
        finally:
            self._purchases -= 1
            if not self._purchases:
                self._is_idle.set()

    async def _exchange(self, request: Request, permit: Permit) -> Response:
        started = self.clock.now()
        response = await self.transport.send(request)
        self._note(request, response, permit, started)

        return response

    async def _open_once(self, request: Request) -> tuple[AsyncExitStack, Answer | str]:
        async with AsyncExitStack() as stack:
            permit = await stack.enter_async_context(self.limiter.slot(request.kind))
            started = self.clock.now()
            answer = await stack.enter_async_context(self.transport.open(request))

            if answer.status == 200:  # noqa: PLR2004 - the file itself
                self._note(request, answer, permit, started)
                return stack.pop_all(), answer

            response = await self.transport.read(answer)
            self._note(request, response, permit, started)

        if 300 <= response.status < 400:  # noqa: PLR2004 - a redirect
            url = f"{self._origin}{request.path}"
            return AsyncExitStack(), link_target(url, response.headers.get("location"))

        self._accepted(request, response)

        raise UnexpectedResponseError(
            f"the file was answered {response.status} with neither a file nor a link; "
            f"wait for the job first, then try again"
        )

    def _note(
        self,
        request: Request,
        answer: Response | Answer,
        permit: Permit,
        started: float,
    ) -> None:
        if answer.status in {_TOO_MANY, _UNAVAILABLE}:
            asked = retry_after(answer.headers, now=self.clock.utcnow())
            if answer.status == _TOO_MANY or asked:
                self._slow_down(request, answer, permit, asked)

        self.emit(
            RequestSent(
                operation=request.operation,
                status=answer.status,
                seconds=self.clock.now() - started,
            )
        )

    def _slow_down(
        self,
        request: Request,
        answer: Response | Answer,
        permit: Permit,
        asked: float | None,
    ) -> None:
        if asked is not None:
            asked = min(asked, self.retrying.max_retry_after)

        details = ""
        if isinstance(answer, Response):
            details = error_of(request, answer, now=self.clock.utcnow()).details

        permit.throttled(asked, details=details)

    def _accepted(self, request: Request, response: Response) -> Response:
        if _is_success(response):
            return response

        if response.status < 400:  # noqa: PLR2004 - a redirect, or stranger
            raise UnexpectedResponseError(
                f"{request.operation} was answered {response.status}, a redirect; "
                f"check the base URL: the API is never at another place"
            )

        raise error_of(request, response, now=self.clock.utcnow())

    def _tell_retry(
        self, request: Request, attempt: int, seconds: float, failure: CohortsError
    ) -> None:
        event = RetryScheduled(
            operation=request.operation,
            attempt=attempt,
            seconds=seconds,
            reason=str(failure),
        )
        _logger.info(
            "request failed, trying again",
            extra={"operation": request.operation, "attempt": attempt},
        )
        self.emit(event)


def _is_success(response: Response) -> bool:
    return 200 <= response.status < 300  # noqa: PLR2004
