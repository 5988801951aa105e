"""
The origin of the store.
"""

from __future__ import annotations

from datetime import timedelta
from threading import RLock

from aiohttp import web

from .answers import Answer, xml_answer
from .faults import Fault, Refusal
from .jobs import Job
from .origin import Origin, Visit, stand_in
from .sending import send
from .service import Service
from .shelf import Shelf
from .store import (
    StoreRequest,
    answer_object,
    check_age,
    check_request,
    object_headers,
    signature_mismatch,
)

__all__ = ("StoreOrigin",)


class StoreOrigin(Origin):
    """
    Hands out objects to whoever has a link; it knows no accounts and no limits.
    """

    def __init__(self, service: Service, *, lock: RLock, shelf: Shelf) -> None:
        super().__init__(service, lock=lock)
        self._shelf = shelf

    def step_of(self, request: web.BaseRequest) -> str:
        """
        There is one thing to ask for here.
        """
        del request

        return "store"

    def admit(self) -> None:
        """
        Everybody is.
        """

    async def answer(self, visit: Visit) -> web.StreamResponse:
        """
        Answer a request.
        """
        with self._lock:
            fault = self.take_fault("store")
            asked = _asked(visit.request, fault)
            reply = self._reply(visit, asked, fault)

        if await self.withheld(visit, fault):
            return web.Response()

        if isinstance(reply, Job):
            compress = self._options.compress is not None
            stored = await self._shelf.get(reply, compress=compress)
            reply = answer_object(asked, stored, self._headers(reply))

        return await send(visit.line, reply, fault)

    def _reply(self, visit: Visit, asked: StoreRequest, fault: Fault) -> Answer | Job:
        if broken := check_request(asked):
            rule, answer = broken
            self._object_to(visit, rule, f"{asked.method} with {rule}")
            return answer

        if fault.refusal:
            return stand_in(fault.refusal, _error(fault.refusal))

        link = self._service.links.find(visit.record.target)

        if link is None:
            self._object_to(visit, "link bytes", "path or query are not as handed out")
            return signature_mismatch()

        if refusal := check_age(
            link, now=self._clock.now(), utcnow=self._clock.utcnow()
        ):
            return refusal

        link.job.suffer(fault)

        return link.job

    def _object_to(self, visit: Visit, rule: str, details: str) -> None:
        self._service.ledger.object_to(visit.record, rule, details)

    def _headers(self, job: Job) -> dict[str, str]:
        age = timedelta(seconds=self._clock.now() - job.requested_at)
        encoding = "gzip" if self._options.compress == "gzip" else None

        return object_headers(self._clock.utcnow() - age, encoding=encoding)


def _asked(request: web.BaseRequest, fault: Fault) -> StoreRequest:
    names = {name.lower(): value for name, value in request.headers.items()}
    seen = {name: text for name, text in names.items() if name not in fault.ignored}

    return StoreRequest(method=request.method, headers=seen)


def _error(refusal: Refusal) -> Answer:
    code = "SlowDown" if refusal.status in {429, 503} else "InternalError"

    return xml_answer(refusal.status, code, refusal.details)
