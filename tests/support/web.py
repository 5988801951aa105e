"""An app under uvicorn on the test's own loop, and what a browser reads of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import uvicorn
from fastapi import FastAPI

from amplitude_cohorts_async.contrib.fastapi import CohortExports

from .exporting import until
from .ports import LOOPBACK

COHORT = "26umsb5"
IDS = [f"user-{number}" for number in range(50)]
HOSTILE = "<img src=x onerror=alert(1)>"


@attrs.frozen
class Answer:
    """What a server answered, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@attrs.frozen
class Event:
    """One event of a stream."""

    name: str
    id: str | None
    data: Any


@attrs.frozen
class Browser:
    """Sends requests to one server."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request, and read the answer."""
        async with self.session.request(
            method, f"{self.url}{path}", allow_redirects=False, **options
        ) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, headers, await answer.read())

    async def get(self, path: str, **options: Any) -> Answer:
        """Send a GET."""
        return await self.ask("GET", path, **options)

    async def start(self, cohort_id: str = COHORT, **options: Any) -> Answer:
        """Start an export of a mounted router."""
        key = options.pop("key", None)
        headers = {} if key is None else {"Idempotency-Key": key}
        order = {"cohort_id": cohort_id, **options}

        return await self.ask("POST", "/api/exports", json=order, headers=headers)

    async def events(self, path: str = "/api/exports/events") -> AsyncIterator[Event]:
        """Yield the events of a stream until the server ends it."""
        async with self.session.get(f"{self.url}{path}") as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            fields: dict[str, str] = {}
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "" and "data" in fields:
                    data = json.loads(fields["data"])
                    yield Event(fields["event"], fields.get("id"), data)
                    fields = {}
                elif name:
                    fields[name] = value

    async def fragments(self, path: str) -> AsyncIterator[str]:
        """Yield the HTML of a stream until its last event."""
        async with self.session.get(f"{self.url}{path}") as answer:
            text = (await answer.read()).decode()
        for block in text.split("\n\n"):
            lines = [line for line in block.split("\n") if line.startswith("data: ")]
            html = "\n".join(line.removeprefix("data: ") for line in lines)
            if html:
                yield html

    async def until_over(self, location: str) -> Any:
        """Return the last state that a stream tells of an export."""
        states = [event.data async for event in self.events(f"{location}/events")]
        assert {} == states.pop()

        return states[-1]


class Server(uvicorn.Server):
    """A server beside others, which leaves the signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@asynccontextmanager
async def served(
    app: FastAPI, *, stop: Callable[[], None] = lambda: None, port: int = 0
) -> AsyncIterator[Browser]:
    """Serve an app meanwhile; call *stop* where a signal would do so."""
    config = uvicorn.Config(
        app, host=LOOPBACK, port=port, log_config=None, ws="none", lifespan="on"
    )
    server = Server(config)
    task = asyncio.create_task(server.serve())

    try:
        await until(lambda: server.started or task.done())
        assert not task.done(), "the app did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as session:
            yield Browser(f"http://{LOOPBACK}:{port}", session)
    finally:
        stop()
        server.should_exit = True
        await task


@asynccontextmanager
async def mounted(
    to: str | Path, *, auth: Callable[..., object] | None = None, **options: Any
) -> AsyncIterator[Browser]:
    """Serve an app with the router of some exports under ``/api``."""
    exports = CohortExports(to, **options)
    app = FastAPI(lifespan=exports.lifespan)
    app.include_router(exports.router(auth=auth), prefix="/api")

    async with served(app, stop=exports.stop) as browser:
        yield browser
