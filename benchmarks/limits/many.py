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
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import attrs
from aiohttp import web

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "tests"),
]

from amplitude_cohorts_async import CohortsClient  # noqa: E402
from amplitude_cohorts_async._operations import Operations  # noqa: E402
from amplitude_cohorts_async.jobs import MemoryJobStore  # noqa: E402
from amplitude_cohorts_async.limiters import Limiter, LocalLimiter  # noqa: E402
from amplitude_cohorts_async.limits import DOCUMENTED  # noqa: E402
from support.fleet_stores import PostgresStore, ValkeyStore  # noqa: E402
from support.ports import LOOPBACK, free_ports  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.valkey import Valkey  # noqa: E402

LIMITERS = ("local", "sqlite", "redis", "postgres")
STORES = ("memory", "sqlite", "redis", "postgres")
# Apps that are not counted: the first ones import and connect.
WARM = 5
# aiohttp closes a connection that was idle for 15 s, the stores after 30 s.
IDLE = 35.0
ROUNDS = 5


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

    def json(self) -> str:
        """Return it as a text, for another process."""
        return json.dumps(attrs.asdict(self))

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
    seconds = list[float]()

    async with AsyncExitStack() as stack:
        for number in range(-WARM, scene.apps):
            if number == 0:
                await asyncio.sleep(IDLE)
                if scene.trace:
                    tracemalloc.start()
                before = held()
            client = await stack.enter_async_context(scene.client(number))
            began = time.process_time()
            await client.request_export("c1")
            seconds.append(time.process_time() - began)
        await asyncio.sleep(IDLE)
        after = held()

    taken = seconds[WARM:]
    kib = 1024 * scene.apps
    return {
        "limiter": scene.limiter,
        "store": scene.store,
        "KiB an app": round((after.memory - before.memory) / kib, 1),
        "of them Python's": round((after.traced - before.traced) / kib, 1),
        "threads": after.threads,
        "sockets": after.sockets - before.sockets,
        "open files": after.files - before.files,
        "CPU ms, first 25": round(statistics.median(taken[:25]) * 1e3, 1),
        "last 25": round(statistics.median(taken[-25:]) * 1e3, 1),
    }


@attrs.frozen
class Shared:
    """A Valkey, a Postgres and a file, and what the servers have worked so far."""

    urls: dict[str, str]
    pids: dict[str, int]

    def cpu(self, limiter: str) -> float:
        """Return the seconds of a server and of all it started."""
        pid = self.pids.get(limiter)
        return _cpu_of(pid) if pid else 0.0


def _cpu_of(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = sum(map(int, ticks[11:15])) / os.sysconf("SC_CLK_TCK")

    return own + sum(_cpu_of(int(child)) for child in children)


@contextmanager
def servers(
    apps: int, base_url: str, settings: dict[str, str] | None = None
) -> Iterator[Shared]:
    """Have them, in use for a while by all apps."""
    names = [name_of(number, base_url) for number in range(-WARM, apps)]

    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(settings))
        valkey = stack.enter_context(Valkey())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        PostgresStore(postgres).use(*names)
        PostgresStore(postgres).make_places(*names)
        ValkeyStore(valkey).use(*names)
        yield Shared(
            {
                "sqlite": f"sqlite:///{folder}/limits.db",
                "redis": valkey.url,
                "postgres": postgres.url,
            },
            {"redis": valkey.pid, "postgres": postgres.pid},
        )


def run(mode: str, scene: Scene) -> dict[str, object]:
    """Run a scene in a process of its own, and return what it measured."""
    environ = dict(os.environ)
    if url := scene.urls.get(scene.limiter):
        environ["AMPLITUDE_LIMITER_URL"] = url
    urls = dict(scene.urls)
    urls["sqlite"] += ".jobs"
    told = subprocess.run(
        [sys.executable, __file__, mode, attrs.evolve(scene, urls=urls).json()],
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    return dict(json.loads(told))


def idle(
    apps: int, limiters: Sequence[str], stores: Sequence[str], *, trace: bool
) -> None:
    """Print what an idle app costs."""
    table = Table()

    with a_service() as base_url:
        for limiter in limiters:
            for store in stores:
                with servers(apps, base_url) as shared:
                    scene = Scene(limiter, store, apps, base_url, shared.urls, trace)
                    table.add(run("measure", scene))


class Table:
    """Prints rows, the names of their columns first."""

    def __init__(self) -> None:
        self._is_begun = False

    def add(self, row: dict[str, object]) -> None:
        """Print a row."""
        if not self._is_begun:
            print("|", " | ".join(row), "|")
            print("|---" * len(row), "|", sep="")
            self._is_begun = True

        print("|", " | ".join(map(str, row.values())), "|", flush=True)


def limiters_of(scene: Scene, first: int) -> list[Limiter]:
    """Make the limiters of some apps."""
    limiters = list[Limiter]()

    for number in range(first, first + scene.apps):
        name = name_of(number, scene.base_url)
        if url := scene.urls.get(scene.limiter):
            limiter = Operations.limiter_of_url(url, DOCUMENTED)
            limiter.bind(name)
        else:
            limiter = LocalLimiter()
        limiters.append(limiter)

    return limiters


async def start(scene: Scene, first: int) -> dict[str, object]:
    """Let each app start one request for an export, all at once, when told to."""
    limiters = limiters_of(scene, first)

    async def one(limiter: Limiter) -> None:
        async with limiter.slot("export"):
            pass

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, cpu = time.monotonic(), time.process_time()
    outcomes = await asyncio.gather(*map(one, limiters), return_exceptions=True)
    ended, cpu = time.monotonic(), time.process_time() - cpu
    for limiter in limiters:
        await limiter.aclose()

    failed = sum(each is not None for each in outcomes)
    return {"began": began, "ended": ended, "cpu": cpu, "failed": failed}


def midnight(apps: int, limiters: Sequence[str], processes: Sequence[int]) -> None:
    """Print how many apps start in a second when all of them start at once."""
    table = Table()

    for limiter in limiters:
        for count in processes if limiter != "local" else [1]:
            rounds = [_round(limiter, apps, count) for _ in range(ROUNDS)]
            medians = {
                name: statistics.median(each[name] for each in rounds)
                for name in rounds[0]
            }
            table.add(
                {
                    "limiter": limiter,
                    "processes": count,
                    "starts/s": round(apps / medians["seconds"]),
                    "CPU ms a start, the processes": round(medians["cpu"], 2),
                    "the server": round(medians["server"], 2),
                    "failed": medians["failed"],
                }
            )


def _round(limiter: str, apps: int, count: int) -> dict[str, float]:
    with servers(apps, "midnight", {"fsync": "on"}) as shared, ExitStack() as stack:
        scene = Scene(limiter, "", apps // count, "midnight", shared.urls)
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "start", scene.json(), str(first)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for first in range(0, apps, apps // count)
        ]
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        server = shared.cpu(limiter)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        told = [json.loads(worker.communicate()[0]) for worker in workers]
        server = shared.cpu(limiter) - server

    return {
        "seconds": max(each["ended"] for each in told)
        - min(each["began"] for each in told),
        "cpu": sum(each["cpu"] for each in told) / apps * 1e3,
        "server": server / apps * 1e3,
        "failed": sum(each["failed"] for each in told),
    }


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "mode", choices=["idle", "midnight", "measure", "start", "serve"]
    )
    parser.add_argument("what", nargs="*")
    parser.add_argument("--apps", type=int)
    parser.add_argument("--limiters", nargs="+", default=LIMITERS)
    parser.add_argument("--stores", nargs="+", default=STORES)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()

    if given.mode == "serve":
        asyncio.run(serve(int(given.what[0])))
    elif given.mode == "measure":
        print(json.dumps(asyncio.run(measure(Scene(**json.loads(given.what[0]))))))
    elif given.mode == "start":
        scene, first = Scene(**json.loads(given.what[0])), int(given.what[1])
        print(json.dumps(asyncio.run(start(scene, first))))
    elif given.mode == "midnight":
        midnight(given.apps or 10_000, given.limiters, given.processes)
    else:
        idle(given.apps or 1_000, given.limiters, given.stores, trace=given.trace)


if __name__ == "__main__":
    main()
