"""
The emulator's two origins on real sockets: the API, and the store.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from threading import RLock

import attrs
from aiohttp import web

from .answers import Answer, Refused, envelope, xml_answer
from .api import Inline, VendorApi
from .clock import busy, idle
from .csvfiles import StoredObject
from .faults import Fault, Refusal
from .jobs import Job, build_object
from .ledger import RequestRecord
from .openapi import OpenApi
from .sending import Line, send
from .service import Service
from .store import (
    StoreRequest,
    answer_object,
    check_age,
    check_request,
    object_headers,
    signature_mismatch,
)

__all__ = ("Server",)

# Handlers that hang are told to end; this is for those that write.
_SHUTDOWN_SECONDS = 0.2
_LOOK_SECONDS = 0.01


class Server:
    """
    Listens, and has the service answer.

    Args:
        lock: Held whenever the service is spoken to; its other users are in
            other threads.
    """

    def __init__(self, service: Service, *, lock: RLock) -> None:
        self._service = service
        self._options = service.options
        self._clock = service.options.clock
        self._lock = lock
        self._shelf = _Shelf(service)
        self._closing = False
        dialects = {"vendor": VendorApi, "openapi": OpenApi}
        self._api = dialects[self._options.dialect](
            service, store_url=lambda: self.store_url
        )
        self.base_url = ""
        self.store_url = ""

    async def start(
        self, stack: AsyncExitStack, host: str, port: int, store_port: int
    ) -> None:
        """
        Listen on both origins until *stack* is closed.
        """
        self._closing = False
        stack.push_async_callback(self._shelf.aclose)
        self.base_url = await _listen(stack, self._serve_api, host, port)
        self.store_url = await _listen(stack, self._serve_store, host, store_port)
        stack.callback(self._close)

    def _close(self) -> None:
        self._closing = True

    # -- The API -----------------------------------------------------------

    async def _serve_api(self, request: web.BaseRequest) -> web.StreamResponse:
        with busy(self._clock):
            step, _ = self._api.step_of(request.raw_path.partition("?")[0])
            record, crowd = self._arrive(request, step)

            try:
                return await self._answer_api(request, record, crowd)
            finally:
                self._end(record, None)

    async def _answer_api(
        self, request: web.BaseRequest, record: RequestRecord, crowd: Refused | None
    ) -> web.StreamResponse:
        body = await request.content.read()
        line = self._line(request, record)

        if crowd:
            return await send(line, self._refuse(record, crowd), Fault())

        with self._lock:
            fault = self._take_fault(record.step)
            reply = self._reply(request, record, body, fault)

        await self._delay(line, record, fault)

        if fault.lost or fault.delay == math.inf:
            self._end(record, None)
            line.hang_up()
            return web.Response()

        answer = reply if isinstance(reply, Answer) else await self._inline(line, reply)

        return await send(line, answer, fault)

    def _reply(
        self, request: web.BaseRequest, record: RequestRecord, body: bytes, fault: Fault
    ) -> Answer | Inline:
        if fault.refusal:
            return _refusal(fault.refusal)

        try:
            return self._api.answer(
                record,
                credentials=request.headers.get("Authorization"),
                body=body,
                fault=fault,
            )
        except Refused as refused:
            return self._refuse(record, refused)

    def _refuse(self, record: RequestRecord, refused: Refused) -> Answer:
        if refused.rule:
            with self._lock:
                self._service.ledger.object_to(record, refused.rule, refused.details)

        return self._api.refusal(refused)

    async def _inline(self, line: Line, inline: Inline) -> Answer:
        # The API, unlike the store, does as Accept-Encoding says.
        accepted = "gzip" in line.request.headers.get("Accept-Encoding", "")
        compress = bool(self._options.compress) and accepted
        stored = await self._shelf.get(inline.job, compress=compress)
        headers = {"Content-Type": "text/csv; charset=UTF-8"}

        if compress and self._options.compress == "gzip":
            headers["Content-Encoding"] = "gzip"

        return Answer(status=200, headers=headers, body=stored.part(0, stored.size))

    # -- The store ---------------------------------------------------------

    async def _serve_store(self, request: web.BaseRequest) -> web.StreamResponse:
        with busy(self._clock):
            record, _ = self._arrive(request, "store")

            try:
                return await self._answer_store(request, record)
            finally:
                self._end(record, None)

    async def _answer_store(
        self, request: web.BaseRequest, record: RequestRecord
    ) -> web.StreamResponse:
        await request.content.read()
        line = self._line(request, record)

        with self._lock:
            fault = self._take_fault("store")
            reply = self._store_reply(request, record, fault)

        await self._delay(line, record, fault)

        if fault.lost or fault.delay == math.inf:
            line.hang_up()
            return web.Response()

        if isinstance(reply, Job):
            stored = await self._shelf.get(reply, compress=bool(self._options.compress))
            reply = answer_object(
                _store_request(request, fault), stored, self._object_headers(reply)
            )

        return await send(line, reply, fault)

    def _store_reply(
        self, request: web.BaseRequest, record: RequestRecord, fault: Fault
    ) -> Answer | Job:
        service = self._service

        if broken := check_request(_store_request(request, fault)):
            rule, answer = broken
            service.ledger.object_to(record, rule, f"{request.method} at the store")
            return answer

        if fault.refusal:
            return _store_refusal(fault.refusal)

        link = service.links.find(request.raw_path)
        now, utcnow = self._clock.now(), self._clock.utcnow()

        if link is None:
            service.ledger.object_to(record, "link bytes", "not the link handed out")
            return signature_mismatch()

        if refusal := check_age(link, now=now, utcnow=utcnow):
            return refusal

        link.job.suffer(fault)

        return link.job

    def _object_headers(self, job: Job) -> dict[str, str]:
        gone = self._clock.now() - job.requested_at
        modified = self._clock.utcnow().timestamp() - gone
        encoding = "gzip" if self._options.compress == "gzip" else None

        return object_headers(
            datetime.fromtimestamp(int(modified), UTC), encoding=encoding
        )

    # -- Both --------------------------------------------------------------

    def _arrive(
        self, request: web.BaseRequest, step: str
    ) -> tuple[RequestRecord, Refused | None]:
        with self._lock:
            record = self._service.ledger.arrive(
                step,
                request.method,
                request.raw_path,
                request.headers,
                at=self._clock.now(),
            )

            try:
                if step != "store":
                    self._service.admit()
            except Refused as refused:
                return record, refused

        return record, None

    def _end(self, record: RequestRecord, status: int | None) -> None:
        with self._lock:
            self._service.ledger.end(record, status, at=self._clock.now())

    def _take_fault(self, step: str) -> Fault:
        queue = self._service.faults.get(step)

        return queue.take() if queue else Fault()

    def _line(self, request: web.BaseRequest, record: RequestRecord) -> Line:
        return Line(
            request=request,
            release=lambda status: self._end(record, status),
            pause=self._pause,
            hold=lambda: self._hold(request),
        )

    async def _hold(self, request: web.BaseRequest) -> None:
        # Nobody tells a handler that its client has gone, so it looks.
        with idle(self._clock):
            while not self._closing and request.transport is not None:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)

    async def _pause(self, seconds: float) -> None:
        with idle(self._clock):
            await self._clock.sleep(seconds)

    async def _delay(self, line: Line, record: RequestRecord, fault: Fault) -> None:
        latency = self._options.latency
        seconds = latency(record) if callable(latency) else latency
        seconds += fault.delay or 0.0

        if seconds == math.inf:
            await line.hold()
        elif seconds > 0:
            await self._pause(seconds)


class _Shelf:
    """
    The objects of the jobs, each made once.
    """

    def __init__(self, service: Service) -> None:
        self._options = service.options
        self._objects: dict[tuple[str, int, bool], asyncio.Future[StoredObject]] = {}

    async def get(self, job: Job, *, compress: bool) -> StoredObject:
        """
        Return the object of a job, as its faults have left it.
        """
        key = (job.request_id, len(job.edits) + len(job.stored_edits), compress)

        if key not in self._objects:
            self._objects[key] = asyncio.ensure_future(
                asyncio.to_thread(
                    build_object,
                    job,
                    compress=compress,
                    cache_dir=self._options.cache_dir,
                )
            )

        # Shielded: others may be waiting for the same file.
        return await asyncio.shield(self._objects[key])

    async def aclose(self) -> None:
        """
        Wait for no file any more.
        """
        objects, self._objects = list(self._objects.values()), {}

        for future in objects:
            future.cancel()

        await asyncio.gather(*objects, return_exceptions=True)


def _store_request(request: web.BaseRequest, fault: Fault) -> StoreRequest:
    names = {name.lower(): value for name, value in request.headers.items()}
    seen = {name: text for name, text in names.items() if name not in fault.ignored}

    return StoreRequest(method=request.method, headers=seen)


def _refusal(refusal: Refusal) -> Answer:
    if refusal.body is not None:
        return Answer(status=refusal.status, headers=refusal.headers, body=refusal.body)

    answer = envelope(refusal.status, refusal.details)

    return attrs.evolve(answer, headers={**answer.headers, **refusal.headers})


def _store_refusal(refusal: Refusal) -> Answer:
    if refusal.body is not None:
        return _refusal(refusal)

    code = "SlowDown" if refusal.status in {429, 503} else "InternalError"
    answer = xml_answer(refusal.status, code, refusal.details)

    return attrs.evolve(answer, headers={**answer.headers, **refusal.headers})


async def _listen(
    stack: AsyncExitStack,
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    host: str,
    port: int,
) -> str:
    runner = web.ServerRunner(
        web.Server(handler, access_log=None), shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    starting = asyncio.ensure_future(web.TCPSite(runner, host, port).start())

    try:
        await asyncio.shield(starting)
    finally:
        # asyncio forgets a server whose start is cancelled, with its socket
        # open: let it start, for the runner to stop it.
        await starting

    address = runner.addresses[0]

    return f"http://{host}:{address[1]}"
