"""A wait of more than a second has a line of the log that says why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._core.claims import Call
from amplitude_cohorts_async._exports.claim import Claim
from amplitude_cohorts_async._io import waits
from amplitude_cohorts_async._io.context import Context, SystemClock
from amplitude_cohorts_async._io.http.session import Session
from amplitude_cohorts_async._io.limits.base import Limiter
from amplitude_cohorts_async._io.waits import WaitLog
from amplitude_cohorts_async.limiters import LocalLimiter, SqliteLimiter
from amplitude_cohorts_async.limits import Kind, Limits, Rate
from amplitude_cohorts_async.policies import Retrying
from amplitude_cohorts_async.testing import FakeClock
from support.exporting import (
    COHORT,
    COMPLETED,
    LIST,
    REQUEST,
    RUNNING,
    STATUS,
    until,
)
from support.fault_server import FaultServer, json_reply, reply
from support.virtual_loop import run_virtually

ONE = Limits(
    exports=Rate(1, per=60), in_flight=1, clock_margin=0.0, polls=Rate(1, per=30)
)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines about waits, at INFO."""

    def read() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno == logging.INFO and record.name.endswith(".waits")
        ]

    return read


def session_of(limiter: Limiter) -> Session:
    """Return a session that is asked for slots only."""
    context = Context(clock=SystemClock(), rng=lambda: 0.5, retrying=Retrying())
    nothing: Any = None
    return Session(transport=nothing, limiter=limiter, context=context, origin="")


async def hold(session: Session, kind: Kind, seconds: float = 0.0) -> None:
    """Wait for a slot, and hold it for so long."""
    async with session.slot(kind):
        await asyncio.sleep(seconds)


def told(lines: Callable[[], list[str]], main: Coroutine[Any, Any, None]) -> list[str]:
    """Run in virtual time; return the lines."""
    run_virtually(main, grain=1e-6)
    return lines()


def test_a_wait_for_a_window_says_which_and_how_long(
    lines: Callable[[], list[str]],
) -> None:
    """E2: who waits for a minute reads so after a second."""

    async def main() -> None:
        session = session_of(LocalLimiter(ONE))
        await hold(session, "export")
        await hold(session, "export")

    assert ["waiting 59 s for a place in the window of exports, 1 in 60 s"] == told(
        lines, main()
    )


async def _after_a_429(session: Session) -> None:
    async with session.slot("other") as permit:
        permit.throttled(30.0)


async def _while_a_slot_is_held(session: Session) -> None:
    task = asyncio.create_task(hold(session, "other", 5.0))
    await asyncio.sleep(0)
    assert not task.done()


async def _after_a_poll(session: Session) -> None:
    await hold(session, "poll")


@pytest.mark.parametrize(
    ("before", "kind", "cause"),
    [
        (_after_a_429, "other", "the end of the pause after a 429"),
        (_while_a_slot_is_held, "other", "a place for a request in flight, of 1"),
        (_after_a_poll, "poll", "its turn in the pace of requests of kind 'poll'"),
    ],
)
def test_the_cause(
    lines: Callable[[], list[str]],
    before: Callable[[Session], Coroutine[Any, Any, None]],
    kind: Kind,
    cause: str,
) -> None:
    """Pause, place in flight and pace are told apart."""

    async def main() -> None:
        session = session_of(LocalLimiter(ONE))
        await before(session)
        await hold(session, kind)

    assert [f"waiting for {cause}"] == told(lines, main())


def test_a_short_wait_is_not_told(lines: Callable[[], list[str]]) -> None:
    """Nine tenths of a second are no news."""

    async def main() -> None:
        with WaitLog().watch("nothing"):
            await asyncio.sleep(0.9)

    assert [] == told(lines, main())


def test_those_who_wait_for_the_same_have_one_line(
    lines: Callable[[], list[str]],
) -> None:
    """Of a hundred, one is told; when it goes on, another one is."""

    async def main() -> None:
        session = session_of(LocalLimiter(ONE))
        await hold(session, "export")
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(hold(session, "export"))
            await asyncio.sleep(59)
            assert 1 == len(lines())
            await asyncio.sleep(12)
            assert 2 == len(lines())
            await asyncio.sleep(40)
            assert 2 == len(lines())
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    told(lines, main())


def test_one_who_waits_twice_is_told_twice(lines: Callable[[], list[str]]) -> None:
    """A wait that has ended hides none that comes after it."""

    async def main() -> None:
        log = WaitLog()
        for _ in range(2):
            with log.watch("a thing"):
                await asyncio.sleep(1.5)

    assert ["waiting for a thing"] * 2 == told(lines, main())


async def test_a_file_of_limits_tells_what_it_last_said(
    tmp_path: Path, clock: FakeClock
) -> None:
    """The limiter of a machine knows windows, places in flight and pauses, too."""
    limiter = SqliteLimiter(tmp_path / "limits.db", app="a", limits=ONE, clock=clock)

    async with limiter.slot("export") as permit:
        assert "a place for a request in flight, of 1" == limiter.waits_for("poll")
        assert "a place in the window of exports, 1 in 60 s" == limiter.waits_for(
            "export"
        )
        permit.throttled(30.0)

    assert "the end of the pause after a 429" == limiter.waits_for("other")
    await limiter.aclose()


async def test_the_wait_for_a_job_is_told_once(
    server: FaultServer,
    exporter: CohortsClient,
    lines: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    """Not each poll, but that it is polled, and which export it is."""
    server.on(STATUS, RUNNING, RUNNING, RUNNING, COMPLETED)

    await exporter.export(COHORT, tmp_path / "members.csv")

    (line,) = lines()
    assert f"the next poll of export {REQUEST}" in line


async def test_a_retry_says_how_long_and_why(
    server: FaultServer, exporter: CohortsClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The one line of a retry has its operation, its pause and the error."""
    server.on(LIST, reply(503, b"busy"), json_reply({"cohorts": []}))

    await exporter.list_cohorts()

    (line,) = [each for each in caplog.messages if "trying again" in each]
    assert line.startswith("list failed, trying again in ")
    assert "503" in line


async def test_another_caller_of_the_export_is_waited_for(
    server: FaultServer,
    exporter: CohortsClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it is of this process or, with a lease, of another one."""
    monkeypatch.setattr(waits, "_LONG", 0.0)
    jobs = exporter._operations.exports.jobs
    call = Call(cohort_id=COHORT, properties=False, target=None, format=None)

    async with jobs.lock(call):
        task = asyncio.create_task(exporter.request_export(COHORT, join=True))
        await until(lambda: any("a call for the same" in m for m in caplog.messages))
        found = await jobs.claim(call, None)
        assert isinstance(found, Claim)

    await until(lambda: any("another caller, whose" in m for m in caplog.messages))
    await found.release()
    await task
