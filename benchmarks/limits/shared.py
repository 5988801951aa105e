"""
Four processes over a real Valkey for twenty seconds, and what a place costs.

A minute is scaled to a second; see tests/support/fleet.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path

import attrs

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "tests"),
]

from amplitude_cohorts_async._core.pacing import reuse_after  # noqa: E402
from amplitude_cohorts_async.contrib.redis import RedisLimiter  # noqa: E402
from support.fleet import LEASE, LIMITS, Watcher, Worker  # noqa: E402
from support.valkey import Valkey  # noqa: E402

SECONDS = 20.0


async def scene(
    name: str, *, kills: int = 0, restarts: int = 0, **options: object
) -> None:
    """Run the fleet, disturb it, and print what the server saw."""
    with Valkey() as valkey:
        async with Watcher().running() as watcher:
            worker = Worker(
                url=valkey.url, port=watcher.port, seconds=SECONDS, **options
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
            for _ in range(restarts):
                await asyncio.sleep(5)
                valkey.kill()
                valkey.start()
            told = [await process.communicate() for process in processes]

    given_up = sum(json.loads(words)["given_up"] for words, _ in told if words)
    print(
        f"| {name} | {watcher.per_second:.2f} | {watcher.most_in_a_window} "
        f"| {watcher.most_in_flight} | {given_up} |"
    )


async def cost() -> None:
    """Time an uncontended place."""
    with Valkey() as valkey:
        limiter = RedisLimiter.from_url(
            valkey.url, app="cost", limits=LIMITS, lease=LEASE
        )
        async with limiter.slot("poll"):
            pass

        taking, giving = list[float](), list[float]()
        for _ in range(2_000):
            begin = time.perf_counter()
            async with limiter.slot("poll"):
                taken = time.perf_counter()
                taking.append(taken - begin)
                end = time.perf_counter()
            giving.append(time.perf_counter() - end)
        await limiter.aclose()

    for name, seconds in {"take": taking, "give back": giving}.items():
        p50, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
        print(f"| {name} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} |")


async def main() -> None:
    """Print both tables."""
    permitted = 4 / (reuse_after(LIMITS.exports[0], LIMITS) + 0.04)
    print(f"permitted with 40 ms a request: {permitted:.2f} exports/s\n")
    print("| scene | exports/s | most in 1 s | most in flight | cancelled |")
    print("|---|---|---|---|---|")
    await scene("steady, clocks 300 ms apart")
    await scene("five kill -9, 0.3-0.9 s requests", kills=5, least=0.3, most=0.9)
    await scene("cancellations", cancels=True, least=0.05, most=0.15)
    await scene("store restarted empty", restarts=1, least=0.2, most=0.7)
    print("\n| uncontended | p50 ms | p99 ms |\n|---|---|---|")
    await cost()


if __name__ == "__main__":
    asyncio.run(main())
