"""Polls a job until its file is ready; `_core.polling` decides each step."""

from __future__ import annotations

import asyncio
import logging
import math

import anyio
import attrs

from .._core import responses
from .._core.export_errors import ExportErrors
from .._core.polling import (
    NOT_KNOWN_YET,
    Download,
    GiveUp,
    JobFailed,
    JobState,
    Poll,
    Step,
    may_be_unknown,
    next_step,
)
from .._core.requests import Endpoints
from .._core.retrying import NO_RETRIES, may_ask_again
from .._core.tokens import ExportRef, age_of
from .._io.http.session import Session
from .._io.waits import next_poll_of
from ..errors import CohortsError, NotFoundError
from ..events import StatusPolled
from ..models import ExportStatus
from ..policies import Polling, Retrying

_logger = logging.getLogger(__name__)

_LAST_POLL = 10.0
"""Seconds that a poll begun at the deadline may still take."""


class JobPoller:
    """
    Polls the status of one job, for all callers of one client.

    They wait in a line: the first polls, the others have its result. If it gives up,
    the next one goes on where it was.
    """

    def __init__(
        self,
        session: Session,
        ref: ExportRef,
        *,
        endpoints: Endpoints,
        polling: Polling,
    ) -> None:
        self._session = session
        self._context = session.context
        self._ref = ref
        self._endpoints = endpoints
        self._polling = polling
        self._errors = ExportErrors(ref)
        self._line = asyncio.Lock()
        self._latest = -math.inf
        self._word = "not polled"
        self._is_told = False
        self._done: ExportStatus | JobFailed | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a poll has seen that the file is ready."""
        return isinstance(self._done, ExportStatus)

    async def poll(self) -> ExportStatus:
        """Return the status, and raise if the job failed or is not known any more."""
        status = await self._ask(self._context.retrying)

        if isinstance(status, JobFailed):
            raise self._errors.failed(status.word)

        return status

    async def wait(self, timeout: float) -> None:
        """Poll until the job is done, for *timeout* seconds at most."""
        deadline = self._context.clock.now() + timeout

        with self._context.waits.watch(
            f"the status of export {self._ref.request_id}, which another caller polls",
            request_id=self._ref.request_id,
        ):
            is_first = await self._first_in_line(deadline)

        if not is_first:
            raise self._errors.timed_out(timeout, self._word)

        try:
            await self._poll_until(deadline, timeout)
        finally:
            self._line.release()

    async def _first_in_line(self, deadline: float) -> bool:
        """Wait until no other caller polls; return whether it was in time."""
        is_earliest = deadline < self._latest
        self._latest = max(self._latest, deadline)

        clock = self._context.clock

        if not self._line.locked():
            return await self._line.acquire()
        if not is_earliest:
            # No caller ahead polls for longer than this one waits: no timer is needed.
            await self._line.acquire()
            is_in_time = self._done is not None or clock.now() < deadline
            if not is_in_time:
                self._line.release()
            return is_in_time

        turn = asyncio.ensure_future(self._line.acquire())
        timer = asyncio.ensure_future(clock.sleep(max(0.0, deadline - clock.now())))

        try:
            await asyncio.wait([turn, timer], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            # The turn may have come in the moment of the cancellation.
            if not turn.cancel() and not turn.cancelled():
                self._line.release()
            raise
        finally:
            timer.cancel()

        return turn.done() or not turn.cancel()

    async def _poll_until(self, deadline: float, timeout: float) -> None:
        clock = self._context.clock
        started = clock.now()
        age = age_of(self._ref, now=clock.utcnow())
        state = JobState(age=age)

        while True:
            state = attrs.evolve(state, status=self._done or state.status)
            left, jitter = deadline - clock.now(), self._context.rng()
            step = next_step(state, self._polling, left=left, jitter=jitter)
            self._report(state, clock.now() - started, step)

            match step:
                case Poll(after=seconds):
                    self._tell_once(seconds)
                    await clock.sleep(seconds)
                    status = await self._try(deadline - clock.now())
                    state = attrs.evolve(state, polls=state.polls + 1, status=status)
                    self._word = state.word
                case Download():
                    return
                case JobFailed(word=word):
                    raise self._errors.failed(word)
                case GiveUp():
                    raise self._errors.timed_out(timeout, state.word)

    def _tell_once(self, seconds: float) -> None:
        # Not at each poll: an event does that.
        if not self._is_told:
            self._is_told = True
            request_id = self._ref.request_id
            self._context.waits.tell(
                next_poll_of(request_id), seconds, request_id=request_id
            )

    async def _try(self, left: float) -> ExportStatus | JobFailed:
        """Return the status; "no answer", a word of our own, if none came."""
        reason = ""

        with anyio.move_on_after(max(0.0, left) + _LAST_POLL):
            try:
                return await self._ask(NO_RETRIES)
            except CohortsError as error:
                if not may_ask_again(error):
                    raise
                reason = f" ({type(error).__name__})"
                _logger.info(
                    "no status, polling again",
                    extra={"request_id": self._ref.request_id},
                )

        return ExportStatus(done=False, word=f"no answer{reason}")

    async def _ask(self, retrying: Retrying) -> ExportStatus | JobFailed:
        request = self._endpoints.export_status(self._ref)

        try:
            response = await self._session.send(request, retrying=retrying)
        except NotFoundError as error:
            now = self._context.clock.utcnow()
            if may_be_unknown(self._ref, now=now, answered_at=error.date):
                return NOT_KNOWN_YET
            raise self._errors.expired(error.status, now=now) from error

        status = responses.export_status(request, response)

        # A file that was ready once stays so, whatever is answered later.
        if isinstance(status, JobFailed) or status.done:
            self._done = status
        return status

    def _report(self, state: JobState, elapsed: float, step: Step) -> None:
        if not state.polls or isinstance(step, JobFailed):
            return

        self._context.emit(
            StatusPolled(
                request_id=self._ref.request_id,
                word=state.word,
                elapsed=elapsed,
                next_poll=step.after if isinstance(step, Poll) else None,
            )
        )
