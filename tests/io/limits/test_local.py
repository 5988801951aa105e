"""The limiter of one process, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from itertools import pairwise

import pytest

from amplitude_cohorts_async._io.limits.local import LocalLimiter
from amplitude_cohorts_async.errors import QuotaWaitError
from amplitude_cohorts_async.limits import (
    DOCUMENTED,
    LEAVE_ROOM,
    UNLIMITED,
    Kind,
    Limits,
)
from amplitude_cohorts_async.testing.clock import FakeClock
from support.counting import most_in_any
from support.virtual_loop import run_virtually


def now() -> float:
    """Tell the running loop's time."""
    return asyncio.get_running_loop().time()


async def request(
    limiter: LocalLimiter,
    kind: Kind = "export",
    *,
    seconds: float = 0.5,
    starts: list[float] | None = None,
) -> None:
    """Hold a slot for so long."""
    async with limiter.slot(kind):
        if starts is not None:
            starts.append(now())
        await asyncio.sleep(seconds)


async def refuse(
    limiter: LocalLimiter,
    kind: Kind = "export",
    *,
    retry_after: float | None = None,
    details: str = "",
) -> None:
    """Let one request be answered 429."""
    async with limiter.slot(kind) as permit:
        permit.throttled(retry_after, details=details)


def starts_of(count: int, *, limits: Limits = DOCUMENTED) -> list[float]:
    """Ask for so many exports at once, and tell when they started."""

    async def main() -> list[float]:
        limiter, starts = LocalLimiter(limits), list[float]()
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(request(limiter, starts=starts))
        return starts

    return run_virtually(main())


def test_it_needs_no_running_loop_to_be_built():
    """A limiter can be made before there is an event loop."""
    assert 0 == LocalLimiter().statistics()["started"]


def test_the_first_four_exports_start_at_once():
    """A window that is empty is used whole."""
    assert [0.0] * 4 == starts_of(4)


def test_the_fifth_export_waits_for_a_window_after_the_first_one_ended():
    """A place is free 60 s, a thousandth and a margin after its request's end."""
    assert pytest.approx(0.5 + 60.06 + 0.25, abs=1e-3) == starts_of(5)[4]


def test_two_hundred_exports_take_98_percent_of_the_best_schedule():
    """What the margin and the latency cost is less than two per cent."""
    best = (200 / 4 - 1) * 60.0

    assert best / starts_of(200)[-1] >= 0.98


def test_it_is_exact_for_sixty_in_flight_too():
    """Without a rate per minute sixty exports start as places in flight allow."""
    starts = starts_of(61, limits=Limits(exports=DOCUMENTED.exports[1:]))

    assert 6.0 > starts[59]
    assert 600.0 < starts[60] < 602.0


def test_exports_start_in_the_order_they_were_asked_for():
    """First come, first served."""

    async def main() -> list[int]:
        limiter, order = LocalLimiter(), list[int]()

        async def export(number: int) -> None:
            await asyncio.sleep(number * 0.7)
            async with limiter.slot("export"):
                order.append(number)
                await asyncio.sleep(random.Random(number).uniform(0.1, 9))

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(export(number))
        return order

    assert list(range(200)) == run_virtually(main())


def test_polls_do_not_wait_behind_exports():
    """Nobody holds a place in flight while waiting for a window."""

    async def main() -> float:
        limiter = LocalLimiter()
        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(request(limiter))
            await asyncio.sleep(2)
            asked = now()
            await request(limiter, "poll", seconds=0)
            return now() - asked

    assert 0.0 == run_virtually(main())


@pytest.mark.parametrize(("limits", "most"), [(DOCUMENTED, 5), (LEAVE_ROOM, 4)])
def test_exactly_so_many_requests_are_in_flight_under_load(limits: Limits, most: int):
    """All places are used, and no other."""

    async def main() -> int:
        limiter, in_flight, peak = LocalLimiter(limits), 0, 0

        async def one(kind: Kind) -> None:
            nonlocal in_flight, peak
            async with limiter.slot(kind):
                in_flight += 1
                peak = max(peak, in_flight)
                await asyncio.sleep(1)
                in_flight -= 1

        async with asyncio.TaskGroup() as group:
            for kind in ("export", "poll", "file", "other") * 10:
                group.create_task(one(kind))
        return peak

    assert most == run_virtually(main())


def test_cancelling_loses_no_place():
    """After 25 storms of cancellation all places are there, and no window broke."""

    async def main() -> tuple[list[float], list[float]]:
        limiter, chance, starts = LocalLimiter(), random.Random(1), list[float]()

        for _ in range(25):
            kinds = chance.choices(["export", "poll", "file"], k=60)
            tasks = [
                asyncio.create_task(
                    request(
                        limiter,
                        kind,
                        seconds=chance.uniform(0, 8),
                        starts=starts if kind == "export" else None,
                    )
                )
                for kind in kinds
            ]
            for task in chance.sample(tasks, k=50):
                await asyncio.sleep(chance.choice([0, 0, 0.3, 3.0]))
                task.cancel()
            await asyncio.sleep(chance.uniform(0, 100))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        assert 0 == limiter.statistics()["in_flight"]
        assert 0 == limiter.statistics()["waiting"]

        await asyncio.sleep(700)
        asked, after = now(), list[float]()
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(request(limiter, starts=after))
            for _ in range(5):
                group.create_task(request(limiter, "file", starts=after))
        return starts, [start - asked for start in after]

    starts, after = run_virtually(main())

    assert len(starts) > 60
    assert 4 >= most_in_any(starts, 60.0 - 1e-9)
    assert [0.0] * 5 + [0.5] * 4 == after


def test_a_place_is_released_late_after_a_cancelled_request():
    """The service may still be busy with what we gave up: one second longer."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(in_flight=1))
        task = asyncio.create_task(request(limiter, "poll", seconds=10))
        await asyncio.sleep(2)
        task.cancel()
        await request(limiter, "poll", seconds=0)
        return now()

    assert pytest.approx(3.0, abs=1e-3) == run_virtually(main())


def test_a_place_released_late_does_not_hold_up_another():
    """Who waits takes the first place that is free, whichever it is."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(in_flight=2, release_delay=50))
        given_up = asyncio.create_task(request(limiter, "poll", seconds=10))
        other = asyncio.create_task(request(limiter, "poll", seconds=5))
        await asyncio.sleep(2)
        given_up.cancel()
        await request(limiter, "poll", seconds=0)
        await other
        return now()

    assert pytest.approx(5.0, abs=1e-3) == run_virtually(main())


def test_a_429_pauses_everybody():
    """Nothing of any kind starts before the moment the service named."""

    async def main() -> list[float]:
        limiter, starts = LocalLimiter(), list[float]()
        await refuse(limiter, retry_after=40)
        async with asyncio.TaskGroup() as group:
            for kind in ("export", "poll", "file", "other"):
                group.create_task(request(limiter, kind, starts=starts))
        return starts

    assert pytest.approx([40.0] * 4, abs=1e-3) == run_virtually(main())


def test_those_who_have_all_places_pause_too():
    """The pause is looked at last, when everything else is held."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(in_flight=1))

        async def slow_refusal() -> None:
            async with limiter.slot("poll") as permit:
                await asyncio.sleep(1)
                permit.throttled(30)

        task = asyncio.create_task(slow_refusal())
        await asyncio.sleep(0)
        await request(limiter, "poll", seconds=0)
        await task
        return now()

    assert pytest.approx(31.0, abs=1e-3) == run_virtually(main())


def test_a_pause_can_only_become_longer():
    """A later, shorter word does not reopen the gate early."""

    async def main() -> float:
        limiter = LocalLimiter()
        async with limiter.slot("poll") as first, limiter.slot("poll") as second:
            first.throttled(100)
            second.throttled(1)
        await request(limiter, "poll", seconds=0)
        return now()

    assert pytest.approx(100.0, abs=1e-3) == run_virtually(main())


def test_pauses_without_a_word_from_the_service_double():
    """5, 10, 20 seconds and so on, up to ten minutes."""

    async def main() -> list[float]:
        limiter, moments = LocalLimiter(), [now()]
        for _ in range(8):
            await refuse(limiter, "other")
            await request(limiter, "poll", seconds=0)
            moments.append(now())
        return [after - before for before, after in pairwise(moments)]

    doubling = [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0]
    assert pytest.approx(doubling, abs=1e-3) == run_virtually(main())


def test_a_burst_of_429s_is_one_pause():
    """What was sent before the pause says nothing new by being refused too."""

    async def main() -> tuple[float, float]:
        limiter = LocalLimiter()

        async def late(seconds: float) -> None:
            async with limiter.slot("export") as permit:
                await asyncio.sleep(seconds)
                permit.throttled()

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(late(1 + number / 10))
        await request(limiter, "poll", seconds=0)
        return now(), limiter.statistics()["spacing"]

    assert pytest.approx((16.0, 15.0), abs=1e-3) == run_virtually(main())


def test_429s_spread_exports_out_and_good_answers_let_them_close_up():
    """15, 20, 30, 60 s apart; one step less for forty good answers."""

    async def main() -> tuple[list[float], list[float]]:
        limiter = LocalLimiter()
        wider = [await _spacing_after(limiter, refuse) for _ in range(5)]

        async def forty(limiter: LocalLimiter) -> None:
            for _ in range(40):
                await request(limiter, seconds=0.1)

        narrower = [await _spacing_after(limiter, forty) for _ in range(5)]
        return wider, narrower

    wider, narrower = run_virtually(main())

    assert [15.0, 20.0, 30.0, 60.0, 60.0] == wider
    assert [30.0, 20.0, 15.0, 0.0, 0.0] == narrower


async def _spacing_after(
    limiter: LocalLimiter,
    act: Callable[[LocalLimiter], Coroutine[object, object, None]],
) -> float:
    await act(limiter)
    return limiter.statistics()["spacing"]


def test_exports_keep_their_spacing():
    """After one 429 exports start at least 15 s apart."""

    async def main() -> list[float]:
        limiter, starts = LocalLimiter(), list[float]()
        await refuse(limiter, retry_after=0)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(request(limiter, starts=starts))
        return starts

    assert pytest.approx([15.0, 30.0, 45.0], abs=1e-3) == run_virtually(main())


def test_a_429_for_concurrency_withholds_a_place():
    """Somebody else uses the app: for ten minutes one place is theirs."""

    async def main() -> tuple[float, list[float], float]:
        limiter = LocalLimiter(Limits(in_flight=2))
        words = "Too Many Requests: Exceeded concurrent limit with query of cost 1"
        await refuse(limiter, "poll", details=words)
        starts = list[float]()
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(request(limiter, "poll", seconds=1, starts=starts))
        withheld = limiter.statistics()["withheld"]
        await asyncio.sleep(600)
        asked = now()
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(request(limiter, "poll", seconds=1))
        return withheld, starts, now() - asked

    withheld, starts, seconds = run_virtually(main())

    assert 1 == withheld
    assert pytest.approx([2.0, 3.0, 4.0], abs=1e-3) == starts
    assert 1.0 == seconds


def test_the_last_place_is_never_withheld():
    """One request at a time always goes through."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(in_flight=2))
        for _ in range(5):
            await refuse(limiter, "poll", details="Exceeded concurrent limit")
        await request(limiter, "poll", seconds=0)
        return now()

    assert pytest.approx(10.0, abs=1e-3) == run_virtually(main())


def test_a_429_for_the_rate_of_a_poll_makes_polls_and_files_count(
    caplog: pytest.LogCaptureFixture,
):
    """
    The service then counts them as "single cohort requests", and we do too.
    """
    details = "Exceeded rate limit with query of cost 1"

    async def main() -> list[float]:
        limiter, starts = LocalLimiter(), list[float]()
        await refuse(limiter, "poll", retry_after=0, details=details)
        async with asyncio.TaskGroup() as group:
            for kind in ("export", "poll", "file", "poll", "export"):
                group.create_task(request(limiter, kind, starts=starts))
        return starts

    with caplog.at_level(logging.WARNING):
        starts = run_virtually(main())

    assert pytest.approx([0.0, 15.0, 30.0, 45.0], abs=1e-3) == starts[:4]
    assert 60.0 < starts[4]
    assert "polls and files count in the windows from now on" in caplog.messages


@pytest.mark.parametrize(
    ("kind", "seconds"), [("export", 60.31), ("poll", 0.0), ("other", 0.0)]
)
def test_a_wait_longer_than_the_callers_is_refused_at_once(kind: Kind, seconds: float):
    """QuotaWaitError says how long the wait would have been; nobody waited."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(max_wait=30))
        for _ in range(4):
            await request(limiter, seconds=0)
        try:
            await request(limiter, kind, seconds=0)
        except QuotaWaitError as error:
            return error.seconds
        finally:
            assert 0.0 == now()
        return 0.0

    assert pytest.approx(seconds, abs=1e-3) == run_virtually(main())


def test_the_line_counts_when_a_wait_is_foretold():
    """The ninth export in line comes in the third minute."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(max_wait=100))
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(request(limiter))
            await asyncio.sleep(1)
            with pytest.raises(QuotaWaitError) as caught:
                await request(limiter)
        return caught.value.seconds

    assert pytest.approx(2 * (60.31 + 0.5) - 1, abs=0.1) == run_virtually(main())


def test_writers_of_one_cohort_take_turns_and_leave_nothing_behind():
    """In the order they came; another cohort's writers do not wait for them."""

    async def main() -> tuple[list[tuple[float, str]], int]:
        limiter, log = LocalLimiter(), list[tuple[float, str]]()

        async def write(cohort_id: str, name: str) -> None:
            async with limiter.cohort_lock(cohort_id):
                log.append((now(), name))
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(write("one", name))
            group.create_task(write("two", "d"))
        return log, len(vars(limiter)["_cohort_locks"])

    log, kept = run_virtually(main())

    assert [(0.0, "a"), (0.0, "d"), (1.0, "b"), (2.0, "c")] == log
    assert 0 == kept


def test_a_cancelled_writer_loses_nobodys_turn():
    """The next in line goes on when the one before gives up."""

    async def main() -> tuple[float, int]:
        limiter = LocalLimiter()

        async def write() -> None:
            async with limiter.cohort_lock("one"):
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(write()) for _ in range(4)]
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return now(), len(vars(limiter)["_cohort_locks"])

    assert (2.5, 0) == run_virtually(main())


async def test_a_clock_of_the_callers_is_the_only_one_waited_on():
    """With a fake clock an hour of exports takes a moment."""
    clock = FakeClock()
    limiter = LocalLimiter(clock=clock)

    for _ in range(9):
        async with limiter.slot("export"):
            await clock.sleep(0.5)

    assert pytest.approx(2 * 60.31 + 0.5 + 2.5, abs=2.0) == clock.now()


async def test_late_release_works_on_the_callers_clock_too():
    """The first free place is taken, on whichever clock."""
    clock = FakeClock()
    limiter = LocalLimiter(Limits(in_flight=1, release_delay=7), clock=clock)

    with pytest.raises(ZeroDivisionError):
        async with limiter.slot("poll"):
            raise ZeroDivisionError
    async with limiter.slot("poll"):
        pass

    assert pytest.approx(7.0, abs=1e-3) == clock.now()


def test_statistics_tell_what_happened():
    """Counters by name, all numbers."""

    async def main() -> dict[str, float]:
        limiter = LocalLimiter(Limits(in_flight=1))
        async with asyncio.TaskGroup() as group:
            for kind in ("export", "poll", "poll"):
                group.create_task(request(limiter, kind, seconds=1))
        await refuse(limiter, "other")
        await limiter.aclose()
        await limiter.aclose()
        return dict(limiter.statistics())

    expected = {
        "started": 4,
        "started.export": 1,
        "started.poll": 2,
        "started.other": 1,
        "in_flight": 0,
        "waiting": 0,
        "waited": pytest.approx(3.0),
        "throttled": 1,
        "withheld": 0,
        "spacing": 0.0,
    }
    assert expected == run_virtually(main())


def test_unlimited_lets_everything_through_at_once():
    """For tests: five hundred exports at once."""
    assert [0.0] * 500 == starts_of(500, limits=UNLIMITED)
