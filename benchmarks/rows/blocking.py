"""
Compare the blocking client to the async one: members a second, one by one and in batches.

    python benchmarks/rows/blocking.py [--members 1000000] [--rounds 5]

The emulator serves the file in a process of its own. All ways take turns, each in a
fresh process; the table has the medians, and the ratios are those of each round.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict

from amplitude_cohorts_async import CohortsClient, blocking
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas

CALLS = 2_000

WAYS = ("one by one", "in batches")


async def read(token: str, way: str) -> int:
    """Read with the async client."""
    async with (
        CohortsClient.from_env(limits=UNLIMITED) as client,
        client.resume_export(token).members() as members,
    ):
        if way == "one by one":
            return len([None async for _ in members])

        return sum([len([*batch]) async for batch in members.batches()])


def read_blocking(token: str, way: str) -> int:
    """Read with the blocking one."""
    with (
        blocking.CohortsClient.from_env(limits=UNLIMITED) as client,
        client.resume_export(token).members() as members,
    ):
        if way == "one by one":
            return sum(1 for _ in members)

        return sum(len([*batch]) for batch in members.batches())


def call_many() -> float:
    """Return the microseconds that a call takes which does nothing."""
    with blocking.CohortsClient.from_env(limits=UNLIMITED) as client:
        began = time.perf_counter()
        for _ in range(CALLS):
            client.resume_export("Sf7M9j")

        return (time.perf_counter() - began) / CALLS * 1e6


def run(kind: str, way: str, token: str, members: int) -> float:
    """Read once in this process; return members a second."""
    began = time.perf_counter()
    if kind == "async":
        rows = asyncio.run(read(token, way))
    else:
        rows = read_blocking(token, way)

    if rows != members:
        sys.exit(f"{kind}, {way}: {rows} members")

    return members / (time.perf_counter() - began)


def measure(
    token: str, members: int, rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Let all ways take turns, each in a fresh process."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)

    for number in range(rounds + 1):
        for way in WAYS:
            for kind in ("async", "blocking"):
                words = ["--kind", kind, "--way", way, "--token", token]
                done = subprocess.run(
                    [sys.executable, __file__, *words, "--members", str(members)],
                    capture_output=True,
                    check=True,
                    text=True,
                )
                # The first round only warms the caches.
                if number:
                    rates[way, kind].append(float(done.stdout))

    return rates


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind")
    parser.add_argument("--way", default="")
    parser.add_argument("--token", default="")
    options = parser.parse_args()

    if options.kind:
        print(run(options.kind, options.way, options.token, options.members))
        return

    # Real time, and a job that is ready by then.
    emulator = CohortsEmulator(
        clock=FakeClock(flows=True), quotas=Quotas.unlimited(), job_seconds=0.0
    )
    with emulator:
        emulator.add_cohort("26umsb5", size=options.members)
        os.environ.update(emulator.environment())
        with blocking.CohortsClient.from_env(clock=emulator.clock) as client:
            token = client.request_export("26umsb5").wait().token

        rates = measure(token, options.members, options.rounds)
        microseconds = call_many()

    print("| way | async, members/s | blocking, members/s | x async |")
    print("|---|---|---|---|")
    for way in WAYS:
        ours, theirs = rates[way, "blocking"], rates[way, "async"]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        middle = statistics.median(theirs), statistics.median(ours)
        print(f"| {way} | {middle[0]:,.0f} | {middle[1]:,.0f} | {ratio:.2f} |")
    print(f"\nA call that does nothing: {microseconds:.0f} microseconds.")


if __name__ == "__main__":
    main()
