"""
One origin on a real socket: what the API and the store have in common.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from threading import RLock

import attrs
from aiohttp import web

from .answers import Answer, Refused
from .clock import busy, idle
from .faults import Fault, Refusal
from .ledger import RequestRecord
from .sending import Line
from .service import Service

__all__ = ("Origin", "Visit", "stand_in")

# Handlers that hang are told to end; this is for those that write.
_SHUTDOWN_SECONDS = 0.2
_LOOK_SECONDS = 0.01


@attrs.frozen(kw_only=True)
class Visit:
    """
    One request, from its arrival to the end of its answer.

    Attributes:
        body: Of the request.

        refused: Why it is not to be looked at, if so.
    """

    request: web.BaseRequest
    record: RequestRecord
    line: Line
    body: bytes = attrs.field(repr=False)
    refused: Refused | None = None


class Origin(ABC):
    """
    Listens, counts, and hands each visit to a subclass.

    Args:
        lock: Held whenever the service is spoken to; its other users are in
            other threads.
    """

    def __init__(self, service: Service, *, lock: RLock) -> None:
        self.url: str = ""
        self._service = service
        self._options = service.options
        self._clock = service.options.clock
        self._lock = lock
        self._closing = False

    @abstractmethod
    def step_of(self, request: web.BaseRequest) -> str:
        """
        Tell what a request asks for.
        """

    @abstractmethod
    def admit(self) -> None:
        """
        Refuse a request at its arrival; the lock is held.
        """

    @abstractmethod
    async def answer(self, visit: Visit) -> web.StreamResponse:
        """
        Answer a request.
        """

    async def listen(self, stack: AsyncExitStack, host: str, port: int) -> None:
        """
        Listen until *stack* is closed.
        """
        self._closing = False
        runner = web.ServerRunner(
            web.Server(self._serve, access_log=None), shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        starting = asyncio.ensure_future(web.TCPSite(runner, host, port).start())

        try:
            await asyncio.shield(starting)
        finally:
            # asyncio forgets a server whose start is cancelled, with its
            # socket open: let it start, for the runner to stop it.
            await starting

        # The address, not the name: a name may stand for two.
        self.url = _origin(*runner.addresses[0][:2])
        stack.callback(self._close)

    async def withheld(self, visit: Visit, fault: Fault) -> bool:
        """
        Let the time before an answer pass; tell whether that is all there is.
        """
        await self._delay(visit, fault)

        if not fault.lost and fault.delay != math.inf:
            return False

        visit.line.release(None)
        visit.line.hang_up()

        return True

    def take_fault(self, step: str) -> Fault:
        """
        Take the next fault of a step; the lock is held.
        """
        queue = self._service.faults.get(step)

        return queue.take() if queue else Fault()

    def latency_of(self, record: RequestRecord) -> float:
        """
        Tell how long the answer to a request takes.
        """
        del record

        return 0.0

    def _close(self) -> None:
        self._closing = True

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        with busy(self._clock):
            record, refused = self._arrive(request)

            try:
                visit = Visit(
                    request=request,
                    record=record,
                    line=self._line(request, record),
                    body=await request.content.read(),
                    refused=refused,
                )
                return await self.answer(visit)
            except (ConnectionError, web.RequestPayloadError):
                # The client has gone; whatever is returned goes nowhere.
                return web.Response()
            finally:
                self._end(record, None)

    def _arrive(self, request: web.BaseRequest) -> tuple[RequestRecord, Refused | None]:
        with self._lock:
            record = self._service.ledger.arrive(
                self.step_of(request),
                request.method,
                request.raw_path,
                request.headers,
                at=self._clock.now(),
            )

            try:
                self.admit()
            except Refused as refused:
                return record, refused

        return record, None

    def _end(self, record: RequestRecord, status: int | None) -> None:
        with self._lock:
            self._service.ledger.end(record, status, at=self._clock.now())

    def _line(self, request: web.BaseRequest, record: RequestRecord) -> Line:
        return Line(
            request=request,
            release=lambda status: self._end(record, status),
            pause=self._pause,
            hold=lambda: self._hold(request),
        )

    async def _delay(self, visit: Visit, fault: Fault) -> None:
        seconds = self.latency_of(visit.record) + (fault.delay or 0.0)

        if seconds == math.inf:
            await visit.line.hold()
        elif seconds > 0:
            await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        with idle(self._clock):
            await self._clock.sleep(seconds)

    async def _hold(self, request: web.BaseRequest) -> None:
        # Nobody tells a handler that its client has gone, so it looks.
        with idle(self._clock):
            while not self._closing and request.transport is not None:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)


def stand_in(refusal: Refusal, error: Answer) -> Answer:
    """
    Return what is answered instead of anything being done.

    Args:
        error: The origin's own kind of error, for a refusal without a body.
    """
    if refusal.body is not None:
        return Answer(status=refusal.status, headers=refusal.headers, body=refusal.body)

    return attrs.evolve(error, headers={**error.headers, **refusal.headers})


def _origin(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address

    return f"http://{host}:{port}"
