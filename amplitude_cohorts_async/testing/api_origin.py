"""
The origin of the API.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock

from aiohttp import web

from .answers import Answer, Refused, envelope
from .api import Inline, VendorApi
from .faults import Fault
from .ledger import RequestRecord
from .openapi import OpenApi
from .origin import Origin, Visit, stand_in
from .sending import send
from .service import Service
from .shelf import Shelf

__all__ = ("ApiOrigin",)


class ApiOrigin(Origin):
    """
    Speaks the dialect that was asked for, to five requests at a time.
    """

    def __init__(
        self,
        service: Service,
        *,
        lock: RLock,
        shelf: Shelf,
        store_url: Callable[[], str],
    ) -> None:
        super().__init__(service, lock=lock)
        self._shelf = shelf
        dialects = {"vendor": VendorApi, "openapi": OpenApi}
        self._api = dialects[self._options.dialect](service, store_url=store_url)

    def step_of(self, request: web.BaseRequest) -> str:
        """
        Tell what a request asks for; "other" if it is nothing there is.
        """
        return self._api.step_of(request.raw_path.partition("?")[0])[0]

    def admit(self) -> None:
        """
        Refuse a request beyond the number allowed at once.
        """
        self._service.admit()

    def latency_of(self, record: RequestRecord) -> float:
        """
        Tell how long the answer to a request takes.
        """
        latency = self._options.latency

        return latency(record) if callable(latency) else latency

    async def answer(self, visit: Visit) -> web.StreamResponse:
        """
        Answer a request.
        """
        # One too many is sent away at once, and keeps no place meanwhile.
        if visit.refused:
            return await send(visit.line, self._refuse(visit, visit.refused), Fault())

        with self._lock:
            fault = self.take_fault(visit.record.step)
            reply = self._reply(visit, fault)

        if await self.withheld(visit, fault):
            return web.Response()

        if isinstance(reply, Inline):
            reply = await self._inline(visit, reply)

        return await send(visit.line, reply, fault)

    def _reply(self, visit: Visit, fault: Fault) -> Answer | Inline:
        if fault.refusal:
            refusal = fault.refusal
            return stand_in(refusal, envelope(refusal.status, refusal.details))

        try:
            return self._api.answer(
                visit.record,
                credentials=visit.request.headers.get("Authorization"),
                body=visit.body,
                fault=fault,
            )
        except Refused as refused:
            return self._refuse(visit, refused)

    def _refuse(self, visit: Visit, refused: Refused) -> Answer:
        if refused.rule:
            with self._lock:
                self._service.ledger.object_to(
                    visit.record, refused.rule, refused.details
                )

        return envelope(refused.status, refused.details, metadata=refused.metadata)

    async def _inline(self, visit: Visit, inline: Inline) -> Answer:
        # The API, unlike the store, does as Accept-Encoding says.
        accepted = "gzip" in visit.request.headers.get("Accept-Encoding", "")
        compress = self._options.compress is not None and accepted
        stored = await self._shelf.get(inline.job, compress=compress)
        headers = {"Content-Type": "text/csv; charset=UTF-8"}

        if compress and self._options.compress == "gzip":
            headers["Content-Encoding"] = "gzip"

        return Answer(status=200, headers=headers, body=stored.part(0, stored.size))
