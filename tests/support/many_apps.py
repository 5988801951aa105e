"""
A process with many apps, and what it holds once none of them has anything to do.

Run as a module this is the process: it has a client for each app, as a service with
one variable makes them.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import attrs
from aiohttp import web

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.jobs import MemoryJobStore

from .ports import LOOPBACK

WARM = 5
"""Apps that are not counted: the first ones import, connect and open files."""
_SERVERS = {"redis": "contrib._redis.server", "postgres": "contrib._postgres.server"}


def key_of(number: int) -> str:
    """Return the API key of an app."""
    return f"key{number}"


def name_of(number: int, base_url: str) -> str:
    """Return what a limiter calls an app."""
    text = f"{base_url}\n{key_of(number)}".encode()
    return hashlib.sha256(text).hexdigest()[:16]


def names(apps: int, base_url: str) -> list[str]:
    """Return those of all apps of a process."""
    return [name_of(number, base_url) for number in range(-WARM, apps)]


@asynccontextmanager
async def service() -> AsyncGenerator[str]:
    """Have a server that answers about usage and exports, to whichever app."""

    async def answer(request: web.Request) -> web.Response:
        cohort = request.path.rpartition("/")[2]
        if cohort == "usage":
            return web.json_response({"rest_download": {"limit": 500, "usage": 1}})
        return web.json_response({"request_id": f"r{cohort}", "cohort_id": cohort})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()

    try:
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@attrs.frozen(kw_only=True)
class Scene:
    """
    One process with many apps.

    Attributes:
        limiter: The URL of the shared limiter; empty for the local one.
        jobs: The URL of the job store; empty for the memory.
        idle: Seconds after which connections are closed; None leaves all as it is.
        traces: Whether Python counts its own bytes, which takes time.
    """

    apps: int
    base_url: str
    limiter: str = ""
    jobs: str = ""
    idle: float | None = None
    traces: bool = False

    def json(self) -> str:
        """Return it as a text, for another process."""
        return json.dumps(attrs.asdict(self))

    def client(self, number: int) -> CohortsClient:
        """Make the client of an app."""
        return CohortsClient.from_env(
            api_key=key_of(number),
            secret_key="secret",
            base_url=self.base_url,
            jobs=self.jobs or MemoryJobStore(),
        )


@attrs.frozen
class Held:
    """What a process holds: bytes, threads, sockets and open files."""

    memory: int
    traced: int
    threads: int
    sockets: int
    files: int

    @classmethod
    def now(cls) -> Held:
        """Look."""
        gc.collect()
        links = list[str]()
        for each in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                links.append(str(each.readlink()))
        pages = int(Path("/proc/self/statm").read_text().split()[1])

        return cls(
            memory=pages * os.sysconf("SC_PAGE_SIZE"),
            traced=tracemalloc.get_traced_memory()[0],
            threads=threading.active_count(),
            sockets=sum(link.startswith("socket:") for link in links),
            files=sum(link.startswith("/") for link in links),
        )


@attrs.frozen(kw_only=True)
class Costs:
    """
    What the apps of a process cost.

    Attributes:
        memory: Bytes an idle app, as the system sees it.
        traced: Bytes an idle app, of Python's own objects.
        threads: Those that are there because of the apps.
        sockets: The same; all apps are idle.
        files: The same.
        first: CPU seconds of the process for one of the first requests for exports.
        last: The same of one of the last.
    """

    memory: float
    traced: float
    threads: int
    sockets: int
    files: int
    first: float
    last: float


async def costs_of(scene: Scene) -> Costs:
    """Let each app request one export, and look at what is left."""
    seconds = list[float]()

    async with AsyncExitStack() as stack:

        async def request(number: int) -> None:
            client = await stack.enter_async_context(scene.client(number))
            began = time.process_time()
            await client.request_export("c1")
            seconds.append(time.process_time() - began)

        idle = Held.now().sockets
        for number in range(-WARM, 0):
            await request(number)
        await _until_idle(idle)
        if scene.traces:
            tracemalloc.start()
        before, seconds = Held.now(), list[float]()

        for number in range(scene.apps):
            await request(number)
        await _until_idle(idle)
        after = Held.now()

    return Costs(
        memory=(after.memory - before.memory) / scene.apps,
        traced=(after.traced - before.traced) / scene.apps,
        threads=after.threads - before.threads,
        sockets=after.sockets - before.sockets,
        files=after.files - before.files,
        first=median(seconds[:25]),
        last=median(seconds[-25:]),
    )


async def _until_idle(sockets: int) -> None:
    """Wait until all connections are closed, for a minute at most."""
    deadline = time.monotonic() + 60

    while Held.now().sockets > sockets and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def _hurry(scene: Scene) -> None:
    """Let all that keeps connections keep them for a shorter time."""
    connect = aiohttp.BaseConnector.__init__

    def hurried(connector: Any, *words: Any, **options: Any) -> None:
        connect(connector, *words, **options)
        if not connector.force_close:
            connector._keepalive_timeout = scene.idle

    aiohttp.BaseConnector.__init__ = hurried  # type: ignore[method-assign]

    for scheme, module in _SERVERS.items():
        if scheme in f"{scene.limiter} {scene.jobs}":
            server = import_module(f"amplitude_cohorts_async.{module}")
            vars(server)["_IDLE_FOR"] = scene.idle


def main() -> None:
    """Be the process: print what its apps cost."""
    scene = Scene(**json.loads(sys.argv[1]))

    if scene.limiter:
        os.environ["AMPLITUDE_LIMITER_URL"] = scene.limiter
    if scene.idle is not None:
        _hurry(scene)
    sys.stdout.write(json.dumps(attrs.asdict(asyncio.run(costs_of(scene)))))


if __name__ == "__main__":
    main()
