"""
A thousand exports with faults in one process, and what it holds meanwhile.

The emulator runs in a process of its own with the vendor's limits, on a clock that
both share and that is a hundred times as fast. Every 25th answer is spoiled.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import attrs

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "tests"),
]

from amplitude_cohorts_async import CohortsClient  # noqa: E402
from amplitude_cohorts_async.jobs import (  # noqa: E402
    JobStore,
    MemoryJobStore,
    SqliteJobStore,
)
from support import soaked_service, soaking  # noqa: E402
from support.canary import API_KEY, SECRET_KEY  # noqa: E402
from support.scaled_emulator import Account, ScaledClock, scaled_emulator  # noqa: E402

CALLERS = 20
VISITORS = 200
SHARED = 20
FAULTS = 0.04
SEED = 11

STORES: dict[str, Callable[[Path], JobStore]] = {
    "memory": lambda _: MemoryJobStore(),
    "SQLite": lambda folder: SqliteJobStore(folder / "exports.db"),
}


@attrs.frozen(kw_only=True)
class Scene:
    """One run: who calls, for how many cohorts, with which store."""

    name: str
    store: str
    cohorts: int
    calls: int
    work: Callable[[soaking.Soak, CohortsClient, Path], Awaitable[None]]


def one_client(store: str, exports: int) -> Scene:
    """Export each cohort once, twenty at a time."""
    names = soaking.cohort_ids(exports)

    async def work(soak: soaking.Soak, client: CohortsClient, folder: Path) -> None:
        await soaking.export_each(soak, client, names, folder, CALLERS)

    return Scene(
        name="one client", store=store, cohorts=exports, calls=exports, work=work
    )


def one_service(store: str, exports: int) -> Scene:
    """Let 200 callers of a web service ask, ten at a time for the same cohort."""
    cohorts = max(SHARED, exports * SHARED // VISITORS)
    names = soaking.cohort_ids(cohorts)

    async def work(soak: soaking.Soak, client: CohortsClient, folder: Path) -> None:
        async with soaked_service.visitors(
            soaked_service.service(client, folder)
        ) as http:
            await soaked_service.visit_each(soak, http, names, VISITORS, SHARED)

    return Scene(
        name="FastAPI",
        store=store,
        cohorts=cohorts,
        calls=cohorts * VISITORS // SHARED,
        work=work,
    )


async def run(
    scene: Scene, base_url: str, clock: ScaledClock
) -> tuple[soaking.Soak, list[soaking.Reading]]:
    """Run it; return the readings before, at the quarters, and after closing."""
    soak = soaking.Soak(scene.calls)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with aclosing(STORES[scene.store](folder)) as store:
            before = soaking.read()
            async with CohortsClient(
                API_KEY,
                SECRET_KEY,
                base_url=base_url,
                clock=clock,
                jobs=store,
                stall_timeout=2.0,
            ) as client:
                await scene.work(soak, client, folder)

    return soak, [before, *soak.readings, soaking.read()]


def print_scene(
    scene: Scene,
    soak: soaking.Soak,
    readings: list[soaking.Reading],
    account: Account,
    seconds: tuple[float, float],
) -> None:
    """Print what a run came to."""
    real, scaled = seconds
    print(f"\n### {scene.name}, {scene.store}\n")
    print(
        f"{soak.ended} of {scene.calls} calls ended, for {scene.cohorts} cohorts, in "
        f"{real:.0f} s ({scaled / 3600:.1f} h of the service). {account.requests} "
        f"requests, {account.spoiled} refused or unanswered. Spent {account.spent}, of "
        f"which {soak.given_up} were given up. 429s of ours: "
        f"{account.violations or 'none'}. Called again after: "
        f"{dict(soak.again.most_common())}\n"
    )
    print("| moment | RSS MiB | heap MiB | sockets | threads | tasks |")
    print("|---|---:|---:|---:|---:|---:|")
    moments = ("before", "1/4", "2/4", "3/4", "4/4", "closed")
    for moment, at in zip(moments, readings, strict=True):
        counts = f"{at.sockets} | {at.threads} | {at.tasks}"
        print(f"| {moment} | {at.rss:.1f} | {at.heap:.2f} | {counts} |")


def main() -> None:
    """Run the scenes, each with a service of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exports", type=int, default=1_000)
    parser.add_argument("--scale", type=float, default=100.0)
    parser.add_argument("--only", default="", help="as in 'FastAPI, SQLite'")
    parser.add_argument(
        "--heap", action="store_true", help="trace what is allocated, which is slow"
    )
    options = parser.parse_args()
    if options.heap:
        tracemalloc.start()
    scenes = [
        make(store, options.exports)
        for make in (one_client, one_service)
        for store in STORES
    ]

    for scene in scenes:
        if options.only not in f"{scene.name}, {scene.store}":
            continue
        clock = ScaledClock(options.scale)
        with scaled_emulator(
            clock, cohorts=scene.cohorts, share=FAULTS, seed=SEED
        ) as service:
            began = time.perf_counter()
            soak, readings = asyncio.run(run(scene, service.base_url, clock))
            real = time.perf_counter() - began
        assert service.account
        print_scene(scene, soak, readings, service.account, (real, real * clock.scale))


if __name__ == "__main__":
    main()
