"""What a slot costs when nobody else wants it, in microseconds."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path

import anyio
from aiolimiter import AsyncLimiter

sys.path.insert(0, str(Path(__file__).parents[2]))

from amplitude_cohorts_async._io.limits.local import LocalLimiter
from amplitude_cohorts_async.limits import Kind, Limits, Rate

TIMES = 5_000
# The documented shape, with windows and buckets that never fill.
ROOMY = Limits(
    exports=[Rate(20_000, per=60), Rate(200_000, per=600)],
    polls=Rate(1_000_000, per=1),
)


async def slot(kind: Kind) -> list[float]:
    """Time the default limiter."""
    limiter, seconds = LocalLimiter(ROOMY), list[float]()
    for _ in range(TIMES):
        begin = time.perf_counter()
        async with limiter.slot(kind):
            pass
        seconds.append(time.perf_counter() - begin)
    return seconds


async def bare() -> list[float]:
    """Time two buckets and a semaphore."""
    minute, ten_minutes = AsyncLimiter(20_000, 60), AsyncLimiter(200_000, 600)
    places, seconds = anyio.Semaphore(5), list[float]()
    for _ in range(TIMES):
        begin = time.perf_counter()
        async with ten_minutes, minute, places:
            pass
        seconds.append(time.perf_counter() - begin)
    return seconds


async def main() -> None:
    """Measure in turns, and print the medians of five rounds."""
    ways = {
        "two aiolimiter buckets and a semaphore": bare,
        "slot('file')": lambda: slot("file"),
        "slot('poll')": lambda: slot("poll"),
        "slot('export')": lambda: slot("export"),
    }
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}

    for _ in range(5):
        for name, measure in ways.items():
            seconds = await measure()
            p99 = statistics.quantiles(seconds, n=100)[98]
            rounds[name].append((statistics.median(seconds), p99))

    print("| | p50 µs | p99 µs |\n|---|---|---|")
    for name, figures in rounds.items():
        p50, p99 = (
            statistics.median(each) * 1e6 for each in zip(*figures, strict=True)
        )
        print(f"| {name} | {p50:.0f} | {p99:.0f} |")


if __name__ == "__main__":
    asyncio.run(main())
