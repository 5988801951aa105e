"""A hook that makes spans, with a client that works in another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is missing")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN, get_current_span

from amplitude_cohorts_async.blocking import CohortsClient
from amplitude_cohorts_async.contrib.otel import OpenTelemetryHook
from amplitude_cohorts_async.testing import CohortsEmulator
from support.tracing import Spans

COHORTS = ["26umsb5", "9apg8e8f", "c3"]
PARTS = ("cohorts.request", "cohorts.wait", "cohorts.download")


@pytest.fixture
def traced(
    portal_ends: None, cohorts_emulator: CohortsEmulator, spans: Spans, tmp_path: Path
) -> Iterator[CohortsClient]:
    """A client whose spans stay in memory, and three cohorts."""
    for cohort_id in COHORTS:
        cohorts_emulator.add_cohort(cohort_id, size=10)

    with CohortsClient.from_env(
        clock=cohorts_emulator.clock,
        jobs=tmp_path / "jobs.db",
        hook=OpenTelemetryHook(tracer_provider=spans.provider),
    ) as client:
        yield client


def parent_of(span: ReadableSpan) -> int | None:
    """Return the id of the span that it is in."""
    return span.parent and span.parent.span_id


def test_several_exports_are_beside_each_other(
    traced: CohortsClient, spans: Spans, tmp_path: Path
) -> None:
    """Each is in the caller's span, its parts are in it, and none is left open."""
    tracer = spans.provider.get_tracer("caller")

    with tracer.start_as_current_span("caller") as caller:
        outcomes = [*traced.export_many(COHORTS, tmp_path)]
        assert get_current_span() is caller

    assert get_current_span() is INVALID_SPAN
    assert [None] * 3 == [outcome.error for outcome in outcomes]
    exports = spans.named("cohorts.export")
    caller_id = spans.only("caller").context.span_id
    assert [caller_id] * 3 == [parent_of(each) for each in exports]
    for name in PARTS:
        assert {each.context.span_id for each in exports} == {
            parent_of(part) for part in spans.named(name)
        }


def test_each_call_is_in_the_present_span(traced: CohortsClient, spans: Spans) -> None:
    """The next call has the next span, or none."""
    tracer = spans.provider.get_tracer("caller")

    with tracer.start_as_current_span("first"):
        traced.list_cohorts()
    with tracer.start_as_current_span("second"):
        traced.list_cohorts()
    traced.list_cohorts()

    lists = spans.named("GET /api/3/cohorts")
    callers = [spans.only(name).context.span_id for name in ("first", "second")]
    assert [*callers, None] == [parent_of(each) for each in lists]


def test_the_record_has_the_span_of_the_request(
    traced: CohortsClient, spans: Spans, tmp_path: Path
) -> None:
    """So that who goes on with the export has a link to it."""
    traced.export(COHORTS[0], tmp_path / "members.csv")

    (record,) = traced.jobs()
    request = spans.only("cohorts.request")
    assert record.traceparent is not None
    assert f"-{request.context.span_id:016x}-" in record.traceparent


def test_members_are_read_in_the_callers_span(
    traced: CohortsClient, spans: Spans
) -> None:
    """What is entered, read and left is one download, in the span of its context."""
    tracer = spans.provider.get_tracer("caller")
    job = traced.request_export(COHORTS[0])

    with tracer.start_as_current_span("caller"), job.members() as members:
        assert 10 == sum(1 for _ in members)

    assert get_current_span() is INVALID_SPAN
    caller_id = spans.only("caller").context.span_id
    assert caller_id == parent_of(spans.only("cohorts.download"))


def test_what_is_called_next_is_called_in_the_loop(
    portal_ends: None, cohorts_emulator: CohortsEmulator, spans: Spans
) -> None:
    """As the hook itself is, and unlike a plain one."""
    names: set[str] = set()

    with CohortsClient.from_env(
        clock=cohorts_emulator.clock,
        hook=OpenTelemetryHook(
            tracer_provider=spans.provider,
            next_hook=lambda _: names.add(threading.current_thread().name),
        ),
    ) as client:
        client.list_cohorts()

    assert {"amplitude-cohorts"} == names
