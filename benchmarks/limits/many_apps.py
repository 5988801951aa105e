"""
What many apps cost: `idle`, a thousand in one process that have nothing to do, and
`midnight`, ten thousand that all start an export at once.

Each row is of processes of its own. Midnight is the limiter alone, without HTTP and
without a job store: what bounds the starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "tests"),
]

from amplitude_cohorts_async._store_urls import limiter_of_url  # noqa: E402
from amplitude_cohorts_async.limiters import Limiter, LocalLimiter  # noqa: E402
from amplitude_cohorts_async.limits import DOCUMENTED  # noqa: E402
from support.fleet_stores import PostgresStore, ValkeyStore  # noqa: E402
from support.many_apps import Costs, Scene, name_of, names, service  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.processes import start_module  # noqa: E402
from support.valkey import Valkey  # noqa: E402

LIMITERS = ("local", "sqlite", "redis", "postgres")
STORES = ("memory", "sqlite", "redis", "postgres")
MIDNIGHT = "http://midnight"


@attrs.frozen
class Shared:
    """A file, a Valkey and a Postgres, and what the servers have worked so far."""

    urls: dict[str, str]
    pids: dict[str, int]

    def cpu(self, limiter: str) -> float:
        """Return the CPU seconds of a server and of all it started."""
        pid = self.pids.get(limiter)
        return _cpu_of(pid) if pid else 0.0


def _cpu_of(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = sum(map(int, ticks[11:15])) / os.sysconf("SC_CLK_TCK")

    return own + sum(_cpu_of(int(child)) for child in children)


@contextmanager
def shared_by(apps: int, base_url: str) -> Iterator[Shared]:
    """Have them, in use for a while by all apps; the Postgres syncs what it answers."""
    every = names(apps, base_url)

    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres({"fsync": "on"}))
        valkey = stack.enter_context(Valkey())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        PostgresStore(postgres).use(*every)
        PostgresStore(postgres).make_places(*every)
        ValkeyStore(valkey).use(*every)
        file = f"sqlite:///{folder}/limits.db"
        yield Shared(
            {"sqlite": file, "redis": valkey.url, "postgres": postgres.url},
            {"redis": valkey.pid, "postgres": postgres.pid},
        )


class Table:
    """Prints rows, the names of their columns first."""

    def __init__(self) -> None:
        self._is_begun = False

    def add(self, **row: object) -> None:
        """Print a row."""
        if not self._is_begun:
            print("|", " | ".join(name.replace("_", " ") for name in row), "|")
            print("|---" * len(row), "|", sep="")
            self._is_begun = True

        print("|", " | ".join(map(str, row.values())), "|", flush=True)


async def idle(
    apps: int, limiters: Sequence[str], stores: Sequence[str], *, traces: bool
) -> None:
    """Print what an idle app costs."""
    table = Table()

    async with service() as base_url:
        for limiter in limiters:
            for store in stores:
                with shared_by(apps, base_url) as shared:
                    jobs = shared.urls.get(store, "")
                    scene = Scene(
                        apps=apps,
                        base_url=base_url,
                        limiter=shared.urls.get(limiter, ""),
                        jobs=f"{jobs}.jobs" if store == "sqlite" else jobs,
                        traces=traces,
                    )
                    process = await start_module("support.many_apps", scene.json())
                    told, _ = await process.communicate()
                costs = Costs(**json.loads(told))
                table.add(
                    limiter=limiter,
                    store=store,
                    KiB_an_app=round((costs.traced or costs.memory) / 1024, 1),
                    threads=costs.threads,
                    sockets=costs.sockets,
                    files=costs.files,
                    CPU_ms_of_the_first_25=round(costs.first * 1e3, 1),
                    of_the_last_25=round(costs.last * 1e3, 1),
                )


def limiters_of(url: str, numbers: range) -> list[Limiter]:
    """Make the limiters of some apps."""
    limiters = list[Limiter]()

    for number in numbers:
        limiter = limiter_of_url(url, DOCUMENTED) if url else LocalLimiter()
        limiter.bind(name_of(number, MIDNIGHT))
        limiters.append(limiter)

    return limiters


async def start(url: str, numbers: range) -> None:
    """Let apps start one request for an export each, all at once, when told to."""
    limiters, waited = limiters_of(url, numbers), list[float]()

    async def one(limiter: Limiter) -> None:
        async with limiter.slot("export"):
            waited.append(time.monotonic() - began)

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, cpu = time.monotonic(), time.process_time()
    outcomes = await asyncio.gather(*map(one, limiters), return_exceptions=True)
    ended, cpu = time.monotonic(), time.process_time() - cpu
    for limiter in limiters:
        await limiter.aclose()

    failed = sum(each is not None for each in outcomes)
    last = max(waited, default=0.0)
    told = {"began": began, "ended": ended, "cpu": cpu, "failed": failed, "last": last}
    print(json.dumps(told))


async def midnight(
    apps: int, limiters: Sequence[str], processes: Sequence[int], times: int
) -> None:
    """Print how many apps start in a second when all of them start at once."""
    table = Table()

    for limiter in limiters:
        for count in processes if limiter != "local" else [1]:
            rounds = [await _round(limiter, apps, count) for _ in range(times)]
            seconds, cpu, server, last, failed = (
                statistics.median(each) for each in zip(*rounds, strict=True)
            )
            table.add(
                limiter=limiter,
                processes=count,
                starts_a_second=round(apps / seconds),
                the_last_after_s=round(last, 1),
                CPU_ms_a_start_of_the_processes=round(cpu / apps * 1e3, 2),
                of_the_server=round(server / apps * 1e3, 2),
                failed=failed,
            )


async def _round(
    limiter: str, apps: int, count: int
) -> tuple[float, float, float, float, float]:
    with shared_by(apps, MIDNIGHT) as shared:
        url, share = shared.urls.get(limiter, ""), apps // count
        pipe = asyncio.subprocess.PIPE
        workers = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "start", url, f"{first}", f"{share}"),
                stdin=pipe,
                stdout=pipe,
            )
            for first in range(0, share * count, share)
        ]
        for worker in workers:
            assert worker.stdout is not None
            await worker.stdout.readline()
        server = shared.cpu(limiter)
        answers = await asyncio.gather(*(each.communicate(b"go\n") for each in workers))
        server = shared.cpu(limiter) - server

    told = [json.loads(words) for words, _ in answers]
    return (
        max(each["ended"] for each in told) - min(each["began"] for each in told),
        sum(each["cpu"] for each in told),
        server,
        max(each["last"] for each in told),
        sum(each["failed"] for each in told),
    )


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["idle", "midnight", "start"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--apps", type=int)
    parser.add_argument("--limiters", nargs="+", default=LIMITERS)
    parser.add_argument("--stores", nargs="+", default=STORES)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--traces", action="store_true")
    given = parser.parse_args()

    if given.mode == "start":
        url, first, count = given.words
        numbers = range(int(first), int(first) + int(count))
        asyncio.run(start(url, numbers))
    elif given.mode == "midnight":
        apps, rounds = given.apps or 10_000, given.rounds
        asyncio.run(midnight(apps, given.limiters, given.processes, rounds))
    else:
        apps = given.apps or 1_000
        asyncio.run(idle(apps, given.limiters, given.stores, traces=given.traces))


if __name__ == "__main__":
    main()
