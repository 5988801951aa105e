"""
Four processes of a fleet, and something goes wrong with what they share, or with them.

What the server sees breaks no limit, and afterwards it goes on. The windows are
scaled as in test_fleet.py; the server must not lose its data here, and what happens
then is there.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest

from support.fleet import LEASE, LIMITS, Watcher, Worker, fleet
from support.proxy import Proxy

if TYPE_CHECKING:
    from support.fleet_stores import FleetStore
    from support.postgres import Postgres

pytestmark = [pytest.mark.services, pytest.mark.slow]

Processes: TypeAlias = list[asyncio.subprocess.Process]
Fault: TypeAlias = Callable[[Processes], Awaitable[None]]


async def scene(url: str, fault: Fault, *, least: float = 0.1) -> None:
    """Let a fleet work, something happen after two windows, and two more follow."""
    async with Watcher().running() as watcher:
        worker = Worker(
            url=url, port=watcher.port, seconds=60, least=least, most=3 * least
        )
        async with fleet(worker) as processes:
            await watcher.saw(exports=8)
            await fault(processes)
            await watcher.saw(exports=len(watcher.exports) + 8)

    assert watcher.most_in_a_window <= LIMITS.exports[0].count
    assert watcher.most_in_flight <= LIMITS.in_flight


async def test_a_server_hangs(fleet_store: FleetStore) -> None:
    """For longer than anybody waits for an answer, and for a lease."""
    fleet_store.use("fleet")

    async def hang(_processes: Processes) -> None:
        fleet_store.server.freeze()
        await asyncio.sleep(1.5 * LEASE)
        fleet_store.server.thaw()

    await scene(fleet_store.server.url, hang)


async def test_the_network_passes_nothing_on(fleet_store: FleetStore) -> None:
    """Neither bytes nor the end of a connection; what was under way comes late."""
    fleet_store.use("fleet")

    async with Proxy(fleet_store.server.port).running() as proxy:

        async def stall(_processes: Processes) -> None:
            proxy.forwards.clear()
            await asyncio.sleep(1.5 * LEASE)
            proxy.forwards.set()

        await scene(fleet_store.server.url_at(proxy.port), stall)


async def test_holders_hang(fleet_store: FleetStore) -> None:
    """Others get their places, and they find that out when they go on."""
    fleet_store.use("fleet")

    async def hang(processes: Processes) -> None:
        for process in processes[:2]:
            process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.5 * LEASE)
        for process in processes[:2]:
            process.send_signal(signal.SIGCONT)

    await scene(fleet_store.server.url, hang, least=0.3)


async def test_a_database_is_started_anew(postgres: Postgres) -> None:
    """It was killed, and has its data."""

    async def start_anew(_processes: Processes) -> None:
        postgres.kill()
        await asyncio.sleep(0.5)
        postgres.start()

    await scene(postgres.url, start_anew)


async def test_a_database_forgets_the_last_commits(postgres: Postgres) -> None:
    """As a copy does that is put back, and a replica that was behind and takes over."""

    async def fail_over(_processes: Processes) -> None:
        postgres.stop()
        postgres.copy()
        postgres.start()
        await asyncio.sleep(3 * LEASE)
        postgres.put_back()

    await scene(postgres.url, fail_over)
