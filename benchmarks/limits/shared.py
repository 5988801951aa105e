"""
What limiters that processes share keep, and what they cost: a file, a real Valkey, a
real Postgres.

Four processes for twenty seconds, a minute being a second; see tests/support/fleet.py.
Then what a place costs, and what waiting for one does.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import attrs

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "tests"),
]

from amplitude_cohorts_async._core.pacing import reuse_after  # noqa: E402
from amplitude_cohorts_async.limiters import Kind, Limiter  # noqa: E402
from support.fleet import LIMITS, Watcher, Worker, shared_limiter  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.valkey import Valkey  # noqa: E402

SECONDS = 20.0
WAITED = 10.0


@attrs.frozen
class Shared:
    """What the processes share, and how to have it lose all it knows."""

    url: str
    lose: Callable[[], None]


@contextmanager
def file() -> Iterator[Shared]:
    """A file of the machine."""
    with tempfile.TemporaryDirectory() as folder:
        yield Shared(
            f"sqlite:///{folder}/limits.db",
            lambda: [path.unlink() for path in Path(folder).iterdir()] and None,
        )


@contextmanager
def store() -> Iterator[Shared]:
    """A store of a fleet."""
    with Valkey() as valkey:

        def restart() -> None:
            valkey.kill()
            valkey.start()

        yield Shared(valkey.url, restart)


@contextmanager
def database() -> Iterator[Shared]:
    """A database of a fleet, which syncs what it answers."""
    with Postgres({"fsync": "on"}) as postgres:
        yield Shared(postgres.url, postgres.empty)


WAYS = {"a file": file, "Valkey": store, "Postgres": database}


async def scene(
    way: str, name: str, *, kills: int = 0, losses: int = 0, **options: object
) -> None:
    """Run the fleet, disturb it, and print what the server saw."""
    with WAYS[way]() as shared:
        async with Watcher().running() as watcher:
            worker = Worker(
                url=shared.url, port=watcher.port, seconds=SECONDS, **options
            )
            processes = [
                await attrs.evolve(worker, skew=0.3 * number).start()
                for number in range(4)
            ]
            await watcher.saw(exports=4)
            for _ in range(kills):
                await asyncio.sleep(2)
                alive = [each for each in processes if each.returncode is None]
                random.choice(alive).kill()
                processes.append(await attrs.evolve(worker, seconds=10.0).start())
            for _ in range(losses):
                await asyncio.sleep(5)
                shared.lose()
            told = [await process.communicate() for process in processes]

    given_up = sum(json.loads(words)["given_up"] for words, _ in told if words)
    print(
        f"| {way} | {name} | {watcher.per_second:.2f} | {watcher.most_in_a_window} "
        f"| {watcher.most_in_flight} | {given_up} |"
    )


async def cost(way: str) -> None:
    """Time an uncontended place."""
    with WAYS[way]() as shared:
        limiter = shared_limiter(shared.url, app="cost")
        async with limiter.slot("poll"):
            pass

        taking, giving = list[float](), list[float]()
        began = time.process_time()
        for _ in range(2_000):
            begin = time.perf_counter()
            async with limiter.slot("poll"):
                taken = time.perf_counter()
                taking.append(taken - begin)
                end = time.perf_counter()
            giving.append(time.perf_counter() - end)
        cpu = (time.process_time() - began) / 2_000
        await limiter.aclose()

    for name, seconds in {"take": taking, "give back": giving}.items():
        p50, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
        print(f"| {way} | {name} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} |")
    print(f"| {way} | both, time of the processor | {cpu * 1e3:.2f} | |")


async def waiting(way: str) -> None:
    """Measure what one costs that waits, and how late it notices a free place."""
    with WAYS[way]() as shared:
        one, two = (shared_limiter(shared.url, app="wait") for _ in range(2))
        async with aclosing(one), aclosing(two):
            async with one.slot("file"):
                pass
            shares = {
                "a place in flight": await _share(one, two, "file", 5),
                "a window": await _share(one, two, "export", 4),
            }
            late = [await _late(one, two) for _ in range(200)]

    for name, share in shares.items():
        print(f"| {way} | waiting for {name}, share of a core | {share:.1%} | |")
    p50, p99 = statistics.median(late), statistics.quantiles(late, n=100)[98]
    print(
        f"| {way} | a free place is noticed after | {p50 * 1e3:.1f} | {p99 * 1e3:.1f} |"
    )


async def _share(one: Limiter, two: Limiter, kind: Kind, places: int) -> float:
    async def hold() -> None:
        async with one.slot(kind):
            await asyncio.sleep(WAITED + 1)

    async def wait() -> None:
        async with two.slot(kind):
            pass

    holders = [asyncio.create_task(hold()) for _ in range(places)]
    await asyncio.sleep(0.5)
    idle = time.process_time()
    await asyncio.sleep(1)
    idle = (time.process_time() - idle) * (WAITED - 2)
    waiter = asyncio.create_task(wait())
    began = time.process_time()
    await asyncio.sleep(WAITED - 2)
    spent = time.process_time() - began
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await asyncio.gather(*holders)
    return max(0.0, spent - idle) / (WAITED - 2)


async def _late(one: Limiter, two: Limiter) -> float:
    async def wait() -> float:
        async with two.slot("file"):
            return time.perf_counter()

    all_in, may_end = asyncio.Barrier(6), asyncio.Event()

    async def hold() -> None:
        async with one.slot("file"):
            await all_in.wait()
            await may_end.wait()

    holders = [asyncio.create_task(hold()) for _ in range(5)]
    await all_in.wait()
    waiter = asyncio.create_task(wait())
    await asyncio.sleep(random.uniform(0.05, 0.1))
    may_end.set()
    await asyncio.wait(holders, return_when=asyncio.FIRST_COMPLETED)
    free = time.perf_counter()
    await asyncio.gather(*holders)
    return max(0.0, await waiter - free)


async def main(ways: list[str]) -> None:
    """Print the tables."""
    permitted = 4 / (reuse_after(LIMITS.exports[0], LIMITS) + 0.04)
    print(f"permitted with 40 ms a request: {permitted:.2f} exports/s\n")
    print("| shared | scene | exports/s | most in 1 s | most in flight | cancelled |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        await scene(way, "steady, clocks 300 ms apart")
        await scene(
            way, "five kill -9, 0.3-0.9 s requests", kills=5, least=0.3, most=0.9
        )
        await scene(way, "cancellations", cancels=True, least=0.05, most=0.15)
        await scene(way, "all data lost", losses=1, least=0.2, most=0.7)
    print("\n| shared | uncontended | p50 ms | p99 ms |\n|---|---|---|---|")
    for way in ways:
        await cost(way)
        await waiting(way)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or list(WAYS)))
