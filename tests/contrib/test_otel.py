"""What a client does, as spans and metrics of OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is missing")

from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.otel import OpenTelemetryHook
from amplitude_cohorts_async.errors import CohortsError, ExportFailedError
from amplitude_cohorts_async.events import Event, ExportRequested
from amplitude_cohorts_async.jobs import JobRecord
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import find_secrets
from support.clients import unlimited_client
from support.exporting import (
    COHORT,
    COMPLETED,
    CSV,
    EXPORT,
    FILE,
    LINK,
    LIST,
    OBJECT,
    REQUEST,
    RUNNING,
    STATUS,
    cut,
    whole,
)
from support.fault_server import DROP, FaultServer, json_reply, reply
from support.tracing import Metrics, Spans


@pytest.fixture
def hook(spans: Spans, metrics: Metrics) -> OpenTelemetryHook:
    """A hook whose spans and metrics stay in memory."""
    return OpenTelemetryHook(
        tracer_provider=spans.provider, meter_provider=metrics.provider
    )


@pytest.fixture
async def traced(
    server: FaultServer, clock: FakeClock, hook: OpenTelemetryHook, tmp_path: Path
) -> AsyncIterator[CohortsClient]:
    """A client with it, whose exports outlive it."""
    async with unlimited_client(
        server.url, clock, hook=hook, jobs=tmp_path / "jobs.db"
    ) as client:
        yield client


def parent_of(span: ReadableSpan) -> int | None:
    """Return the id of the span that it is in."""
    return span.parent and span.parent.span_id


def span_id(span: ReadableSpan) -> int:
    """Return its id."""
    return span.context.span_id


def attributes(span: ReadableSpan) -> dict[str, object]:
    """Return its attributes."""
    return dict(span.attributes or {})


async def test_an_export_has_a_span_for_each_of_its_parts(
    traced: CohortsClient, spans: Spans, tmp_path: Path
) -> None:
    """Request, wait and download are in it, and nothing else is."""
    saved = await traced.export(COHORT, tmp_path / "members.csv")

    export = spans.only("cohorts.export")
    parts = [spans.only(f"cohorts.{n}") for n in ("request", "wait", "download")]
    assert parent_of(export) is None
    assert [span_id(export)] * 3 == [parent_of(part) for part in parts]
    assert {COHORT} == {attributes(s)["amplitude.cohort.id"] for s in [export, *parts]}
    assert {REQUEST} == {attributes(s)["amplitude.export.request_id"] for s in parts}
    assert saved.rows == attributes(parts[2])["amplitude.export.rows"]
    assert saved.size == attributes(parts[2])["amplitude.export.size"]
    assert not any(span.links for span in spans.ended)
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.ended)


async def test_requests_to_amplitude_have_names_of_low_cardinality(
    traced: CohortsClient, spans: Spans, server: FaultServer, tmp_path: Path
) -> None:
    """The names of the HTTP conventions, and a template instead of ids."""
    await traced.export(COHORT, tmp_path / "members.csv")

    clients = [span for span in spans.ended if span.kind is SpanKind.CLIENT]
    assert {
        "GET /api/5/cohorts/request/{id}",
        "GET /api/5/cohorts/request-status/{request_id}",
        "GET /api/5/cohorts/request/{request_id}/file",
        "GET /api/3/cohorts/usage",
    } >= {span.name for span in clients}
    status = spans.only("GET /api/5/cohorts/request-status/{request_id}")
    assert span_id(spans.only("cohorts.wait")) == parent_of(status)
    assert {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rpartition(":")[2]),
        "url.scheme": "http",
        "url.template": "/api/5/cohorts/request-status/{request_id}",
    } == attributes(status)


async def test_what_goes_wrong_is_in_its_span(
    traced: CohortsClient, spans: Spans, server: FaultServer, tmp_path: Path
) -> None:
    """Retries, polls and renewed links are events of the part in which they happen."""
    server.on(STATUS, DROP, RUNNING, reply(503, b"busy"), COMPLETED)
    server.on(OBJECT, cut(900), whole())

    await traced.export(COHORT, tmp_path / "members.csv")

    assert CSV == (tmp_path / "members.csv").read_bytes()
    waited = [event.name for event in spans.only("cohorts.wait").events]
    assert waited.count("cohorts.polled") == 4
    (renewed,) = spans.only("cohorts.download").events
    assert "cohorts.link_renewed" == renewed.name


async def test_a_retry_is_an_event(
    traced: CohortsClient, spans: Spans, metrics: Metrics, server: FaultServer
) -> None:
    """Its span is the caller's, and the second attempt says that it is one."""
    server.on(LIST, reply(503, b"busy"), json_reply({"cohorts": []}))
    tracer = spans.provider.get_tracer("caller")

    with tracer.start_as_current_span("caller"):
        await traced.list_cohorts()

    (event,) = spans.only("caller").events
    assert "cohorts.retry" == event.name
    assert "list" == (event.attributes or {})["amplitude.operation"]
    first, second = spans.named("GET /api/3/cohorts")
    assert "503" == attributes(first)["error.type"]
    assert StatusCode.ERROR is first.status.status_code
    assert 1 == attributes(second)["http.request.resend_count"]
    assert [({"amplitude.operation": "list"}, 1)] == metrics.points(
        "amplitude.cohorts.retries"
    )


async def test_an_export_that_fails_has_its_error(
    traced: CohortsClient, spans: Spans, server: FaultServer, tmp_path: Path
) -> None:
    """The span, and the one around it, say which and why."""
    server.on(STATUS, json_reply({"request_id": REQUEST, "async_status": "JOB FAILED"}))

    with pytest.raises(ExportFailedError) as caught:
        await traced.export(COHORT, tmp_path / "members.csv")

    for name in ("cohorts.wait", "cohorts.export"):
        span = spans.only(name)
        assert "ExportFailedError" == attributes(span)["error.type"]
        assert str(caught.value) == span.status.description


async def test_a_lost_connection_is_counted(
    traced: CohortsClient, metrics: Metrics, server: FaultServer
) -> None:
    """A request without an answer has no status, and a type of error."""
    server.on(LIST, DROP)

    with pytest.raises(CohortsError):
        await traced.list_cohorts()

    points = metrics.points("http.client.request.duration")
    assert {"ConnectionFailedError"} == {facts["error.type"] for facts, _ in points}
    assert all("http.response.status_code" not in facts for facts, _ in points)


async def test_who_goes_on_links_to_the_first_span(
    server: FaultServer,
    clock: FakeClock,
    spans: Spans,
    hook: OpenTelemetryHook,
    tmp_path: Path,
) -> None:
    """A job outlives its process: its token and its record carry the span."""
    jobs = tmp_path / "jobs.db"
    async with unlimited_client(server.url, clock, hook=hook, jobs=jobs) as client:
        job = await client.request_export(COHORT)
    first = span_id(spans.only("cohorts.request"))

    async with unlimited_client(server.url, clock, hook=hook, jobs=jobs) as client:
        (record,) = await client.jobs()
        await client.resume_export(job.token).download(tmp_path / "members.csv")

    assert record.traceparent is not None
    assert f"-{first:016x}-" in record.traceparent
    for name in ("cohorts.wait", "cohorts.download"):
        (link,) = spans.only(name).links
        assert first == link.context.span_id


async def test_the_steps_of_an_engine_link_to_the_first(
    traced: CohortsClient, clock: FakeClock, spans: Spans, tmp_path: Path
) -> None:
    """Each tick is a span; those after the request link to it, whatever they know."""
    record = JobRecord.new(COHORT, tmp_path / "members.csv")

    while True:
        # As an engine does, which keeps text in between.
        tick = await traced.tick(JobRecord.from_json(record.to_json()))
        record = tick.record
        if tick.done:
            break
        await clock.sleep(tick.due_in or 0.0)

    first, *others = spans.named("cohorts.tick")
    assert not first.links
    assert others
    linked = [link.context.trace_id for span in others for link in span.links]
    assert [first.context.trace_id] * len(others) == linked


async def test_an_adopted_export_links_to_who_spent_it(
    emulator: CohortsEmulator,
    clock: FakeClock,
    spans: Spans,
    metrics: Metrics,
    tmp_path: Path,
) -> None:
    """The second call spends nothing, and says whose file it is."""
    hook = OpenTelemetryHook(
        tracer_provider=spans.provider, meter_provider=metrics.provider
    )
    emulator.add_cohort(COHORT, members=["user-1"])

    async with unlimited_client(emulator.base_url, clock, hook=hook) as client:
        job = await client.request_export(COHORT)
        async with job.members():
            # It is left: not read to its end.
            pass
        await client.export(COHORT, tmp_path / "members.csv")

    one, two = spans.named("cohorts.request")
    assert not one.links
    assert [span_id(one)] == [link.context.span_id for link in two.links]
    assert {"spent": 1, "adopted": 1} == {
        facts["amplitude.export.result"]: count
        for facts, count in metrics.points("amplitude.cohorts.exports")
    }


async def test_no_metric_has_an_id(
    traced: CohortsClient, metrics: Metrics, server: FaultServer, tmp_path: Path
) -> None:
    """Ids would make as many series as there are exports."""
    saved = await traced.export(COHORT, tmp_path / "members.csv.gz")

    assert COHORT not in metrics.text
    assert REQUEST not in metrics.text
    assert [({}, saved.downloaded)] == metrics.points("amplitude.cohorts.received")
    phases = metrics.points("amplitude.cohorts.phase.duration")
    assert {"export", "request", "wait", "download"} == {
        facts["amplitude.phase"] for facts, _ in phases
    }
    assert metrics.points("amplitude.cohorts.limiter.wait")


async def test_no_span_and_no_metric_has_a_secret(
    traced: CohortsClient,
    spans: Spans,
    metrics: Metrics,
    server: FaultServer,
    tmp_path: Path,
) -> None:
    """Nor do errors that quote a link."""
    server.on(OBJECT, reply(403, f"no {LINK}".encode()))

    with pytest.raises(CohortsError):
        await traced.export(COHORT, tmp_path / "members.csv")

    assert [] == find_secrets(spans.text + metrics.text)
    assert "X-Amz" not in spans.text + metrics.text


@pytest.fixture
def instrumented(spans: Spans, metrics: Metrics) -> Iterator[None]:
    """The generic instrumentation of aiohttp, beside the hook."""
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(
        tracer_provider=spans.provider, meter_provider=metrics.provider
    )
    yield
    instrumentor.uninstrument()


@pytest.mark.usefixtures("instrumented")
async def test_beside_the_instrumentation_of_aiohttp_nothing_is_twice(
    traced: CohortsClient,
    spans: Spans,
    metrics: Metrics,
    server: FaultServer,
    tmp_path: Path,
) -> None:
    """Its spans of requests are in ours of the parts; the store's are nowhere."""
    await traced.export(COHORT, tmp_path / "members.csv")

    sent = [len(server.requests(path)) for path in (EXPORT, STATUS, FILE)]
    clients = [span for span in spans.ended if span.kind is SpanKind.CLIENT]
    assert {"GET"} == {span.name for span in clients}
    assert sum(sent) <= len(clients) <= sum(sent) + 1
    waiting = [parent_of(span) for span in clients]
    assert span_id(spans.only("cohorts.wait")) in waiting
    assert OBJECT not in spans.text
    assert [] == metrics.points("http.client.request.duration")


async def test_many_exports_have_spans_of_their_own(
    traced: CohortsClient, spans: Spans, server: FaultServer, tmp_path: Path
) -> None:
    """Also one that fails, whose error is an outcome and raised nowhere."""
    server.on(STATUS, json_reply({"request_id": REQUEST, "async_status": "JOB FAILED"}))

    async with traced.export_many([COHORT], tmp_path) as outcomes:
        (outcome,) = [outcome async for outcome in outcomes]

    assert outcome.error is not None
    assert "ExportFailedError" == attributes(spans.only("cohorts.export"))["error.type"]


async def test_a_stream_is_a_span_that_is_not_the_reader_s(
    traced: CohortsClient, spans: Spans
) -> None:
    """What the reader does meanwhile is not in it."""
    tracer = spans.provider.get_tracer("reader")
    job = await traced.request_export(COHORT)

    async with job.members() as members:
        with tracer.start_as_current_span("reader"):
            assert [member async for member in members]

    assert parent_of(spans.only("reader")) is None
    assert (
        REQUEST
        == attributes(spans.only("cohorts.download"))["amplitude.export.request_id"]
    )


async def test_the_month_is_a_gauge(
    emulator: CohortsEmulator,
    clock: FakeClock,
    hook: OpenTelemetryHook,
    metrics: Metrics,
) -> None:
    """What is left is as the service said last."""
    async with unlimited_client(emulator.base_url, clock, hook=hook) as client:
        usage = await client.get_usage()

    assert [({}, usage.remaining)] == metrics.points("amplitude.cohorts.quota.left")


async def test_a_hook_of_your_own_has_each_event_too(
    server: FaultServer, clock: FakeClock, spans: Spans, tmp_path: Path
) -> None:
    """Even if it fails, the export goes on, and its spans end."""
    seen: list[Event] = []

    def own(event: Event) -> None:
        seen.append(event)
        raise ValueError

    hook = OpenTelemetryHook(tracer_provider=spans.provider, next_hook=own)
    async with unlimited_client(server.url, clock, hook=hook) as client:
        await client.export(COHORT, tmp_path / "members.csv")

    assert any(isinstance(event, ExportRequested) for event in seen)
    assert spans.only("cohorts.export")


def test_without_the_extra_it_says_which() -> None:
    """The import says what to install."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import amplitude_cohorts_async.contrib.otel"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert "amplitude-cohorts-async[otel]" in ran.stderr
