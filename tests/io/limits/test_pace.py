"""The pace of polls and writes: a bucket that decides when they start."""

from __future__ import annotations

import asyncio
import gc

import pytest

from amplitude_cohorts_async._io.limits.window import Pacer
from amplitude_cohorts_async.limiters import LocalLimiter
from amplitude_cohorts_async.limits import DOCUMENTED, Kind, Limits, Rate
from support.virtual_loop import run_virtually


async def starts_within(
    limiter: LocalLimiter, kind: Kind, *, askers: int, seconds: float
) -> list[float]:
    """Let so many ask again and again for so long; return when they started."""
    starts: list[float] = []

    async def ask() -> None:
        while True:
            async with limiter.slot(kind):
                starts.append(asyncio.get_running_loop().time())
                await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(ask()) for _ in range(askers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    return starts


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("poll", DOCUMENTED),
        ("write", DOCUMENTED),
        ("poll", Limits(polls=Rate(3, per=1), writes=None)),
        ("write", Limits(polls=None, writes=Rate(3, per=1))),
    ],
)
def test_five_hundred_start_at_their_pace(kind: Kind, limits: Limits):
    """
    A burst of three, then three a second: 32 in ten seconds, where five slots
    alone would let 250 through.
    """
    starts = run_virtually(
        starts_within(LocalLimiter(limits), kind, askers=500, seconds=10.0)
    )

    assert 32 == len(starts)


@pytest.mark.parametrize("kind", ["file", "other"])
def test_other_kinds_have_no_pace(kind: Kind):
    """Files, lists and the Dashboard start as soon as there is a slot."""
    starts = run_virtually(
        starts_within(LocalLimiter(), kind, askers=500, seconds=10.0)
    )

    assert 250 == len(starts)


def test_open_jobs_leave_slots_to_others():
    """While five hundred jobs are asked about, a file waits for no slot."""

    async def main() -> list[float]:
        limiter, waited = LocalLimiter(), list[float]()
        loop = asyncio.get_running_loop()
        polls = asyncio.create_task(
            starts_within(limiter, "poll", askers=500, seconds=60)
        )
        for _ in range(50):
            asked = loop.time()
            async with limiter.slot("file"):
                waited.append(loop.time() - asked)
            await asyncio.sleep(0.99)
        await polls
        return waited

    assert [0.0] * 50 == run_virtually(main())


def test_eight_jobs_are_asked_about_without_delay():
    """The concurrency of `export_many()` and the ordinary interval need no pace."""

    async def main() -> list[float]:
        limiter, late = LocalLimiter(), list[float]()
        loop = asyncio.get_running_loop()

        async def job(number: int) -> None:
            await asyncio.sleep(number * 5 / 8)
            for _ in range(20):
                asked = loop.time()
                async with limiter.slot("poll"):
                    late.append(loop.time() - asked)
                    await asyncio.sleep(0.2)
                await asyncio.sleep(5)

        await asyncio.gather(*(job(number) for number in range(8)))
        return late

    assert [0.0] * 160 == run_virtually(main())


def test_polls_keep_their_pace_after_a_pause():
    """What queued while the service asked for a pause does not start together."""

    async def main() -> list[float]:
        limiter = LocalLimiter()
        async with limiter.slot("file") as permit:
            permit.throttled(30)
        return await starts_within(limiter, "poll", askers=500, seconds=31.9)

    starts = run_virtually(main())

    assert 30 <= starts[0]
    assert len(starts) <= 3 + 3 * 1.9


def test_a_place_in_line_is_lost_by_cancelling_only():
    """Those that were cancelled while they waited do not delay the others."""

    async def main() -> tuple[int, float]:
        pacer, loop = Pacer(Rate(1, per=10)), asyncio.get_running_loop()
        await pacer.wait()
        tasks = [asyncio.create_task(pacer.wait()) for _ in range(9)]
        await asyncio.sleep(1)
        for task in tasks[:-1]:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        return ends.count(None), loop.time()

    done, seconds = run_virtually(main())

    assert 1 == done
    assert pytest.approx(11, abs=0.1) == seconds


def test_each_event_loop_has_a_bucket_and_closed_ones_are_dropped():
    """aiolimiter's buckets belong to one loop; a process that makes many keeps few."""
    pacer = Pacer(Rate(1, per=60))

    for _ in range(5):
        run_virtually(pacer.wait())
    gc.collect()

    assert 1 == len(pacer._buckets)
