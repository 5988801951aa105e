"""
Asking how a job is, until it is done.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from ._core import requests, responses
from ._core.complaints import Complaints
from ._core.polling import first_delay, next_delay
from ._core.retrying import NO_RETRIES
from ._core.tokens import Ticket, age_of
from ._core.wire import Request, Response
from ._io.session import Session
from .errors import NotFoundError, RateLimitedError, ServerError, TransportError
from .events import StatusPolled
from .models import ExportStatus, Routes
from .policies import Polling

_logger = logging.getLogger(__name__)

_LAST_POLL = 10.0
"""
Seconds a question that falls on the deadline may still take.
"""


class Watch:
    """
    Watches one job.

    Attributes:
        is_done: Whether its file was seen to be ready.
    """

    def __init__(
        self, session: Session, ticket: Ticket, *, routes: Routes, polling: Polling
    ) -> None:
        self.is_done = False
        self._session = session
        self._ticket = ticket
        self._routes = routes
        self._polling = polling
        self._complaints = Complaints(ticket)

    async def ask(self) -> ExportStatus:
        """
        Ask once.

        Raises:
            ExportFailedError: The service gave the job up.

            ExportExpiredError: The service does not know it.
        """
        return await self._ask(partial(self._session.send, self._request))

    async def wait(self, timeout: float) -> None:
        """
        Ask until the job is done.

        Raises:
            ExportTimeoutError: It was still running after *timeout* seconds.
        """
        clock = self._session.clock
        started = clock.now()
        deadline = started + timeout
        rng = self._session.rng
        age = age_of(self._ticket, now=clock.utcnow())
        delay = min(timeout, first_delay(self._polling, age=age, jitter=rng()))

        while not self.is_done:
            await clock.sleep(delay)
            word = await self._glance(deadline)
            left = deadline - clock.now()
            upcoming = next_delay(self._polling, left=left, jitter=rng())
            self._tell(word, clock.now() - started, upcoming)

            if upcoming is not None:
                delay = upcoming
            elif not self.is_done:
                raise self._complaints.timed_out(timeout, word)

    async def _glance(self, deadline: float) -> str:
        left = max(0.0, deadline - self._session.clock.now())
        send = partial(self._session.send, self._request, retrying=NO_RETRIES)

        with anyio.move_on_after(left + _LAST_POLL):
            try:
                return (await self._ask(send)).word
            except (RateLimitedError, ServerError, TransportError) as weather:
                _logger.info(
                    "status not told, asking again",
                    extra={"request_id": self._ticket.request_id},
                )
                return f"no answer ({type(weather).__name__})"

        return "no answer"

    async def _ask(self, send: Callable[[], Awaitable[Response]]) -> ExportStatus:
        try:
            response = await send()
        except NotFoundError as error:
            now = self._session.clock.utcnow()
            raise self._complaints.expired(error.status, now=now) from error

        status = responses.export_status(self._request, response)

        if isinstance(status, responses.JobFailed):
            raise self._complaints.failed(status.word)

        self.is_done = self.is_done or status.done

        return status

    def _tell(self, word: str, elapsed: float, upcoming: float | None) -> None:
        self._session.emit(
            StatusPolled(
                request_id=self._ticket.request_id,
                word=word,
                elapsed=elapsed,
                next_poll=None if self.is_done else upcoming,
            )
        )

    @property
    def _request(self) -> Request:
        ticket = self._ticket

        return requests.export_status(ticket.request_id, ticket.cohort_id, self._routes)
