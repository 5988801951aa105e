"""
The same service as a third-party OpenAPI description has it.

It names jobs by their cohort and differs in most words. Gateways and mocks
are made from it; the live service does not work like this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from .answers import Refused, json_answer
from .api import Call, Inline, Reply, VendorApi
from .bodies import parse_upload
from .cohorts import listed_by_openapi
from .jobs import Job
from .writes import upload

__all__ = ("OpenApi",)


class OpenApi(VendorApi):
    """
    The five endpoints of that description.
    """

    routes: ClassVar[Mapping[str, tuple[str, str]]] = {
        "list": ("GET", r"/api/3/cohorts"),
        "export": ("GET", r"/api/5/cohorts/request/([^/]+)"),
        "status": ("GET", r"/api/5/cohorts/request/([^/]+)/status"),
        "file": ("GET", r"/api/5/cohorts/request/([^/]+)/file"),
        "upload": ("POST", r"/api/3/cohorts/upload"),
    }
    unauthorized: ClassVar[int] = 401

    def list(self, call: Call) -> Reply:
        """
        Retrieve a list of all cohorts.
        """
        del call

        return json_answer({"cohorts": list(map(listed_by_openapi, self.shown()))})

    def export(self, call: Call) -> Reply:
        """
        Request an export: 200, not 202.
        """
        job = self.start(call)

        return json_answer({"request_id": job.request_id, "cohort_id": job.cohort_id})

    def status(self, call: Call) -> Reply:
        """
        Tell the state of a cohort's latest export.
        """
        job = self._latest(call)
        job.suffer(call.fault)

        return json_answer({"request_id": job.request_id, "status": self._word(job)})

    def file(self, call: Call) -> Reply:
        """
        Send the file of a cohort's latest export; there are no links.
        """
        job = self._latest(call)
        self.service.check_ready(job)
        job.suffer(call.fault)

        return Inline(job)

    def upload(self, call: Call) -> Reply:
        """
        Create or update a cohort; only a name and ids are required.
        """
        body = parse_upload(
            call.body, most=self.service.options.quotas.ids, required=("name", "ids")
        )
        result = upload(self.service, body, call.record)

        return json_answer({"cohort_id": result.cohort and result.cohort.id})

    def _latest(self, call: Call) -> Job:
        job = self.service.latest.get(call.argument)

        if job is None:
            raise Refused(404, f"Cohort not found: {call.argument}")

        return self.service.find_job(job.request_id)

    def _word(self, job: Job) -> str:
        now = self.service.clock.now()

        if job.fate == "failed":
            return "failed"

        if now >= job.ready_at:
            return "complete"

        halfway = (job.requested_at + job.ready_at) / 2

        return "queued" if now < halfway else "computing"
