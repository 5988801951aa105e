"""
Cancelled at every await: nothing is left, nothing is half, nothing is spent twice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.events import Event, ExportRequested
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import FakeClock
from support.canary import API_KEY, SECRET_KEY
from support.cancelling import WAYS, Way
from support.exporting import (
    CSV,
    FILE,
    LINK,
    OBJECT,
    REQUEST,
    STATUS,
    cut,
    names_in,
    rest,
    until,
    whole,
)
from support.fault_server import FaultServer, Reply, json_reply, redirect

OLD = b"yesterday's"
EXPORTS = "/api/5/cohorts/request/"


@pytest.fixture
async def told(
    server: FaultServer, clock: FakeClock
) -> AsyncIterator[tuple[CohortsClient, list[Event]]]:
    """A client with one slot, so that a lost one would stop all, and what it tells."""
    heard: list[Event] = []

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=server.url,
        clock=clock,
        limits=Limits(in_flight=1, exports=(), release_delay=0.0),
        polling=Polling(initial_delay=0.001, interval=0.001),
        hook=heard.append,
    ) as client:
        yield client, heard


def expect(server: FaultServer, cohort_id: str) -> None:
    """
    Set up one export: a job that runs for a while, a link that is cut, a fresh one.
    """
    job = {"request_id": REQUEST, "cohort_id": cohort_id}
    server.on(f"{EXPORTS}{cohort_id}", json_reply(job, 202))
    server.on(
        STATUS,
        json_reply({**job, "async_status": "JOB INPROGRESS"}, 202),
        json_reply({**job, "async_status": "JOB COMPLETED"}),
    )
    server.on(FILE, redirect(f"{server.url}{OBJECT}?{LINK}"))
    server.on(OBJECT, cut(5_000), rest(5_000))


async def check_nothing_left(
    client: CohortsClient, tasks: set[asyncio.Task[Any]]
) -> None:
    """
    Fail if a slot is taken, somebody waits for one, or a task of ours runs.

    That a call returned is recorded after its last step, in a task of its own.
    """
    await client._operations.jobs.rows.settle()
    statistics = client._operations.session.limiter.statistics()
    ours = [task for task in asyncio.all_tasks() - tasks if "_serve" not in repr(task)]

    assert 0 == statistics["in_flight"] == statistics["waiting"]
    assert [] == [task for task in ours if "_accept" not in repr(task)]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_an_export_cancelled_anywhere(
    server: FaultServer,
    told: tuple[CohortsClient, list[Event]],
    tmp_path: Path,
    way: Way,
) -> None:
    """
    Whatever the moment: the target is old or whole, one export is spent at most,
    and what was spent can be resumed from what the hook heard.
    """
    client, heard = told
    target = tmp_path / "members.csv"
    at = 0
    is_over = False

    while not is_over:
        at += 1
        cohort_id = f"cohort{at}"
        expect(server, cohort_id)
        target.write_bytes(OLD)
        tasks = asyncio.all_tasks()
        heard.clear()

        is_over = await way(client.export(cohort_id, target), at)

        await check_nothing_left(client, tasks)
        assert [target.name] == names_in(tmp_path)
        assert target.read_bytes() in {OLD, CSV}
        spent = len(server.requests(f"{EXPORTS}{cohort_id}"))
        known = [event for event in heard if isinstance(event, ExportRequested)]
        assert spent == len(known) <= 1

    assert CSV == target.read_bytes()
    assert at > 20
    assert threading.active_count() < 20


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_cancelled_anywhere(
    server: FaultServer, told: tuple[CohortsClient, list[Event]], way: Way
) -> None:
    """A stream of members that is cancelled holds no connection and no slot."""
    client, _ = told
    at = 0
    is_over = False

    async def read(cohort_id: str) -> int:
        job = await client.request_export(cohort_id)
        async with job.members() as stream:
            return len([member async for member in stream])

    while not is_over:
        at += 1
        expect(server, f"cohort{at}")
        server.on(OBJECT, cut(5_000), whole())
        if at % 2:
            server.on(FILE, whole(content_encoding="gzip"))
        else:
            server.on(OBJECT, whole())
        tasks = asyncio.all_tasks()

        is_over = await way(read(f"cohort{at}"), at)

        await check_nothing_left(client, tasks)
        assert 1 >= len(server.requests(f"{EXPORTS}cohort{at}"))

    assert at > 15


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_a_client_cancelled_anywhere(
    server: FaultServer, clock: FakeClock, tmp_path: Path, way: Way
) -> None:
    """
    A client that lives within what is cancelled closes its connections all the same.
    """
    at = 0
    is_over = False

    async def export(cohort_id: str) -> None:
        async with CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=server.url,
            clock=clock,
            polling=Polling(initial_delay=0.001, interval=0.001),
            limits=Limits(exports=(), release_delay=0.0),
        ) as client:
            await client.export(cohort_id, tmp_path / "members.csv")

    while not is_over:
        at += 1
        expect(server, f"cohort{at}")
        tasks = asyncio.all_tasks()
        is_over = await way(export(f"cohort{at}"), at)

        left = asyncio.all_tasks() - tasks
        assert [] == [task for task in left if "_accept" not in repr(task)]
        assert names_in(tmp_path) in ([], ["members.csv"])

    # A session or connection that is open complains when the test ends.
    assert at > 20


async def test_a_stream_left_while_the_wire_is_silent(
    server: FaultServer, told: tuple[CohortsClient, list[Event]]
) -> None:
    """Leaving a stream under cancellation waits for the transfer behind it to end."""
    client, _ = told
    expect(server, "cohort1")
    server.on(OBJECT, Reply(raw=whole(CSV).raw[:9_000], then="hang"))
    job = await (await client.request_export("cohort1")).wait()
    tasks = asyncio.all_tasks()

    with anyio.CancelScope() as scope:
        async with job.members() as stream:
            reading = asyncio.ensure_future(anext(aiter(stream)))
            await until(lambda: len(server.requests(OBJECT)) == 1)
            await asyncio.sleep(0.01)
            reading.cancel()
            scope.cancel()

    await check_nothing_left(client, tasks | {reading})
    await asyncio.wait([reading])


async def test_a_download_left_while_the_wire_is_silent(
    server: FaultServer,
    told: tuple[CohortsClient, list[Event]],
    tmp_path: Path,
) -> None:
    """A download that waits for bytes ends at once; no store proves its part."""
    client, _ = told
    expect(server, "cohort1")
    server.on(OBJECT, Reply(raw=whole(CSV, etag=None).raw[:9_000], then="hang"))
    job = await (await client.request_export("cohort1")).wait()
    tasks = asyncio.all_tasks()

    downloading = asyncio.ensure_future(job.download(tmp_path / "members.csv"))
    await until(lambda: len(server.requests(OBJECT)) == 1)
    await asyncio.sleep(0.01)
    downloading.cancel()
    await asyncio.wait([downloading])

    assert downloading.cancelled()
    await check_nothing_left(client, tasks)
    assert [] == names_in(tmp_path)


async def test_who_waits_for_a_slot_leaves_the_queue(
    server: FaultServer, told: tuple[CohortsClient, list[Event]]
) -> None:
    """A caller that is cancelled in the queue takes no slot with it."""
    client, _ = told
    expect(server, "cohort1")

    async with client.slot():
        waiting = [
            asyncio.ensure_future(client.request_export("cohort1")) for _ in range(3)
        ]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    await check_nothing_left(client, asyncio.all_tasks())
    assert [] == server.seen
    assert REQUEST == (await client.request_export("cohort1")).request_id
