"""
The API, from a request's path, query and body to an answer: as the vendor's
page has it, and as a third-party OpenAPI description has it.

https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar
from urllib.parse import parse_qsl, unquote

import attrs

from .cohorts import CohortRecord, cohort_json, openapi_cohort_json
from .faults import Fault
from .messages import Answer, Refused, json_answer, parse_update, parse_upload
from .object_store import Job
from .quotas import RequestRecord
from .service import Service, Uploaded, results_json, update, upload

__all__ = ("Call", "OpenApi", "VendorApi")


@attrs.frozen(kw_only=True)
class Call:
    """
    One request, as the API sees it.

    Attributes:
        argument: What stands in the variable part of the path, decoded.
        query: Decoded pairs, in their order.
    """

    record: RequestRecord
    argument: str = ""
    query: Sequence[tuple[str, str]] = ()
    body: bytes = attrs.field(default=b"", repr=False)
    fault: Fault = attrs.field(factory=Fault)


# A job stands for its file, which is still to be made.
Reply = Answer | Job
Handler = Callable[[Call], Reply]


class VendorApi:
    """The seven endpoints of the vendor's page."""

    routes: ClassVar[Mapping[str, tuple[str, str]]] = {
        "list": ("GET", r"/api/3/cohorts"),
        "usage": ("GET", r"/api/3/cohorts/usage"),
        "export": ("GET", r"/api/5/cohorts/request/([^/]+)"),
        "status": ("GET", r"/api/5/cohorts/request-status/([^/]+)"),
        "file": ("GET", r"/api/5/cohorts/request/([^/]+)/file"),
        "upload": ("POST", r"/api/3/cohorts/upload"),
        "membership": ("POST", r"/api/3/cohorts/membership"),
    }
    # The names that a query may have; none at the other steps.
    queries: ClassVar[Mapping[str, Sequence[str]]] = {
        "list": ("includeSyncInfo",),
        "export": ("props", "propKeys"),
    }
    # Bad credentials are 403 here, and the details tell which one is bad.
    unauthorized: ClassVar[int] = 403

    def __init__(self, service: Service, *, store_url: Callable[[], str]) -> None:
        self.service = service
        self._store_url = store_url
        self._handlers: dict[str, Handler] = {
            "list": self.list,
            "usage": self.usage,
            "export": self.export,
            "status": self.status,
            "file": self.file,
            "upload": self.upload,
            "membership": self.membership,
        }

    def step_of(self, path: str) -> tuple[str, str]:
        """Return the step that a path asks for, and the variable part of it."""
        for step, (_, pattern) in self.routes.items():
            if match := re.fullmatch(pattern, path):
                return step, unquote(match[1]) if match.groups() else ""

        return "other", ""

    def answer(
        self,
        record: RequestRecord,
        *,
        credentials: str | None,
        body: bytes,
        fault: Fault,
    ) -> Reply:
        """
        Return what a request asks for, once it is done.

        Args:
            credentials: The Authorization header.

        Raises:
            Refused: The service says no.
        """
        path, _, query = record.target.partition("?")
        step, argument = self.step_of(path)
        self._check_credentials(credentials)
        self._check_route(record, step)
        call = Call(
            record=record,
            argument=argument,
            query=parse_qsl(query, keep_blank_values=True),
            body=body,
            fault=fault,
        )
        _allow(call, *self._names_of(step))

        return self._handlers[step](call)

    # -- The endpoints -----------------------------------------------------

    def list(self, call: Call) -> Reply:
        """Get all cohorts: those that are discoverable."""
        sync_info = _choice(call, "includeSyncInfo", ("false", "true")) == "true"

        return json_answer(
            {
                "cohorts": [
                    cohort_json(cohort, sync_info=sync_info) for cohort in self.shown()
                ]
            }
        )

    def usage(self, call: Call) -> Reply:
        """Get usage."""
        del call
        resets_at = self.service.resets_at().replace(tzinfo=None)

        return json_answer(
            {
                "rest_download": {
                    "limit": self.service.options.quotas.month,
                    "usage": self.service.spent,
                    "resets_at": resets_at.isoformat(),
                }
            }
        )

    def export(self, call: Call) -> Reply:
        """Get one cohort, the first of three steps."""
        job = self.start(call)

        return json_answer(
            {"request_id": job.request_id, "cohort_id": job.cohort_id}, status=202
        )

    def status(self, call: Call) -> Reply:
        """Get request status, the second step."""
        job = self.service.find_job(call.argument)
        job.apply(call.fault)

        if job.outcome == "failed":
            status = self.service.options.assumptions.failed_job_status
            status_text = "JOB FAILED"
        elif self.service.clock.now() < job.ready_at:
            status, status_text = 202, "JOB INPROGRESS"
        else:
            status, status_text = 200, "JOB COMPLETED"

        return json_answer(
            {
                "request_id": job.request_id,
                "cohort_id": job.cohort_id,
                "async_status": status_text,
            },
            status=status,
        )

    def file(self, call: Call) -> Reply:
        """Download cohort, the third step: the file, or a link to it."""
        job = self.service.find_job(call.argument)
        self.service.check_ready(job)
        job.apply(call.fault)

        if self.service.is_sent_inline(job, call.fault):
            return job

        link = self.service.issue_link(job, expired=bool(call.fault.expired))

        return Answer(
            status=302,
            headers={
                "Location": self._store_url() + link.target,
                "Content-Type": "text/html; charset=UTF-8",
                "Cache-Control": "no-cache",
            },
        )

    def upload(self, call: Call) -> Reply:
        """Upload cohort."""
        _check_json(call)
        body = parse_upload(call.body, max_ids=self.service.options.quotas.ids)
        call.record.ids = len(body.ids)

        return self._uploaded(upload(self.service, body, call.record))

    def membership(self, call: Call) -> Reply:
        """Update cohort membership."""
        _check_json(call)
        body = parse_update(call.body, max_ids=self.service.options.quotas.ids)
        call.record.ids = sum(len(entry.ids) for entry in body.operations)
        results = update(self.service, body, call.record)

        return json_answer(
            {"cohort_id": body.cohort_id, "memberships_result": results_json(results)}
        )

    # -- Parts -------------------------------------------------------------

    def _names_of(self, step: str) -> Sequence[str]:
        more = step == "export" and self.service.options.assumptions.last_computed

        return (*self.queries.get(step, ()), *(["lastComputed"] if more else ()))

    def shown(self) -> Sequence[CohortRecord]:
        """Return the cohorts that the list shows."""
        return [cohort for cohort in self.service.cohorts.values() if cohort.published]

    def start(self, call: Call) -> Job:
        """Start an export."""
        wanted = _choice(call, "props", ("0", "1")) == "1"
        keys = [value for name, value in call.query if name == "propKeys"]

        # Stricter than the page, which has no example of one without the other.
        if keys and not any(name == "props" for name, _ in call.query):
            raise Refused(400, "propKeys comes with props", rule="query")

        self._check_keys(keys, call.argument)
        chosen = (keys or None) if wanted else ()
        job = self.service.request_export(call.argument, chosen, call.record)
        job.apply(call.fault)

        return job

    def _check_keys(self, keys: Sequence[str], cohort_id: str) -> None:
        cohort = self.service.cohorts.get(cohort_id)
        known = cohort.properties if cohort else ()

        for key in keys:
            # A name may hold a comma; several names joined by one are a mistake.
            if not key or ("," in key and key not in known):
                raise Refused(
                    400, "propKeys is one property; repeat it for more", rule="query"
                )

    def _uploaded(self, result: Uploaded) -> Answer:
        value: dict[str, object] = {}
        assumed = self.service.options.assumptions

        if result.cohort:
            value["cohortId"] = result.cohort.id
        elif assumed.validation_names_cohort:
            value["cohortId"] = None

        if result.cohort and assumed.cohorts_by_id:
            value["cohortsById"] = {result.cohort.id: cohort_json(result.cohort)}

        value["metadata"] = {
            "matched": result.matched,
            "totals": result.total,
            "invalid_ids_sample": list(result.invalid_sample),
        }

        return json_answer(value)

    def _check_credentials(self, credentials: str | None) -> None:
        options = self.service.options
        key, secret = _basic(credentials)

        if key != options.api_key:
            raise Refused(self.unauthorized, "Invalid API Key")

        if secret != options.secret_key:
            raise Refused(self.unauthorized, "Invalid API/Secret Key combination")

    def _check_route(self, record: RequestRecord, step: str) -> None:
        if step not in self.routes:
            raise Refused(404, "Not found", rule="path")

        if record.method != self.routes[step][0]:
            raise Refused(405, "Method not allowed", rule="method")


def _basic(header: str | None) -> tuple[str, str]:
    scheme, _, encoded = (header or "").partition(" ")

    if scheme.lower() != "basic":
        return "", ""

    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""

    key, _, secret = text.partition(":")

    return key, secret


def _allow(call: Call, *names: str) -> None:
    for name, _ in call.query:
        if name not in names:
            raise Refused(400, f"unknown query parameter {name}", rule="query")


def _choice(call: Call, name: str, choices: Sequence[str]) -> str:
    values = [value for key, value in call.query if key == name] or [choices[0]]

    if len(values) > 1 or values[0] not in choices:
        raise Refused(400, f"{name} must be one of {', '.join(choices)}", rule="query")

    return values[0]


def _check_json(call: Call) -> None:
    kind = call.record.headers.get("content-type", "")

    if kind.partition(";")[0].strip().lower() != "application/json":
        raise Refused(400, "Content-Type must be application/json", rule="body")


class OpenApi(VendorApi):
    """
    The five endpoints of the third-party OpenAPI description.

    It names jobs by their cohort and spells most things in another way.
    Gateways and mocks are made from it; the live service does not work like
    this.
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
        """Retrieve a list of all cohorts."""
        del call

        return json_answer({"cohorts": list(map(openapi_cohort_json, self.shown()))})

    def export(self, call: Call) -> Reply:
        """Request an export: 200, not 202."""
        job = self.start(call)

        return json_answer({"request_id": job.request_id, "cohort_id": job.cohort_id})

    def status(self, call: Call) -> Reply:
        """Return the state of a cohort's latest export."""
        job = self._latest(call)
        job.apply(call.fault)

        return json_answer(
            {"request_id": job.request_id, "status": self._status_text(job)}
        )

    def file(self, call: Call) -> Reply:
        """Send the file of a cohort's latest export; there are no links."""
        job = self._latest(call)
        self.service.check_ready(job)
        job.apply(call.fault)

        return job

    def upload(self, call: Call) -> Reply:
        """Create or update a cohort; only a name and ids are required."""
        body = parse_upload(
            call.body, max_ids=self.service.options.quotas.ids, required=("name", "ids")
        )
        result = upload(self.service, body, call.record)

        return json_answer({"cohort_id": result.cohort and result.cohort.id})

    def _latest(self, call: Call) -> Job:
        job = self.service.latest.get(call.argument)

        if job is None:
            raise Refused(404, f"Cohort not found: {call.argument}")

        return self.service.find_job(job.request_id)

    def _status_text(self, job: Job) -> str:
        now = self.service.clock.now()

        if job.outcome == "failed":
            return "failed"

        if now >= job.ready_at:
            return "complete"

        halfway = (job.requested_at + job.ready_at) / 2

        return "queued" if now < halfway else "computing"
