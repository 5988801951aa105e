"""
Requests to the reading endpoints; the only module that knows their paths.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts. The third-party
description of `Routes.OPENAPI` differs in two paths and some refusals here, and in
the status values that `responses` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import attrs

from ..errors import InvalidInputError
from ..models import Routes
from .ids import checked_id, checked_request_id, has_surrogates
from .messages import Replay, Request
from .tokens import ExportRef

LIST_PATH = "/api/3/cohorts"
USAGE_PATH = "/api/3/cohorts/usage"
EXPORT_PATH = "/api/5/cohorts/request"
STATUS_PATH = "/api/5/cohorts/request-status"

# The page, on `props`: "Set to `0` or unset if the request keeps timing out".
FEWER_PROPERTIES = (
    "If exports of this cohort keep timing out, ask for fewer properties, or for none"
)


@attrs.frozen
class Endpoints:
    """The reading endpoints, as one description of the service has them."""

    routes: Routes = Routes.VENDOR

    def list_cohorts(self, *, include_sync_info: bool = False) -> Request:
        """Return the request for all discoverable cohorts."""
        if include_sync_info and self.routes is Routes.OPENAPI:
            raise InvalidInputError(
                "Routes.OPENAPI describes no information about syncs; leave "
                "include_sync_info out, or use Routes.VENDOR"
            )

        query = "includeSyncInfo=true" if include_sync_info else ""

        return Request(operation="list", path=LIST_PATH, query=query)

    def usage(self) -> Request:
        """Return the request for the month's usage."""
        if self.routes is Routes.OPENAPI:
            raise InvalidInputError(
                "Routes.OPENAPI describes no usage endpoint; use Routes.VENDOR"
            )

        return Request(operation="usage", path=USAGE_PATH)

    def request_export(
        self, cohort_id: str, *, properties: bool | Sequence[str]
    ) -> Request:
        """
        Return the request for an export; each one sent counts in the monthly quota.

        The *properties* are False or empty for ids only, True for all, or the names of
        some.
        """
        names = () if isinstance(properties, bool) else properties

        if names and self.routes is Routes.OPENAPI:
            raise InvalidInputError(
                "Routes.OPENAPI describes no names of properties; pass properties=True "
                "for all of them, or use Routes.VENDOR"
            )

        return Request(
            operation="export",
            path=f"{EXPORT_PATH}/{_segment(cohort_id)}",
            template=f"{EXPORT_PATH}/{{id}}",
            query=_properties_query(properties),
            replay=Replay.COSTLY,
            kind="export",
            subject=self._subject(cohort_id),
        )

    def export_status(self, job: ExportRef) -> Request:
        """Return the request for a job's status."""
        path, template = (
            (
                f"{EXPORT_PATH}/{_cohort_segment(job)}/status",
                f"{EXPORT_PATH}/{{id}}/status",
            )
            if self.routes is Routes.OPENAPI
            else (f"{STATUS_PATH}/{_job_segment(job)}", f"{STATUS_PATH}/{{request_id}}")
        )

        return Request(
            operation="status",
            path=path,
            template=template,
            kind="poll",
            subject=self._subject(job.cohort_id, request_id=[job.request_id]),
        )

    def export_file(self, job: ExportRef) -> Request:
        """Return the request for a finished job's file, or a link to it."""
        is_openapi = self.routes is Routes.OPENAPI
        segment = _cohort_segment(job) if is_openapi else _job_segment(job)
        name = "id" if is_openapi else "request_id"

        return Request(
            operation="file",
            path=f"{EXPORT_PATH}/{segment}/file",
            template=f"{EXPORT_PATH}/{{{name}}}/file",
            kind="file",
        )

    def _subject(
        self, cohort_id: str | None, **others: Sequence[str]
    ) -> Mapping[str, Sequence[str]]:
        # Mocks of the other description may answer with its own examples.
        if self.routes is not Routes.VENDOR:
            return {}

        return others if cohort_id is None else {**others, "cohort_id": [cohort_id]}


def checked_properties(properties: bool | Sequence[str]) -> bool | tuple[str, ...]:
    """
    Return *properties* as a bool or a tuple of different names.

    Raises `InvalidInputError` if they are one string, or hold something that cannot be
    the name of a property.
    """
    if isinstance(properties, bool):
        return properties

    if isinstance(properties, str | bytes) or not isinstance(properties, Sequence):
        raise InvalidInputError(
            f"properties must be True, False or a list of names, got {properties!r}; "
            f"for one property, pass a list of one name"
        )

    for name in properties:
        if not isinstance(name, str) or not name:
            raise InvalidInputError(
                f"a property's name must be a string that is not empty, got {name!r}"
            )

        if has_surrogates(name):
            raise InvalidInputError(
                f"the property name {name!r} is not valid text; decode it with the "
                f"encoding it was written in"
            )

    return tuple(dict.fromkeys(properties))


def _properties_query(properties: bool | Sequence[str]) -> str:
    checked = checked_properties(properties)

    if not checked:
        return ""

    names = () if isinstance(checked, bool) else checked

    # The key repeats: the service does not read `propKeys[]=` or joined names.
    return "&".join(
        ["props=1", *(f"propKeys={quote(name, safe='')}" for name in names)]
    )


def _segment(cohort_id: str) -> str:
    return quote(checked_id(cohort_id, "cohort id"), safe="")


def _job_segment(job: ExportRef) -> str:
    return quote(checked_request_id(job.request_id), safe="")


def _cohort_segment(job: ExportRef) -> str:
    # This description identifies a job by its cohort alone, so two jobs of one
    # cohort cannot be told apart.
    if job.cohort_id is None:
        raise InvalidInputError(
            "Routes.OPENAPI names a job by its cohort, and this job does not know "
            "its cohort; resume it from its token instead of its request id"
        )

    return _segment(job.cohort_id)
