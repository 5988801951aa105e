"""
Spans and metrics of OpenTelemetry, made of the events of a client.

Needs the extra ``otel``, which is ``opentelemetry-api`` alone: the program chooses the
SDK and the exporters. Ids of cohorts are attributes of spans and never of metrics. No
span has a link to a file, a key, or an id of a person.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from .._version import VERSION
from ..errors import MissingExtraError
from ..events import (
    BatchWritten,
    BytesReceived,
    Event,
    EventHook,
    ExportAdopted,
    ExportRequested,
    LinkRenewed,
    PhaseEnded,
    PhaseStarted,
    QuotaWait,
    RequestFailed,
    RequestSent,
    RetryScheduled,
    RowsDiffer,
    StatusPolled,
    UsageRead,
)

try:
    from opentelemetry import context as contexts
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import (
        INVALID_SPAN,
        Link,
        Span,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
        set_span_in_context,
    )
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )
except ModuleNotFoundError as _error:
    raise MissingExtraError("spans and metrics", extra="otel") from _error

__all__ = ("OpenTelemetryHook",)

_SCOPE = "amplitude_cohorts_async"
_HEADER = "traceparent"
_GENERIC = "opentelemetry.instrumentation.aiohttp_client"
_ERROR_STATUS = 400
_PORTS = {"http": 80, "https": 443}

# Source: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
_REQUEST_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
_PHASE_SECONDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

_Attributes = dict[str, str | int | float | bool]


@attrs.define
class _Open:
    """The span of a phase that has not ended."""

    span: Span
    started: PhaseStarted
    token: object | None = None
    received: int = 0


class OpenTelemetryHook:
    """
    An event hook that makes spans and metrics, for any number of clients.

    The span ``cohorts.export`` has the spans ``cohorts.request``, ``cohorts.wait`` and
    ``cohorts.download``; a step of an engine is ``cohorts.tick``. Retries and renewed
    links are events of the span in which they happen. Who goes on with an export that
    another process, or an earlier call, has requested has a link to that one's span.

    Each request to Amplitude has a span and is counted in
    ``http.client.request.duration``, unless the instrumentation of aiohttp is active
    in this process and does both.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        next_hook: EventHook | None = None,
    ) -> None:
        """
        Make the hook; pass it to a client as ``hook=``.

        Args:
            tracer_provider: None uses the global one.
            meter_provider: None uses the global one.
            next_hook: A hook that gets each event afterwards.
        """
        self._tracer = get_tracer(_SCOPE, VERSION, tracer_provider)
        self._instruments = _Instruments(meter_provider)
        self._next_hook = next_hook
        self._open: dict[int, _Open] = {}

    def __call__(self, event: Event, /) -> None:
        """Handle an event."""
        try:
            self._handle(event)
        finally:
            if self._next_hook is not None:
                self._next_hook(event)

    def traceparent(self) -> str | None:
        """Return the present span as the W3C header; None without one."""
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)

        return carrier.get(_HEADER)

    def _handle(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self._start(event)
            case PhaseEnded():
                self._end(event)
            case RequestSent():
                self._request(event, status=event.status)
            case RequestFailed():
                self._request(event, error=event.error)
            case _:
                self._note(event)

    def _start(self, event: PhaseStarted) -> None:
        span = self._tracer.start_span(
            f"cohorts.{event.phase}",
            links=_links(event.traceparent),
            attributes=_ids(event.cohort_id, event.request_id),
        )
        self._open[event.id] = opened = _Open(span, event)

        # A stream's reader may leave it in another task than it was entered in.
        if not event.is_stream:
            opened.token = contexts.attach(set_span_in_context(span))

    def _end(self, event: PhaseEnded) -> None:
        opened = self._open.pop(event.id, None)

        if opened is None:
            return

        span = opened.span

        if opened.started.traceparent is None:
            for link in _links(event.traceparent, since=span):
                span.add_link(link.context)

        span.set_attributes(_ids(event.cohort_id, event.request_id))
        _set(span, "amplitude.export.rows", event.rows)
        _set(span, "amplitude.export.size", event.size)

        if event.error is not None:
            span.set_attribute("error.type", event.error)
            span.set_status(Status(StatusCode.ERROR, event.reason or event.error))

        if opened.token is not None:
            contexts.detach(opened.token)  # type: ignore[arg-type]

        span.end()
        self._instruments.phase(event)

    def _request(
        self,
        event: RequestSent | RequestFailed,
        *,
        status: int | None = None,
        error: str | None = None,
    ) -> None:
        self._instruments.waited(event)

        if _is_instrumented():
            return

        failed = error or (str(status) if (status or 0) >= _ERROR_STATUS else None)
        facts = _http(event, status=status, error=failed)
        self._instruments.request(event, facts)

        ended_at = time.time_ns()
        span = self._tracer.start_span(
            f"{event.method} {event.template}".strip(),
            kind=SpanKind.CLIENT,
            attributes=facts,
            start_time=ended_at - int(event.seconds * 1e9),
        )
        if event.attempt > 1:
            span.set_attribute("http.request.resend_count", event.attempt - 1)
        if failed is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)

    def _note(self, event: Event) -> None:
        match event:
            case RetryScheduled():
                facts: _Attributes = {
                    "amplitude.operation": event.operation,
                    "amplitude.attempt": event.attempt,
                    "amplitude.wait": event.seconds,
                    "amplitude.reason": event.reason,
                }
                get_current_span().add_event("cohorts.retry", facts)
                self._instruments.retries.add(
                    1, {"amplitude.operation": event.operation}
                )
            case QuotaWait():
                facts = {"amplitude.wait": event.seconds}
                get_current_span().add_event("cohorts.quota_wait", facts)
            case ExportRequested():
                self._instruments.exports.add(1, {"amplitude.export.result": "spent"})
                get_current_span().add_event("cohorts.export_spent")
            case ExportAdopted():
                self._instruments.exports.add(1, {"amplitude.export.result": "adopted"})
                get_current_span().add_event("cohorts.export_adopted")
            case UsageRead():
                if event.remaining is not None:
                    self._instruments.left.set(event.remaining)
                    _set(get_current_span(), "amplitude.quota.left", event.remaining)
            case BatchWritten():
                facts = {"amplitude.operation": event.operation}
                self._instruments.ids.add(event.ids, facts)
            case StatusPolled() | LinkRenewed() | BytesReceived() | RowsDiffer():
                self._note_of_export(event)
            case _:
                pass

    def _note_of_export(
        self, event: StatusPolled | LinkRenewed | BytesReceived | RowsDiffer
    ) -> None:
        phase = "wait" if isinstance(event, StatusPolled) else "download"
        opened = self._phase_of(phase, event.request_id)
        span = opened.span if opened else INVALID_SPAN

        match event:
            case StatusPolled():
                span.add_event("cohorts.polled", {"amplitude.status": event.word})
            case LinkRenewed():
                facts: _Attributes = {
                    "amplitude.links": event.links,
                    "amplitude.received": event.received,
                    "amplitude.reason": event.reason,
                }
                span.add_event("cohorts.link_renewed", facts)
                self._instruments.links.add(1)
            case RowsDiffer():
                facts = {"amplitude.rows": event.rows, "amplitude.size": event.size}
                span.add_event("cohorts.rows_differ", facts)
            case BytesReceived():
                if opened is not None:
                    # Less than before, when it starts over.
                    more = max(0, event.received - opened.received)
                    opened.received = event.received
                    self._instruments.received.add(more)

    def _phase_of(self, phase: str, request_id: str) -> _Open | None:
        for each in reversed(list(self._open.values())):
            if (each.started.phase, each.started.request_id) == (phase, request_id):
                return each

        return None


class _Instruments:
    """The instruments; none has an attribute with an id."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter(_SCOPE, VERSION, provider)
        self._requests = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_REQUEST_SECONDS,
        )
        self._phases = meter.create_histogram(
            "amplitude.cohorts.phase.duration",
            unit="s",
            description="Duration of exports and of their parts.",
            explicit_bucket_boundaries_advisory=_PHASE_SECONDS,
        )
        self._waits = meter.create_histogram(
            "amplitude.cohorts.limiter.wait",
            unit="s",
            description="Time for which requests waited for the limiter.",
            explicit_bucket_boundaries_advisory=_PHASE_SECONDS,
        )
        self.exports = meter.create_counter(
            "amplitude.cohorts.exports",
            unit="{export}",
            description="Exports that were spent, or taken up without spending one.",
        )
        self.retries = meter.create_counter(
            "amplitude.cohorts.retries",
            unit="{retry}",
            description="Repeated requests.",
        )
        self.links = meter.create_counter(
            "amplitude.cohorts.links.renewed",
            unit="{link}",
            description="Links to files that were replaced by another one.",
        )
        self.received = meter.create_counter(
            "amplitude.cohorts.received",
            unit="By",
            description="Bytes of files that came.",
        )
        self.ids = meter.create_counter(
            "amplitude.cohorts.ids.written",
            unit="{id}",
            description="Ids that were added to cohorts, or removed from them.",
        )
        self.left = meter.create_gauge(
            "amplitude.cohorts.quota.left",
            unit="{export}",
            description="Exports of the month that are left, as last read.",
        )

    def phase(self, event: PhaseEnded) -> None:
        """Count a phase that has ended."""
        facts: _Attributes = {"amplitude.phase": event.phase}
        if event.error is not None:
            facts["error.type"] = event.error
        self._phases.record(event.seconds, facts)

    def waited(self, event: RequestSent | RequestFailed) -> None:
        """Count the wait of an attempt for the limiter."""
        self._waits.record(event.waited, {"amplitude.operation": event.operation})

    def request(
        self, event: RequestSent | RequestFailed, facts: Mapping[str, str | int]
    ) -> None:
        """Count an attempt at a request."""
        self._requests.record(event.seconds, facts)


def _http(
    event: RequestSent | RequestFailed, *, status: int | None, error: str | None
) -> dict[str, str | int]:
    # Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
    origin = urlsplit(event.origin)
    facts: dict[str, str | int] = {
        "http.request.method": event.method,
        "server.address": origin.hostname or "",
        "server.port": origin.port or _PORTS.get(origin.scheme, 443),
        "url.scheme": origin.scheme,
        "url.template": event.template,
    }
    if status is not None:
        facts["http.response.status_code"] = status
    if error is not None:
        facts["error.type"] = error

    return facts


def _ids(cohort_id: str | None, request_id: str | None) -> dict[str, str]:
    ids = {"amplitude.cohort.id": cohort_id, "amplitude.export.request_id": request_id}

    return {name: value for name, value in ids.items() if isinstance(value, str)}


def _set(span: Span, name: str, value: int | None) -> None:
    if value is not None:
        span.set_attribute(name, value)


def _links(traceparent: str | None, since: Span | None = None) -> list[Link]:
    """Return a link to the span that requested an export, if it is of another trace."""
    if traceparent is None:
        return []

    found = TraceContextTextMapPropagator().extract(
        {_HEADER: traceparent}, contexts.Context()
    )
    first = get_current_span(found).get_span_context()
    present = (since or get_current_span()).get_span_context()

    return (
        [Link(first)] if first.is_valid and first.trace_id != present.trace_id else []
    )


def _is_instrumented() -> bool:
    """Whether the instrumentation of aiohttp makes spans of our requests, too."""
    module = sys.modules.get(_GENERIC)
    instrumentor = getattr(module, "AioHttpClientInstrumentor", None)

    return instrumentor is not None and bool(
        instrumentor().is_instrumented_by_opentelemetry
    )
