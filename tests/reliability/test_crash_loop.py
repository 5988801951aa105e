"""
Processes that are killed, and what an independent server counts meanwhile.

The emulator lives in this process and survives. `AMPLITUDE_KILLS` says how often a
process is killed, `AMPLITUDE_KILLS_SEED` repeats a run; ``-rP`` shows what was met.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas, faults
from amplitude_cohorts_async.testing.faults import Step
from support.canary import API_KEY, SECRET_KEY
from support.crashes import Scene
from support.crashing import Way
from support.dying import What, When

pytestmark = pytest.mark.forced

KILLS = int(os.environ.get("AMPLITUDE_KILLS", "40"))
SEED = os.environ.get("AMPLITUDE_KILLS_SEED") or secrets.token_hex(4)
WAYS: tuple[Way, ...] = ("export", "many", "upload", "sync")
A_TEST = 10
"""Kills, so that no test is long, and none is without all four ways."""
STRIDE = 1 if KILLS > 40 else 4
"""Of the transactions of many, of uploads and of syncs, the suite takes every fourth."""
PARTS = -(-KILLS // (A_TEST * len(WAYS)))


@pytest.fixture
async def service() -> AsyncIterator[CohortsEmulator]:
    """A service in real time, whose answers take a moment in which one may be killed."""
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        quotas=Quotas.unlimited(),
        job_seconds=0.1,
        latency=0.01,
    ) as emulator:
        # The 10 kB of a file are on their way for 0.1 s.
        emulator.fail_next("store", faults.slow(100_000), times=None)
        yield emulator


# At random moments.


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("way", WAYS)
async def test_killed_at_random_moments(
    service: CohortsEmulator, tmp_path: Path, way: Way, part: int
) -> None:
    """The same call in a new process ends well, and spends what was asked for."""
    print(f"AMPLITUDE_KILLS_SEED={SEED}")  # noqa: T201 - to repeat a failure
    rng = random.Random(f"{SEED}/{way}/{part}")
    met = Counter[str]()
    lasts = await Scene.of(service, tmp_path, way).run()

    for number in count(1):
        scene = Scene.of(service, tmp_path, way, number)
        kills = [rng.uniform(0, lasts) for _ in range(rng.randint(1, 3))]
        lasted = await scene.run(kills)
        # The first call of all is slow, and a busy machine gets idle.
        lasts = lasted if not scene.met["killed"] else lasts
        met += scene.met
        print(f"scene {number}, killed after {kills}: {dict(scene.met)}")  # noqa: T201
        if met["killed"] >= A_TEST:
            break

    print(f"{way}: {number} calls, {dict(met)}")  # noqa: T201


# At each transaction of the store.


# How far the store says the export is; what the service counts by then, and when the
# same call has been made again; and how often that call could not know.
LIVES: dict[When, list[tuple[str, int, int, int]]] = {
    "before": [
        ("unknown", 0, 1, 0),
        ("unknown", 0, 1, 0),
        ("queued", 0, 1, 0),
        # The request was sent, and its id is lost.
        ("attempted", 1, 2, 1),
        ("requested", 1, 1, 0),
        # Its file is whole, and about to get its name.
        ("requested", 1, 1, 0),
        ("finished", 1, 1, 0),
    ],
    "after": [
        ("unknown", 0, 1, 0),
        ("queued", 0, 1, 0),
        # The request was not sent, which nobody can tell.
        ("attempted", 0, 1, 1),
        ("requested", 1, 1, 0),
        ("requested", 1, 1, 0),
        ("finished", 1, 1, 0),
        ("answered", 1, 1, 0),
    ],
}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_each_transaction(
    service: CohortsEmulator, tmp_path: Path, when: When
) -> None:
    """What is counted, and what is told, is known for each."""
    found = []

    for number in count(1):
        scene = Scene.of(service, tmp_path, "export", number)
        is_done = await scene.is_over(attrs.evolve(scene.call, dies=(when, number)))
        if not scene.met["killed"]:
            break
        state, spent = scene.state(), scene.spent
        if not is_done:
            await scene.finish()
        found.append((state, spent, scene.spent, scene.met["ambiguous"]))
        await scene.check()

    assert LIVES[when] == found


# At each request, and at each step of a file.


@pytest.mark.parametrize(
    ("step", "spent", "ambiguous"),
    [
        # It was received and counted, and its id is lost.
        ("export", 2, 1),
        ("status", 1, 0),
        ("file", 1, 0),
        ("store", 1, 0),
    ],
)
async def test_killed_when_a_request_has_come(
    service: CohortsEmulator, tmp_path: Path, step: Step, spent: int, ambiguous: int
) -> None:
    """The service goes on with what it has received."""
    scene = Scene.of(service, tmp_path, "export")

    assert not await scene.is_over(scene.call, at_request=(step, 1))
    await scene.finish()

    assert (1, spent, ambiguous) == (
        scene.met["killed"],
        scene.spent,
        scene.met["ambiguous"],
    )
    await scene.check()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", ["bytes", "rename"])
async def test_killed_at_a_step_of_the_file(
    service: CohortsEmulator, tmp_path: Path, at: What, when: When
) -> None:
    """One export; the next process takes up, or removes, what is there."""
    scene = Scene.of(service, tmp_path, "export")

    assert not await scene.is_over(attrs.evolve(scene.call, at=at, dies=(when, 1)))
    await scene.finish()

    assert (1, 0) == (scene.spent, scene.met["ambiguous"])
    await scene.check()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("way", "at"),
    [
        ("many", "transaction"),
        ("many", "rename"),
        ("upload", "transaction"),
        ("upload", "journal"),
        ("sync", "transaction"),
    ],
)
async def test_killed_at_each_step(
    service: CohortsEmulator, tmp_path: Path, way: Way, at: What, when: When
) -> None:
    """What a single export does not do: runs, journals and writes."""
    for nth in count(1, STRIDE if at == "transaction" else 1):
        scene = Scene.of(service, tmp_path, way, nth)
        if not await scene.is_over(attrs.evolve(scene.call, at=at, dies=(when, nth))):
            await scene.finish()
        await scene.check()
        if not scene.met["killed"]:
            break

    assert nth > 1


@pytest.mark.parametrize(
    ("way", "step"),
    [
        ("many", "export"),
        ("many", "file"),
        ("upload", "upload"),
        ("upload", "membership"),
        ("sync", "export"),
        ("sync", "file"),
        ("sync", "membership"),
    ],
)
async def test_killed_at_each_request(
    service: CohortsEmulator, tmp_path: Path, way: Way, step: Step
) -> None:
    """The answer never comes, and what was asked for is done."""
    for nth in count(1):
        scene = Scene.of(service, tmp_path, way, nth)
        if not await scene.is_over(scene.call, at_request=(step, nth)):
            await scene.finish()
        await scene.check()
        if not scene.met["killed"]:
            break

    assert nth > 1


# At the same time.


@pytest.mark.parametrize("processes", [2, 8])
async def test_processes_with_one_target(tmp_path: Path, processes: int) -> None:
    """One export, one whole file, and all of them end."""
    clock = FakeClock(utc=datetime.now(UTC), jumps=False)
    async with CohortsEmulator(
        api_key=API_KEY, secret_key=SECRET_KEY, quotas=Quotas.unlimited(), clock=clock
    ) as service:
        scene = Scene.of(service, tmp_path, "export")
        calls = [asyncio.ensure_future(scene.finish()) for _ in range(processes)]
        # The job ends when all of them wait for it.
        while scene.deliveries() < processes:
            await asyncio.sleep(0.05)
            assert not any(call.done() for call in calls)
        clock.advance(60)

        assert 1 == sum(await asyncio.gather(*calls))
        assert 1 == scene.spent
        await scene.check()
