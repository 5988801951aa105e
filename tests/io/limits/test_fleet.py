"""
Four processes and what they share, a file or a real Valkey: what the server sees.

The windows are scaled, a minute being a second; the longer scenes of the same
kind are in `benchmarks/limits`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import attrs
import pytest

from amplitude_cohorts_async._core.pacing import reuse_after
from support.fleet import LIMITS, Watcher, Worker, finish, fleet
from support.requirements import require

SECONDS = 6.0


@attrs.frozen
class Shared:
    """What the processes share."""

    url: str
    lose: Callable[[], None]


SERVERS = ("redis", "postgres")


@pytest.fixture(
    params=["file", *(pytest.param(n, marks=pytest.mark.services) for n in SERVERS)]
)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Shared:
    """A file, then a store; each can lose all it knows."""
    if request.param == "file":
        return Shared(
            f"sqlite:///{tmp_path}/limits.db",
            lambda: [path.unlink() for path in tmp_path.iterdir()] and None,
        )

    if request.param == "postgres":
        postgres = request.getfixturevalue("postgres")
        return Shared(postgres.url, postgres.empty)

    require("redis")
    valkey = request.getfixturevalue("valkey")

    def restart() -> None:
        valkey.kill()
        valkey.start()

    return Shared(valkey.url, restart)


@pytest.mark.slow
async def test_a_fleet_keeps_the_limits_and_uses_them(shared: Shared):
    """
    Never over, at least 95 % of what is permitted, clocks 300 ms apart.

    What is permitted counts the time that a request took on this machine, and eight
    times, as many as the limiter waits for the store or a timer between two requests
    of a place, what the machine added to such a wait: a load on it slows down both.
    """
    async with Watcher().running() as watcher:
        worker = Worker(url=shared.url, port=watcher.port, seconds=SECONDS)
        async with fleet(worker) as processes:
            reports = await finish(processes)

    held = mean(report.held for report in reports)
    late = mean(report.late for report in reports)
    permitted = 4 / (reuse_after(LIMITS.exports[0], LIMITS) + held + 8 * late)
    assert 4 == watcher.most_in_a_window
    assert watcher.most_in_flight <= 5
    assert watcher.per_second >= 0.95 * permitted


@pytest.mark.slow
async def test_processes_killed_in_mid_request_break_no_limit(shared: Shared):
    """What the server goes on working on still has its place."""
    async with Watcher().running() as watcher:
        worker = Worker(
            url=shared.url, port=watcher.port, seconds=SECONDS, least=0.3, most=0.9
        )
        async with fleet(worker) as processes:
            await watcher.saw(exports=4)
            for _ in range(5):
                await asyncio.sleep(0.6)
                victim = random.choice(processes)
                if victim.returncode is None:
                    victim.kill()
                processes.append(await attrs.evolve(worker, seconds=4.0).start())
            before = len(watcher.exports)
            await finish(processes)

    assert watcher.most_in_a_window <= 4
    assert watcher.most_in_flight <= 5
    assert len(watcher.exports) > before > 0


@pytest.mark.slow
async def test_hundreds_of_cancellations_break_no_limit(shared: Shared):
    """Callers give up anywhere: in line, while a place is taken, in mid request."""
    async with Watcher().running() as watcher:
        worker = Worker(
            url=shared.url,
            port=watcher.port,
            seconds=SECONDS,
            least=0.05,
            most=0.15,
            cancels=True,
        )
        async with fleet(worker) as processes:
            reports = await finish(processes)

    calls = sum(report.calls for report in reports)
    # A slow machine lets fewer call, and more of them give up.
    assert sum(report.given_up for report in reports) >= calls / 2 > 100
    assert watcher.most_in_a_window <= 4
    assert watcher.most_in_flight <= 5
    assert len(watcher.exports) > 0


@pytest.mark.slow
async def test_what_lost_its_data_breaks_no_limit(shared: Shared):
    """Nobody starts before all that was lost would have been over."""
    async with Watcher().running() as watcher:
        worker = Worker(
            url=shared.url, port=watcher.port, seconds=SECONDS + 5, least=0.2, most=0.7
        )
        async with fleet(worker) as processes:
            await watcher.saw(exports=8)
            before = len(watcher.exports)
            shared.lose()
            await finish(processes)

    assert watcher.most_in_a_window <= 4
    assert watcher.most_in_flight <= 5
    assert len(watcher.exports) > before
