"""
Ways to ask for a document, taking turns in one process.

    python benchmarks/documents/ways.py ORIGIN TIMES WAY...

prints one line of JSON: for each way, and for entering the first client, the
medians of "seconds" and "cpu", and of the median, the 99th percentile and the
longest lateness of a 1 ms ticker in the same event loop, in ms.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

from amplitude_cohorts_async import Cohort, CohortsClient

API_KEY, SECRET_KEY = "a" * 32, "b" * 32
PATHS = {"usage": "/api/3/cohorts/usage", "list": "/api/3/cohorts"}
TICK = 0.001

Result = dict[str, list[float]]
Call = Callable[[], Awaitable[object]]


class Ticker:
    """Asks for a turn each millisecond, and notes how late it comes."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self.late.append((time.perf_counter() - due) * 1e3)

    def stalls(self) -> tuple[float, float, float]:
        """Tell the median, the 99th percentile and the longest, and forget them."""
        late, self.late = sorted(self.late), []

        return late[len(late) // 2], late[len(late) * 99 // 100], late[-1]


def ways(
    origin: str, client: CohortsClient, session: aiohttp.ClientSession
) -> dict[str, Call]:
    """Name the ways, each a call without arguments."""
    pair = base64.b64encode(f"{API_KEY}:{SECRET_KEY}".encode()).decode()
    headers = {"Authorization": f"Basic {pair}"}

    async def bare(document: str) -> dict[str, object]:
        async with session.get(origin + PATHS[document], headers=headers) as response:
            return dict(json.loads(await response.read()))

    async def at_once() -> list[Cohort]:
        from amplitude_cohorts_async._core.converter import structure  # noqa: PLC0415  part of what is entered

        listed = (await bare("list"))["cohorts"]

        return [structure(item, Cohort, path="$") for item in list(listed)]  # type: ignore[call-overload]

    return {
        "usage_bare": lambda: bare("usage"),
        "usage": client.get_usage,
        "list_bare": lambda: bare("list"),
        "list_at_once": at_once,
        "list": client.list_cohorts,
    }


async def measure(origin: str, times: int, names: list[str]) -> dict[str, Result]:
    """Call each way in turn, so many times, after two calls that only warm up."""
    found: dict[str, Result] = {}
    ticker = Ticker()
    client = CohortsClient(API_KEY, SECRET_KEY, base_url=origin)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        task = group.create_task(ticker.run())
        _note(found, "enter", await _timed(client.__aenter__, ticker))
        calls = ways(origin, client, session)

        for number in range(-2, times):
            for name in names:
                result = await _timed(calls[name], ticker)
                if number >= 0:
                    _note(found, name, result)

        await client.aclose()
        task.cancel()

    return found


def _note(found: dict[str, Result], name: str, result: dict[str, float]) -> None:
    for key, value in result.items():
        found.setdefault(name, {}).setdefault(key, []).append(value)


async def _timed(call: Call, ticker: Ticker) -> dict[str, float]:
    await asyncio.sleep(2 * TICK)
    ticker.late.clear()
    began, used = time.perf_counter(), time.process_time()
    # Freeing thousands of objects at once is the caller's affair, and comes after.
    kept = await call()
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    # The tick that the call kept waiting has to come before it is counted.
    await asyncio.sleep(2 * TICK)
    p50, p99, longest = ticker.stalls()
    del kept

    return {
        "seconds": seconds,
        "cpu": cpu,
        "stall_p50": p50,
        "stall_p99": p99,
        "stall_max": longest,
    }


def medians(found: dict[str, Result]) -> dict[str, dict[str, float]]:
    """Reduce each figure to its median."""
    return {
        name: {key: statistics.median(values) for key, values in result.items()}
        for name, result in found.items()
    }


if __name__ == "__main__":
    found = asyncio.run(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
    print(json.dumps(medians(found)))
