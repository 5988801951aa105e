"""A generic instrumentation of aiohttp beside the client: it sees no presigned link."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip(
    "opentelemetry.instrumentation.aiohttp_client",
    reason="opentelemetry-instrumentation-aiohttp-client is not installed",
)

import aiohttp
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor

from amplitude_cohorts_async import CohortsClient
from support.canary import API_KEY, BASIC, SECRET_KEY, find_secrets
from support.exporting import COHORT, FILE, LINK, OBJECT, STATUS, cut, whole
from support.fault_server import FaultServer, json_reply, redirect, reply
from support.tracing import Spans

SIGNATURE = LINK.rpartition("=")[2]


@pytest.fixture
def instrumented(spans: Spans) -> Iterator[Spans]:
    """Spans of every request that aiohttp sends in this process."""
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    yield spans
    instrumentor.uninstrument()


async def test_no_span_shows_a_link_or_a_key(
    instrumented: Spans, server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """Links that fail, lead elsewhere and are cut leave nothing in any attribute."""
    elsewhere = f"{server.url}/elsewhere?{LINK}"
    server.on(OBJECT, reply(403, b"expired"), redirect(elsewhere), whole())
    server.on("/elsewhere", cut(500))

    await exporter.export(COHORT, tmp_path / "members.csv")

    assert [] == find_secrets(instrumented.text)
    for secret in (API_KEY, SECRET_KEY, BASIC, SIGNATURE, "X-Amz", OBJECT, "elsewhere"):
        assert secret not in instrumented.text


async def test_the_requests_to_amplitude_have_their_spans(
    instrumented: Spans, server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """Only the store's have none: the instrumentation is not switched off."""
    await exporter.export(COHORT, tmp_path / "members.csv")

    urls = instrumented.texts_of("http.url") + instrumented.texts_of("url.full")
    assert f"{server.url}{FILE}" in urls
    assert f"{server.url}{STATUS}" in urls
    assert 1 == len(server.requests(OBJECT))


async def test_it_is_off_for_nothing_else(
    instrumented: Spans, server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """A request of the caller's own, sent while a file arrives, has its span."""
    server.on("/own", json_reply({}))
    sent: list[asyncio.Task[None]] = []

    async def send() -> None:
        async with aiohttp.ClientSession() as session:
            await session.get(f"{server.url}/own")

    def progress(_event: object) -> None:
        sent.append(asyncio.create_task(send()))

    job = await exporter.request_export(COHORT)
    await job.download(tmp_path / "members.csv", progress=progress)
    await asyncio.gather(*sent)

    assert f"{server.url}/own" in instrumented.text
