"""
The two origins on real sockets, the API and the store: from a request's
arrival to the last byte of its answer, whole or as a fault leaves it.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from email.utils import format_datetime
from threading import RLock
from typing import TYPE_CHECKING, BinaryIO

import attrs
from aiohttp import web

from .clock import busy, idle
from .faults import Fault, Refusal
from .messages import Answer, FileBody, Refused, envelope, xml_answer
from .object_store import (
    Job,
    ObjectCache,
    StoreRequest,
    answer_object,
    check_age,
    check_request,
    object_headers,
    signature_mismatch,
)
from .quotas import RequestRecord
from .service import Service

if TYPE_CHECKING:
    # Handed in by the emulator, which chooses between two of them.
    from .api import VendorApi

__all__ = ("ApiOrigin", "StoreOrigin")

# Handlers that wait for ever are cancelled; this is for those that write.
_SHUTDOWN_SECONDS = 0.2
_LOOK_SECONDS = 0.01
_PIECE = 256 * 1024
_NO_BODY = frozenset({204, 304})


@attrs.frozen(kw_only=True)
class Exchange:
    """
    One request, from its arrival to the end of its answer.

    Attributes:
        body: Of the request.
        refusal: Why the request is refused at its arrival, if it is.
        finish: Called just before the last bytes of the answer are sent: the
            client that reads them may send its next request at once.
        utcnow: Returns the emulator's time, which its answers tell.
        pause: Waits on the emulator's clock.
        wait_until_gone: Waits until the client has closed the connection.
    """

    request: web.BaseRequest
    record: RequestRecord
    body: bytes = attrs.field(repr=False)
    refusal: Refused | None
    finish: Callable[[int | None], None]
    utcnow: Callable[[], datetime]
    pause: Callable[[float], Awaitable[None]]
    wait_until_gone: Callable[[], Awaitable[None]]

    def hang_up(self) -> None:
        """Close the connection once all that was written is sent."""
        if self.request.transport is not None:
            self.request.transport.close()


class Origin(ABC):
    """
    Listens, counts requests, and has a subclass answer them.

    Args:
        cache: The files of jobs.
        lock: Held while the service is used; its other users are in other
            threads.
    """

    def __init__(self, service: Service, *, cache: ObjectCache, lock: RLock) -> None:
        self.url: str = ""
        self._service = service
        self._options = service.options
        self._clock = service.options.clock
        self._cache = cache
        self._lock = lock
        self._closing = False

    @abstractmethod
    def step_of(self, request: web.BaseRequest) -> str:
        """
        Return the step that a request asks for; "other" if it is none.
        """

    @abstractmethod
    def reply(self, exchange: Exchange, fault: Fault) -> Answer | Job:
        """Return the answer, or the job whose file it is; the lock is held."""

    @abstractmethod
    async def file_answer(self, exchange: Exchange, job: Job, fault: Fault) -> Answer:
        """Return the answer with the file of a job."""

    def admit(self) -> None:  # noqa: B027 - by default all requests are admitted
        """Refuse a request at its arrival; the lock is held."""

    def latency_of(self, record: RequestRecord) -> float:
        """Return the seconds that the answer to a request takes."""
        del record

        return 0.0

    async def listen(self, stack: AsyncExitStack, host: str, port: int) -> None:
        """Listen until *stack* is closed."""
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

    def _close(self) -> None:
        self._closing = True

    # -- A request and its answer ------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        with busy(self._clock):
            record, refusal = self._arrive(request)

            try:
                exchange = Exchange(
                    request=request,
                    record=record,
                    body=await request.content.read(),
                    refusal=refusal,
                    finish=lambda status: self._end(record, status),
                    utcnow=self._clock.utcnow,
                    pause=self._pause,
                    wait_until_gone=lambda: self._wait_until_gone(request),
                )
                return await self._answer(exchange)
            except (ConnectionError, web.RequestPayloadError):
                # The client has gone: what is returned is not sent.
                return web.Response()
            finally:
                self._end(record, None)

    def _arrive(self, request: web.BaseRequest) -> tuple[RequestRecord, Refused | None]:
        with self._lock:
            record = self._service.log.add(
                self.step_of(request),
                request.method,
                request.raw_path,
                request.headers,
                at=self._clock.now(),
            )

            try:
                self.admit()
            except Refused as refusal:
                return record, refusal

        return record, None

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        # A request too many is refused at once, so that it holds no slot.
        if exchange.refusal:
            with self._lock:
                answer = self.refuse(exchange.record, exchange.refusal)

            return await _send(exchange, answer, Fault())

        with self._lock:
            fault = self._take_fault(exchange.record.step)
            reply = self.reply(exchange, fault)

        await self._delay(exchange, fault)

        if fault.lost or fault.delay == math.inf:
            exchange.finish(None)
            exchange.hang_up()
            return web.Response()

        if isinstance(reply, Job):
            reply = await self.file_answer(exchange, reply, fault)

        return await _send(exchange, reply, fault)

    def refuse(self, record: RequestRecord, refusal: Refused) -> Answer:
        """Return the answer to a refused request; the lock is held."""
        if refusal.rule:
            self._service.log.add_violation(record, refusal.rule, refusal.details)

        return envelope(refusal.status, refusal.details, metadata=refusal.metadata)

    def _take_fault(self, step: str) -> Fault:
        queue = self._service.faults.get(step)

        return queue.take() if queue else Fault()

    def _end(self, record: RequestRecord, status: int | None) -> None:
        with self._lock:
            self._service.log.end(record, status, at=self._clock.now())

    # -- Time --------------------------------------------------------------

    async def _delay(self, exchange: Exchange, fault: Fault) -> None:
        seconds = self.latency_of(exchange.record) + (fault.delay or 0.0)

        if seconds == math.inf:
            await exchange.wait_until_gone()
        elif seconds > 0:
            await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        with idle(self._clock):
            await self._clock.sleep(seconds)

    async def _wait_until_gone(self, request: web.BaseRequest) -> None:
        # No event says that the client of a handler has gone, so it looks.
        with idle(self._clock):
            while not self._closing and request.transport is not None:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)


class ApiOrigin(Origin):
    """The API, for five requests at a time."""

    def __init__(
        self, service: Service, api: VendorApi, *, cache: ObjectCache, lock: RLock
    ) -> None:
        super().__init__(service, cache=cache, lock=lock)
        self._api = api

    def step_of(self, request: web.BaseRequest) -> str:
        """
        Return the step that a request asks for; "other" if it is none.
        """
        return self._api.step_of(request.raw_path.partition("?")[0])[0]

    def admit(self) -> None:
        """Refuse a request beyond the number allowed at once."""
        self._service.admit()

    def latency_of(self, record: RequestRecord) -> float:
        """Return the seconds that the answer to a request takes."""
        latency = self._options.latency

        return latency(record) if callable(latency) else latency

    def reply(self, exchange: Exchange, fault: Fault) -> Answer | Job:
        """Return the answer, or the job whose file it is; the lock is held."""
        if refusal := fault.refusal:
            error = envelope(refusal.status, refusal.details)
            return _refusal_answer(refusal, error)

        try:
            return self._api.answer(
                exchange.record,
                credentials=exchange.request.headers.get("Authorization"),
                body=exchange.body,
                fault=fault,
            )
        except Refused as refused:
            return self.refuse(exchange.record, refused)

    async def file_answer(self, exchange: Exchange, job: Job, fault: Fault) -> Answer:
        """Return the file itself; unlike the store, as Accept-Encoding says."""
        del fault
        accepted = "gzip" in exchange.request.headers.get("Accept-Encoding", "")
        compress = self._options.compress is not None and accepted
        stored = await self._cache.get(job, compress=compress)
        headers = {"Content-Type": "text/csv; charset=UTF-8"}

        if compress and self._options.compress == "gzip":
            headers["Content-Encoding"] = "gzip"

        return Answer(status=200, headers=headers, body=stored.part(0, stored.size))


class StoreOrigin(Origin):
    """The store: serves objects to clients with a link; no accounts, no limits."""

    def step_of(self, request: web.BaseRequest) -> str:
        """Return the only step here."""
        del request

        return "store"

    def reply(self, exchange: Exchange, fault: Fault) -> Answer | Job:
        """Return the answer, or the job whose file it is; the lock is held."""
        asked = _store_request(exchange.request, fault)

        if broken := check_request(asked):
            rule, answer = broken
            self._add_violation(exchange, rule, f"{asked.method} with {rule}")
            return answer

        if fault.refusal:
            return _refusal_answer(fault.refusal, _store_error(fault.refusal))

        link = self._service.links.find(exchange.record.target)

        if link is None:
            self._add_violation(
                exchange, "link bytes", "path or query are not as handed out"
            )
            return signature_mismatch()

        if refusal := check_age(
            link, now=self._clock.now(), utcnow=self._clock.utcnow()
        ):
            return refusal

        link.job.apply(fault)

        return link.job

    async def file_answer(self, exchange: Exchange, job: Job, fault: Fault) -> Answer:
        """Return the object, the part of it that was asked for, or why not."""
        compress = self._options.compress is not None
        stored = await self._cache.get(job, compress=compress)
        asked = _store_request(exchange.request, fault)

        return answer_object(asked, stored, self._headers(job))

    def _add_violation(self, exchange: Exchange, rule: str, details: str) -> None:
        self._service.log.add_violation(exchange.record, rule, details)

    def _headers(self, job: Job) -> dict[str, str]:
        age = timedelta(seconds=self._clock.now() - job.requested_at)
        encoding = "gzip" if self._options.compress == "gzip" else None

        return object_headers(self._clock.utcnow() - age, encoding=encoding)


def _origin(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address

    return f"http://{host}:{port}"


def _refusal_answer(refusal: Refusal, error: Answer) -> Answer:
    """
    Return the answer that a fault gives instead of anything being done.

    Args:
        error: The origin's own kind of error, for a refusal without a body.
    """
    if refusal.body is not None:
        return Answer(status=refusal.status, headers=refusal.headers, body=refusal.body)

    return attrs.evolve(error, headers={**error.headers, **refusal.headers})


def _store_request(request: web.BaseRequest, fault: Fault) -> StoreRequest:
    headers = {name.lower(): value for name, value in request.headers.items()}
    seen = {name: text for name, text in headers.items() if name not in fault.ignored}

    return StoreRequest(method=request.method, headers=seen)


def _store_error(refusal: Refusal) -> Answer:
    code = "SlowDown" if refusal.status in {429, 503} else "InternalError"

    return xml_answer(refusal.status, code, refusal.details)


async def _send(exchange: Exchange, answer: Answer, fault: Fault) -> web.StreamResponse:
    """Send an answer, and what a fault leaves of its body."""
    date = format_datetime(exchange.utcnow(), usegmt=True)
    answer = _with_headers(answer, {"Date": date}, fault)
    effects = (fault.cut_at, fault.stall_at, fault.flip_at, fault.rate)
    intact = all(effect is None for effect in effects)

    if intact and isinstance(answer.body, bytes) and len(answer.body) <= _PIECE:
        exchange.finish(answer.status)
        return _short_response(answer, answer.body)

    response = web.StreamResponse(status=answer.status, headers=answer.headers)

    if answer.chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(answer.body)

    await response.prepare(exchange.request)
    await _send_body(exchange, response, answer, fault)

    return response


def _with_headers(answer: Answer, more: Mapping[str, str], fault: Fault) -> Answer:
    names = {name.lower() for name in fault.headers}
    others = {
        name: value
        for name, value in {**more, **answer.headers}.items()
        if name.lower() not in names
    }
    new = {name: value for name, value in fault.headers.items() if value is not None}

    return attrs.evolve(answer, headers={**others, **new})


def _short_response(answer: Answer, body: bytes) -> web.Response:
    response = web.Response(status=answer.status, headers=answer.headers, body=body)

    if answer.chunked and answer.status not in _NO_BODY:
        response.enable_chunked_encoding()

    return response


async def _send_body(
    exchange: Exchange, response: web.StreamResponse, answer: Answer, fault: Fault
) -> None:
    size = len(answer.body)
    stop = _stop(fault, size)

    async with _opened(answer.body) as source:
        sent = 0

        if fault.flip_at is None and fault.rate is None:
            sent = await source.send_by_kernel(exchange.request, stop - _PIECE)

        while sent < stop:
            piece = await source.read(sent, min(sent + _piece_size(fault), stop))
            sent += len(piece)

            if sent == size:
                exchange.finish(answer.status)

            await response.write(_with_flipped_bit(piece, fault, end=sent))

            if fault.rate is not None:
                await exchange.pause(len(piece) / fault.rate)

    if fault.stall_at is not None:
        await exchange.wait_until_gone()

    if stop < size or fault.cut_at is not None:
        exchange.hang_up()


def _stop(fault: Fault, size: int) -> int:
    ends = [end for end in (fault.cut_at, fault.stall_at) if end is not None]

    return min(*ends, max(0, size - 1)) if ends else size


def _piece_size(fault: Fault) -> int:
    return _PIECE if fault.rate is None else max(1, min(_PIECE, int(fault.rate / 10)))


def _with_flipped_bit(piece: bytes, fault: Fault, *, end: int) -> bytes:
    if fault.flip_at is None:
        return piece

    offset = fault.flip_at - (end - len(piece))

    if not 0 <= offset < len(piece):
        return piece

    return piece[:offset] + bytes([piece[offset] ^ 1]) + piece[offset + 1 :]


class _Bytes:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def send_by_kernel(self, request: web.BaseRequest, count: int) -> int:
        del request, count

        return 0

    async def read(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


class _File:
    """A body on disk; never read on the event loop."""

    def __init__(self, file: BinaryIO, body: FileBody) -> None:
        self._file = file
        self._start = body.start

    async def send_by_kernel(self, request: web.BaseRequest, count: int) -> int:
        """
        Have the kernel copy from the file to the socket.

        Returns:
            The bytes sent; 0 where the event loop has no such thing.
        """
        transport = request.transport

        if count <= 0:
            return 0

        if transport is None:
            raise ConnectionResetError

        loop = asyncio.get_running_loop()

        try:
            return await loop.sendfile(transport, self._file, self._start, count)
        except NotImplementedError:
            return 0

    async def read(self, start: int, stop: int) -> bytes:
        return await asyncio.to_thread(self._read, self._start + start, stop - start)

    def _read(self, start: int, count: int) -> bytes:
        self._file.seek(start)

        return self._file.read(count)


@asynccontextmanager
async def _opened(body: bytes | FileBody) -> AsyncGenerator[_Bytes | _File]:
    if isinstance(body, bytes):
        yield _Bytes(body)
        return

    file = await asyncio.to_thread(body.path.open, "rb")

    try:
        yield _File(file, body)
    finally:
        file.close()
