"""What would be sent, byte for byte as on the vendor's page."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.messages import Replay, Request
from amplitude_cohorts_async._core.requests import Endpoints
from amplitude_cohorts_async._core.tokens import ExportRef
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.models import Routes

VENDOR, OPENAPI = Endpoints(Routes.VENDOR), Endpoints(Routes.OPENAPI)


def target(request: Request) -> str:
    """Return what stands in the first line of a request."""
    query = f"?{request.query}" if request.query else ""

    return f"{request.method} {request.path}{query}"


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (VENDOR.list_cohorts(include_sync_info=False), "GET /api/3/cohorts"),
        (
            VENDOR.list_cohorts(include_sync_info=True),
            "GET /api/3/cohorts?includeSyncInfo=true",
        ),
        (VENDOR.usage(), "GET /api/3/cohorts/usage"),
        (
            VENDOR.request_export("id", properties=False),
            "GET /api/5/cohorts/request/id",
        ),
        (
            VENDOR.request_export("26umsb5", properties=True),
            "GET /api/5/cohorts/request/26umsb5?props=1",
        ),
        (
            VENDOR.request_export("26umsb5", properties=["Property1", "Property2"]),
            (
                "GET /api/5/cohorts/request/26umsb5"
                "?props=1&propKeys=Property1&propKeys=Property2"
            ),
        ),
        (
            VENDOR.export_status(ExportRef(request_id="qfaZya")),
            "GET /api/5/cohorts/request-status/qfaZya",
        ),
        (
            VENDOR.export_file(ExportRef(request_id="Sf7M9j")),
            "GET /api/5/cohorts/request/Sf7M9j/file",
        ),
        (
            OPENAPI.export_status(ExportRef(request_id="qfaZya", cohort_id="26umsb5")),
            "GET /api/5/cohorts/request/26umsb5/status",
        ),
        (
            OPENAPI.export_file(ExportRef(request_id="qfaZya", cohort_id="26umsb5")),
            "GET /api/5/cohorts/request/26umsb5/file",
        ),
    ],
)
def test_the_documented_lines(request_: Request, line: str) -> None:
    """The first line of each request is that of its description."""
    assert line == target(request_)
    assert request_.body is None


def test_what_a_request_costs() -> None:
    """
    Only the request of an export counts in the windows, and is not repeated freely.
    """
    export = VENDOR.request_export("id", properties=False)
    others = [
        VENDOR.list_cohorts(include_sync_info=False),
        VENDOR.usage(),
        VENDOR.export_status(ExportRef(request_id="id")),
        VENDOR.export_file(ExportRef(request_id="id")),
    ]

    assert ("export", Replay.COSTLY) == (export.kind, export.replay)
    assert ["other", "other", "poll", "file"] == [each.kind for each in others]
    assert {Replay.SAFE} == {each.replay for each in others}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
def test_property_names_survive(names: list[str]) -> None:
    """Whatever a property is called, its name arrives, in order and once."""
    query = VENDOR.request_export("id", properties=names).query
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    wanted = [("propKeys", name) for name in dict.fromkeys(names)]

    assert query.isascii()
    assert ([("props", "1"), *wanted] if names else []) == pairs


@pytest.mark.parametrize("routes", Routes)
def test_a_job_of_no_cohort(routes: Routes) -> None:
    """Where a job is named by its cohort, a bare request id is not enough."""
    endpoints = Endpoints(routes)

    if routes is Routes.VENDOR:
        assert endpoints.export_status(ExportRef(request_id="a"))
        return

    for make in (endpoints.export_status, endpoints.export_file):
        with pytest.raises(InvalidInputError, match="token"):
            make(ExportRef(request_id="a"))


@pytest.mark.parametrize("name", ["", None, 7, "\ud800"])
def test_what_is_no_property(name: str) -> None:
    """A property has a name that can be sent."""
    with pytest.raises(InvalidInputError):
        VENDOR.request_export("id", properties=[name])
