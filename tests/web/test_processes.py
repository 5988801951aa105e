"""A user's app under plain uvicorn: told to end, killed, and one of two workers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator, faults
from support.canary import API_KEY, SECRET_KEY
from support.exporting import until
from support.ports import LOOPBACK, await_port, free_ports
from support.processes import TESTS
from support.web import COHORT, IDS, Browser

pytestmark = pytest.mark.slow

PATIENCE = 30.0
"""Seconds until a process has ended: half a second, on a machine that has time."""

# What uvicorn does with no open connection; a stream must not change it.
ENDED = {0, -signal.SIGTERM}


@attrs.frozen
class Workers:
    """Starts processes that share a store and a folder."""

    folder: Path
    emulator: CohortsEmulator

    @property
    def environment(self) -> dict[str, str]:
        """What each of them is given."""
        return {
            **os.environ,
            **self.emulator.environment(),
            "AMPLITUDE_LIMITER_URL": f"sqlite:///{self.folder}/limits.db",
            "EXPORTS": str(self.folder / "files"),
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        }

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Worker]:
        """Run one meanwhile."""
        (port,) = free_ports(1)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "support.web_app:app"),
            *("--port", str(port)),
            env=self.environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

        try:
            alive = process.returncode is None
            assert await asyncio.to_thread(await_port, port, alive=lambda: alive)
            async with aiohttp.ClientSession() as session:
                yield Worker(process, Browser(f"http://{LOOPBACK}:{port}", session))
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            # Reads its pipe to the end, which closes it.
            await process.communicate()


@attrs.frozen
class Worker:
    """One process of uvicorn."""

    process: asyncio.subprocess.Process
    browser: Browser

    async def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return how it ended by itself, and what it had to say."""
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            _, said = await self.process.communicate()

        return self.process.returncode or 0, said.decode()


@pytest.fixture
async def service() -> AsyncIterator[CohortsEmulator]:
    """The emulator, whose exports take two seconds."""
    emulator = CohortsEmulator(api_key=API_KEY, secret_key=SECRET_KEY, job_seconds=2)
    async with emulator:
        emulator.add_cohort(COHORT, members=IDS)
        yield emulator


@pytest.fixture
async def slow_service() -> AsyncIterator[CohortsEmulator]:
    """An emulator whose exports take longer than any of these tests."""
    emulator = CohortsEmulator(api_key=API_KEY, secret_key=SECRET_KEY, job_seconds=3600)
    async with emulator:
        emulator.add_cohort(COHORT, members=IDS)
        yield emulator


@pytest.fixture
def workers(service: CohortsEmulator, tmp_path: Path) -> Workers:
    """Processes that share all there is to share."""
    return Workers(tmp_path, service)


async def finish(browser: Browser, location: str) -> bytes:
    """Wait for an export, and return its file."""
    state = await browser.until_over(location)
    assert "saved" == state["state"]

    return (await browser.get(state["file"])).body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_end_with_an_open_stream(
    workers: Workers, service: CohortsEmulator, number: signal.Signals
) -> None:
    """It ends at once and without an error; the next one goes on with the export."""
    async with workers.one() as worker:
        started = await worker.browser.start()
        location = started.headers["location"]
        names = []
        async for event in worker.browser.events(f"{location}/events"):
            if not names:
                status, said = await worker.end(number)
            names.append(event.name)

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=service.base_url,
        jobs=f"{workers.folder}/limits.db.jobs",
    ) as client:
        adoptable = await client.jobs(open_only=True)

    async with workers.one() as worker:
        file = await finish(worker.browser, location)

    assert status in {*ENDED, -number}
    assert "ERROR" not in said
    assert "Traceback" not in said
    assert "Application shutdown complete" in said
    assert {"export"} == set(names)
    assert [COHORT] == [record.cohort_id for record in adoptable]
    assert IDS[0].encode() in file
    assert 1 == service.spent


@pytest.mark.parametrize("path", ["/api/exports/events", "/api/exports/{id}/events"])
async def test_told_to_end_waits_for_no_export(
    slow_service: CohortsEmulator, tmp_path: Path, path: str
) -> None:
    """A worker does not wait until its exports and streams are over, and polls no more."""
    async with Workers(tmp_path, slow_service).one() as worker:
        started = await worker.browser.start()
        polls = -1
        async for _ in worker.browser.events(path.format(id=started.json["id"])):
            if polls < 0:
                polls = slow_service.requests("status")
                status, said = await worker.end(signal.SIGTERM)

    assert status in ENDED
    assert "Traceback" not in said
    # One more may have been on its way.
    assert slow_service.requests("status") <= polls + 1


async def test_told_to_end_while_a_request_is_under_way(
    workers: Workers, service: CohortsEmulator
) -> None:
    """The id of what is just being spent is recorded, and the export comes to its file."""
    service.fail_next("export", faults.hang(1.0))

    async with workers.one() as worker:
        start = asyncio.create_task(worker.browser.start(key="k"))
        await until(lambda: service.requests("export") == 1 or start.done())
        status, said = await worker.end(signal.SIGTERM)
        started = await start

    async with workers.one() as worker:
        again = await worker.browser.start(key="k")
        file = await finish(worker.browser, again.headers["location"])

    assert status in ENDED
    assert "ERROR" not in said
    assert started.status in {202, 503}
    assert IDS[0].encode() in file
    assert 1 == service.spent


async def test_told_to_end_while_amplitude_is_silent(
    workers: Workers, service: CohortsEmulator
) -> None:
    """A request that only reads is given up, and the browser may send it again."""
    service.fail_next("list", faults.hang())

    async with workers.one() as worker:
        asking = asyncio.create_task(worker.browser.get("/api/cohorts"))
        await until(lambda: service.requests("list") == 1 or asking.done())
        status, said = await worker.end(signal.SIGTERM)
        answer = await asking

    assert status in ENDED
    assert "ERROR" not in said
    assert (503, "1") == (answer.status, answer.headers["retry-after"])


@pytest.mark.posix
async def test_killed_between_the_answer_and_the_file(
    workers: Workers, service: CohortsEmulator
) -> None:
    """What was answered with 202 survives `kill -9`."""
    async with workers.one() as worker:
        started = await worker.browser.start()
        await worker.end(signal.SIGKILL)

    async with workers.one() as worker:
        file = await finish(worker.browser, started.headers["location"])

    assert 202 == started.status
    assert IDS[0].encode() in file
    assert 1 == service.spent


@pytest.mark.posix
async def test_any_worker_serves_any_export(
    workers: Workers, service: CohortsEmulator
) -> None:
    """One starts it and is killed; the other streams its states, and has its file."""
    async with workers.one() as first, workers.one() as second:
        started = await first.browser.start()
        location = started.headers["location"]
        states = []
        async for event in second.browser.events(f"{location}/events"):
            if not states:
                await first.end(signal.SIGKILL)
            states.append(event.data.get("state", "end"))
        state = (await second.browser.get(location)).json
        file = (await second.browser.get(state["file"])).body
        again = await second.browser.start()

    assert ("saved", "end") == tuple(states[-2:])
    assert IDS[0].encode() in file
    assert again.headers["location"] != location
    assert 2 == service.spent


async def test_two_workers_and_one_key(
    workers: Workers, service: CohortsEmulator
) -> None:
    """A double click that meets two workers spends one export."""
    async with workers.one() as first, workers.one() as second:
        both = await asyncio.gather(
            first.browser.start(key="click"), second.browser.start(key="click")
        )
        (location,) = {answer.headers["location"] for answer in both}
        files = [await finish(each.browser, location) for each in (first, second)]

    assert files[0] == files[1]
    assert 1 == service.spent


async def test_two_workers_and_no_key(
    workers: Workers, service: CohortsEmulator
) -> None:
    """So does one without a key."""
    async with workers.one() as first, workers.one() as second:
        both = await asyncio.gather(first.browser.start(), second.browser.start())
        (location,) = {answer.headers["location"] for answer in both}
        await finish(first.browser, location)

    assert 1 == service.spent
