"""
What a process with many apps costs: `idle` a thousand that have nothing to do, and
`midnight` ten thousand that all start at once.

Each row is a process of its own; a small server stands for Amplitude.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import attrs
from aiohttp import web

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "tests"),
]

from amplitude_cohorts_async import CohortsClient  # noqa: E402
from amplitude_cohorts_async.jobs import MemoryJobStore  # noqa: E402
from support.fleet_stores import PostgresStore, ValkeyStore  # noqa: E402
from support.ports import LOOPBACK, free_ports  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.valkey import Valkey  # noqa: E402

LIMITERS = ("local", "sqlite", "redis", "postgres")
STORES = ("memory", "sqlite", "redis", "postgres")
# aiohttp closes a connection that was idle for 15 s.
IDLE = 18.0


def key_of(number: int) -> str:
    """Return the API key of an app."""
    return f"key{number}"


def name_of(number: int, base_url: str) -> str:
    """Return what a limiter calls an app."""
    text = f"{base_url}\n{key_of(number)}".encode()
    return hashlib.sha256(text).hexdigest()[:16]


async def serve(port: int) -> None:
    """Answer usage, and requests for exports, as Amplitude does."""

    async def answer(request: web.Request) -> web.Response:
        cohort = request.path.rpartition("/")[2]
        if cohort == "usage":
            return web.json_response({"rest_download": {"limit": 500, "usage": 1}})
        return web.json_response({"request_id": f"r{cohort}", "cohort_id": cohort})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


@contextmanager
def a_service() -> Iterator[str]:
    """Have the server, in a process of its own."""
    (port,) = free_ports(1)
    command = [sys.executable, __file__, "serve", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield f"http://{LOOPBACK}:{port}"
        finally:
            process.kill()


@attrs.frozen
class Scene:
    """One process with many apps."""

    limiter: str
    store: str
    apps: int
    base_url: str
    urls: dict[str, str]
    trace: bool = False

    def client(self, number: int) -> CohortsClient:
        """Make the client of an app, as a service with one variable does."""
        jobs = self.urls.get(self.store) or MemoryJobStore()

        return CohortsClient.from_env(
            api_key=key_of(number),
            secret_key="secret",
            base_url=self.base_url,
            jobs=jobs,
        )


@attrs.frozen
class Held:
    """What a process holds."""

    memory: int
    traced: int
    threads: int
    sockets: int
    files: int


def held() -> Held:
    """Look."""
    gc.collect()
    links = list[str]()
    for each in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(each.readlink()))
        except OSError:
            continue
    pages = int(Path("/proc/self/statm").read_text().split()[1])

    return Held(
        memory=pages * os.sysconf("SC_PAGE_SIZE"),
        traced=tracemalloc.get_traced_memory()[0],
        threads=threading.active_count(),
        sockets=sum(link.startswith("socket:") for link in links),
        files=sum(link.startswith("/") for link in links),
    )


async def measure(scene: Scene) -> dict[str, object]:
    """Let each app request one export, and look at what is left."""
    seconds, most = list[float](), None

    async with AsyncExitStack() as stack:
        for number in range(-5, scene.apps):
            if number == 0:
                if scene.trace:
                    tracemalloc.start()
                before = held()
            client = await stack.enter_async_context(scene.client(number))
            began = time.perf_counter()
            await client.request_export("c1")
            seconds.append(time.perf_counter() - began)
        most = held()
        await asyncio.sleep(IDLE)
        after = held()

    taken = seconds[5:]
    return {
        "limiter": scene.limiter,
        "store": scene.store,
        "kib": (after.memory - before.memory) / scene.apps / 1024,
        "traced_kib": (after.traced - before.traced) / scene.apps / 1024,
        "threads": after.threads,
        "sockets_at_work": most.sockets,
        "sockets": after.sockets,
        "files": after.files,
        "first_ms": statistics.median(taken[:5]) * 1e3,
        "last_ms": statistics.median(taken[-25:]) * 1e3,
    }


@contextmanager
def servers(
    apps: int, base_url: str, settings: dict[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """Have a Valkey, a Postgres and a file, in use for a while by all apps."""
    names = [name_of(number, base_url) for number in range(-5, apps)]

    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(settings))
        valkey = stack.enter_context(Valkey())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        PostgresStore(postgres).use(*names)
        ValkeyStore(valkey).use(*names)
        yield {
            "sqlite": f"sqlite:///{folder}/limits.db",
            "redis": valkey.url,
            "postgres": postgres.url,
        }


def run(mode: str, scene: Scene) -> dict[str, object]:
    """Run a scene in a process of its own, and return what it measured."""
    environ = dict(os.environ)
    if url := scene.urls.get(scene.limiter):
        environ["AMPLITUDE_LIMITER_URL"] = url
    urls = dict(scene.urls)
    urls["sqlite"] += ".jobs"
    told = subprocess.run(
        [
            sys.executable,
            __file__,
            mode,
            json.dumps(attrs.asdict(attrs.evolve(scene, urls=urls))),
        ],
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    return dict(json.loads(told))


def idle(apps: int, limiters: list[str], stores: list[str], *, trace: bool) -> None:
    """Print what an idle app costs."""
    print(
        "| limiter | store | KiB an app | traced | threads | sockets at work | idle | files | first ms | last ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with a_service() as base_url:
        for limiter in limiters:
            for store in stores:
                with servers(apps, base_url) as urls:
                    scene = Scene(limiter, store, apps, base_url, urls, trace)
                    row = run("measure", scene)
                print(
                    "|",
                    " | ".join(
                        f"{v:.1f}" if isinstance(v, float) else str(v)
                        for v in row.values()
                    ),
                    "|",
                    flush=True,
                )


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["idle", "midnight", "measure", "serve"])
    parser.add_argument("what", nargs="?")
    parser.add_argument("--apps", type=int, default=1_000)
    parser.add_argument("--limiters", nargs="+", default=LIMITERS)
    parser.add_argument("--stores", nargs="+", default=STORES)
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()

    if given.mode == "serve":
        asyncio.run(serve(int(given.what)))
    elif given.mode == "measure":
        print(json.dumps(asyncio.run(measure(Scene(**json.loads(given.what))))))
    elif given.mode == "idle":
        idle(given.apps, given.limiters, given.stores, trace=given.trace)


if __name__ == "__main__":
    main()
