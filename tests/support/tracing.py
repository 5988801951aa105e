# ruff: noqa: PLC0415 - few tests need what is slow to import
"""OpenTelemetry in a test: all that is recorded stays in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Spans:
    """A tracer provider, and the spans that have ended."""

    def __init__(self) -> None:
        # Slow to import, and few tests need it.
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
            InMemorySpanExporter,
        )

        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        """The spans, in the order they ended."""
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Return those with a name."""
        return [span for span in self.ended if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        """Return the only one with a name."""
        (span,) = self.named(name)
        return span

    @property
    def text(self) -> str:
        """All that an exporter would send of them."""
        return "\n".join(span.to_json() for span in self.ended)

    def texts_of(self, key: str) -> list[str]:
        """Return the values of an attribute in all spans that have it."""
        found = (json.loads(span.to_json())["attributes"] for span in self.ended)
        return [str(each[key]) for each in found if key in each]


class Metrics:
    """A meter provider, and what was counted."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    @property
    def text(self) -> str:
        """All that an exporter would send of them."""
        data = self._reader.get_metrics_data()
        return data.to_json() if data else ""

    def points(self, name: str) -> list[tuple[dict[str, object], float]]:
        """Return the attributes and the sum, value or count of each point."""
        found: list[tuple[dict[str, object], float]] = []
        for scope in json.loads(self.text)["resource_metrics"][0]["scope_metrics"]:
            for metric in scope["metrics"]:
                if metric["name"] == name:
                    found += [
                        (each["attributes"], each.get("count", each.get("value")))
                        for each in metric["data"]["data_points"]
                    ]

        return found


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """Metrics in memory."""
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is missing")
    counted = Metrics()
    yield counted
    counted.provider.shutdown()


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Spans in memory."""
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is missing")
    recorded = Spans()
    yield recorded
    recorded.provider.shutdown()
