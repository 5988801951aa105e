"""Asking without waiting, and the ticket that keeps one's place; in virtual time."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from amplitude_cohorts_async._core.pacing import Refusal
from amplitude_cohorts_async._io.limits.local import LimiterState
from amplitude_cohorts_async._io.limits.tickets import KEPT_FOR
from amplitude_cohorts_async.errors import QuotaWaitError
from amplitude_cohorts_async.limiters import Kind, Limiter, LocalLimiter, Permit
from amplitude_cohorts_async.limits import DOCUMENTED, Limits, Rate
from support.counting import most_in_any
from support.processes import in_child
from support.virtual_loop import run_virtually

ALONE = Limits(in_flight=1, exports=(), polls=None, release_delay=0.0)
ONE_A_MINUTE = Limits(exports=Rate(1, per=60.0), clock_margin=0.0)
GARBAGE = ["", "x", "0" * 31, "F" * 32, "\ud800" * 32, "' OR 1=1 --", "0" * 100_000]


def now() -> float:
    """Tell the running loop's time."""
    return asyncio.get_running_loop().time()


async def refused(
    limiter: Limiter, kind: Kind = "export", ticket: str | None = None
) -> QuotaWaitError:
    """Try in vain, without any wait."""
    with pytest.raises(QuotaWaitError) as caught:
        await tried(limiter, kind, ticket)

    return caught.value


async def tried(
    limiter: Limiter, kind: Kind, ticket: str | None = None, seconds: float = 0.0
) -> float:
    """Hold a slot for so long if there is one; tell when it began."""
    async with limiter.try_slot(kind, ticket=ticket):
        start = now()
        await asyncio.sleep(seconds)

    return start


async def tick(limiter: Limiter, kind: Kind, *, seconds: float = 0.5) -> float:
    """Come back at each due time until there is a slot; tell when it began."""
    ticket = None

    while True:
        try:
            return await tried(limiter, kind, ticket, seconds)
        except QuotaWaitError as error:
            ticket = error.ticket
            await asyncio.sleep(error.seconds)


async def hold(limiter: Limiter, kind: Kind = "export", seconds: float = 0.5) -> float:
    """Wait for a slot and hold it for so long; tell when it began."""
    async with limiter.slot(kind):
        start = now()
        await asyncio.sleep(seconds)

    return start


Way = Callable[[Limiter, Kind], Awaitable[float]]


async def beside_callers_who_queue(
    limiter: Limiter, kind: Kind, way: Way
) -> tuple[int, int, float]:
    """
    Return how many were ahead of one caller, how many started earlier, and its wait.

    A dozen others queue, and ask again as soon as they have been served.
    """
    asked, starts = 0, list[float]()

    async def queue() -> None:
        nonlocal asked
        while True:
            asked += 1
            async with limiter.slot(kind):
                starts.append(now())
                await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(queue()) for _ in range(12)]
    await asyncio.sleep(200.25)
    came_at, before, ahead = now(), len(starts), asked - len(starts)
    async with asyncio.timeout(1_800):
        started_at = await way(limiter, kind)
    # Those whose places are free at the same moment start together, in any order.
    earlier = sum(start < started_at - 0.1 for start in starts[before:])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    return ahead, earlier, started_at - came_at


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("export", ONE_A_MINUTE),
        ("export", DOCUMENTED),
        ("poll", Limits(in_flight=1, polls=None)),
        ("poll", Limits(in_flight=1, polls=Rate(1, per=1))),
        ("poll", DOCUMENTED),
        ("write", DOCUMENTED),
    ],
    ids=str,
)
def test_a_ticker_beside_callers_who_queue_is_admitted_in_its_order(
    kind: Kind, limits: Limits
):
    """At most one place later than its ticket says, however many come back."""
    ahead, earlier, _ = run_virtually(
        beside_callers_who_queue(LocalLimiter(limits), kind, tick)
    )

    assert ahead >= 7
    assert earlier <= ahead + 1


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("export", DOCUMENTED),
        ("export", Limits(exports=[Rate(9, per=30), Rate(20, per=300)])),
        ("poll", Limits(polls=None)),
        ("poll", DOCUMENTED),
        ("file", DOCUMENTED),
        ("file", Limits(in_flight=3)),
    ],
    ids=str,
)
def test_a_ticker_waits_little_longer_than_who_queues(kind: Kind, limits: Limits):
    """Its place is kept until it comes back; for a window it comes in time."""
    waits = [
        run_virtually(beside_callers_who_queue(LocalLimiter(limits), kind, way))[2]
        for way in (hold, tick)
    ]

    assert waits[1] <= waits[0] + 1.1


def test_a_ticker_is_one_place_late_at_most():
    """Where places become free one after another."""

    async def main() -> list[int]:
        limiter, order = LocalLimiter(ONE_A_MINUTE), list[int]()

        async def ask(number: int) -> None:
            if number % 5 == 2:
                await tick(limiter, "export")
            else:
                await hold(limiter)
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(ask(number))
                await asyncio.sleep(0.1)
        return order

    order = run_virtually(main())

    assert 30 == len(order)
    assert max(order.index(number) - number for number in range(2, 30, 5)) <= 1


def test_tickers_keep_the_spacing_after_a_429():
    """Among themselves and beside those who queue, in the order they came."""

    async def main() -> list[tuple[float, int]]:
        limiter, starts = LocalLimiter(), list[tuple[float, int]]()
        async with limiter.slot("export") as permit:
            permit.throttled(0)

        async def ask(number: int) -> None:
            way = tick if number % 2 else hold
            starts.append((await way(limiter, "export"), number))

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(ask(number))
                await asyncio.sleep(0.01)
        return sorted(starts)

    starts = run_virtually(main())
    gaps = [b[0] - a[0] for a, b in pairwise(starts)]

    assert list(range(8)) == [number for _, number in starts]
    assert min(gaps) >= 15


async def abandoned_tickets(
    limiter: Limiter, kind: Kind, *, tickets: int
) -> tuple[float, float]:
    """Return until when tickets are kept that nobody comes back with; a start."""
    ends = [now()]
    first = asyncio.create_task(hold(limiter, kind))
    await asyncio.sleep(0.1)
    for _ in range(tickets):
        error = await refused(limiter, kind)
        ends.append(now() + error.seconds + KEPT_FOR)
    start = await hold(limiter, kind)
    await first

    return max(ends), start


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("export", ONE_A_MINUTE),
        ("poll", ALONE),
        ("poll", Limits(polls=Rate(1, per=5), in_flight=9)),
    ],
)
@pytest.mark.parametrize("tickets", [1, 7])
def test_an_owner_who_never_comes_back_holds_up_nobody_for_longer_than_its_lease(
    kind: Kind, limits: Limits, tickets: int
):
    """However many they are, their leases end at the same time."""
    end, start = run_virtually(
        abandoned_tickets(LocalLimiter(limits), kind, tickets=tickets)
    )

    assert 0.5 < start <= end + 5.01


def test_those_who_queue_leave_a_ticket_one_place_and_take_the_others():
    """Nobody waits for a ticket where there is room for both."""

    async def main() -> list[float]:
        limiter = LocalLimiter(Limits(in_flight=2, exports=(), polls=None))
        running = [asyncio.create_task(hold(limiter, "poll", 1.0)) for _ in range(2)]
        await asyncio.sleep(0.5)
        ticket = (await refused(limiter, "poll")).ticket
        async with asyncio.TaskGroup() as group:
            queued = [
                group.create_task(hold(limiter, "poll", seconds=0.2)) for _ in range(2)
            ]
            await asyncio.sleep(1)
            ticked = await tried(limiter, "poll", ticket, 0.0)
        await asyncio.gather(*running)
        return [ticked, *(task.result() for task in queued)]

    assert pytest.approx([1.5, 1.0, 1.2], abs=0.01) == run_virtually(main())


def test_a_try_gives_way_to_no_other_task():
    """It is over in one step of the event loop, granted or not."""

    async def main() -> tuple[Permit, float]:
        limiter = LocalLimiter(Limits(exports=Rate(1, per=60)))
        with pytest.raises(StopIteration) as granted:
            limiter.try_slot("export").__aenter__().__await__().__next__()
        for kind in ("export", "poll", "poll", "poll", "poll"):
            with pytest.raises((StopIteration, QuotaWaitError)):
                limiter.try_slot(kind).__aenter__().__await__().__next__()  # type: ignore[arg-type]
        return granted.value.value, now()

    permit, time = run_virtually(main())

    assert isinstance(permit, Permit)
    assert 0.0 == time


def test_the_ticket_says_when_its_turn_is():
    """For a window exactly, as far as the requests ahead let one know."""

    async def main() -> tuple[float, float]:
        limiter = LocalLimiter(ONE_A_MINUTE)
        await hold(limiter, seconds=0.0)
        error = await refused(limiter)
        await asyncio.sleep(error.seconds)
        start = await tried(limiter, "export", error.ticket)
        return error.seconds, start

    seconds, start = run_virtually(main())

    assert pytest.approx(60.06, abs=0.01) == seconds
    assert pytest.approx(60.06, abs=0.01) == start


@pytest.mark.parametrize("kind", ["export", "poll", "file"])
def test_a_pause_is_no_wait(kind: Kind):
    """Its end is told, and the place is kept."""

    async def main() -> tuple[float, str | None, float]:
        limiter = LocalLimiter()
        async with limiter.slot("file") as permit:
            permit.throttled(40)
        error = await refused(limiter, kind)
        await asyncio.sleep(error.seconds)
        return error.seconds, error.ticket, await tried(limiter, kind, error.ticket)

    seconds, ticket, start = run_virtually(main())

    assert pytest.approx([40.0, 40.0], abs=0.01) == [seconds, start]
    assert ticket


def test_polls_keep_their_pace_after_a_pause():
    """Tickets that the pace had admitted before do not start together after it."""

    async def main() -> list[float]:
        limiter = LocalLimiter(Limits(in_flight=9))
        holding = [asyncio.create_task(hold(limiter, "file", 20)) for _ in range(9)]
        await asyncio.sleep(0)
        polls = [asyncio.create_task(tick(limiter, "poll")) for _ in range(9)]
        await asyncio.sleep(19)
        refusal = Refusal(kind="file", sent_at=0.0, at=now(), retry_after=30)
        limiter._state.pace = limiter._state.pace.refused(refusal)
        starts = await asyncio.gather(*polls)
        await asyncio.gather(*holding)
        return sorted(starts)

    starts = run_virtually(main())

    assert starts[0] >= 49
    assert most_in_any(starts, 1.0 - 1e-3) <= 6


def test_a_try_that_is_refused_uses_up_no_pace():
    """However often it is made, the others keep theirs."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(in_flight=1, polls=Rate(3, per=1)))
        async with limiter.slot("file"):
            ticket = (await refused(limiter, "poll")).ticket
            for _ in range(100):
                await refused(limiter, "poll", ticket)
        await tried(limiter, "poll", ticket)
        await tried(limiter, "poll")
        return await tried(limiter, "poll")

    assert 0.0 == run_virtually(main())


@pytest.mark.parametrize("text", GARBAGE)
def test_a_text_that_is_no_ticket_is_as_none(text: str):
    """The caller gets a new place at the end, under a name of ours."""

    async def main() -> tuple[str | None, float]:
        limiter = LocalLimiter(ALONE)
        async with limiter.slot("poll"):
            first = await refused(limiter, "poll")
            garbage = await refused(limiter, "poll", text)
        with pytest.raises(QuotaWaitError):
            await tried(limiter, "poll", garbage.ticket)
        await tried(limiter, "poll", first.ticket)
        await tried(limiter, "poll", garbage.ticket)
        return garbage.ticket, await tried(limiter, "poll", text)

    ticket, start = run_virtually(main())

    assert text != ticket
    assert 0.0 == start


def test_a_ticket_that_is_over_has_the_last_place():
    """Its lease has ended, or it was used."""

    async def main() -> None:
        limiter = LocalLimiter(ALONE)
        async with limiter.slot("poll"):
            early = await refused(limiter, "poll")
            await asyncio.sleep(early.seconds + KEPT_FOR)
            late = await refused(limiter, "poll")
            again = await refused(limiter, "poll", early.ticket)
        await refused(limiter, "poll", again.ticket)
        await tried(limiter, "poll", late.ticket)
        new = await refused(limiter, "poll", late.ticket)
        await tried(limiter, "poll", again.ticket)
        await tried(limiter, "poll", new.ticket)

    run_virtually(main())


def test_a_ticket_for_another_kind_leaves_nothing_behind():
    """The place in the windows is given up by whoever asks for something else."""

    async def main() -> float:
        limiter = LocalLimiter(ONE_A_MINUTE)
        await hold(limiter)
        ticket = (await refused(limiter)).ticket
        await tried(limiter, "poll", ticket)
        return await hold(limiter)

    assert pytest.approx(60.56, abs=0.01) == run_virtually(main())


def test_an_error_inside_leaves_no_place_taken():
    """A slot is released a moment later, as always; and the ticket is over."""

    async def main() -> float:
        limiter = LocalLimiter(Limits(in_flight=1, release_delay=1.0))
        async with limiter.slot("file"):
            ticket = (await refused(limiter, "file")).ticket
        with pytest.raises(KeyError, match="mine"):
            async with limiter.try_slot("file", ticket=ticket):
                raise KeyError("mine")
        start = await hold(limiter, "file")
        assert 0 == limiter.statistics()["in_flight"]
        return start

    assert pytest.approx(1.0, abs=0.01) == run_virtually(main())


def test_a_ticket_counts_when_a_wait_is_foretold():
    """For those who queue: by `max_wait`, and by the starts to expect."""

    async def main() -> tuple[float, float]:
        limiter = LocalLimiter(Limits(exports=Rate(1, per=60), max_wait=90))
        await hold(limiter, seconds=0)
        ticket = (await refused(limiter)).ticket
        foretold = limiter.expected_starts(1)[0]
        with pytest.raises(QuotaWaitError) as caught:
            await hold(limiter)
        assert caught.value.ticket is None
        assert await refused(limiter, "export", ticket)
        return foretold, caught.value.seconds

    assert pytest.approx((121.1, 121.1), abs=0.1) == run_virtually(main())


def test_statistics_count_what_was_granted():
    """A try that is refused has not waited."""

    async def main() -> dict[str, float]:
        limiter = LocalLimiter(ALONE)
        async with limiter.try_slot("poll"):
            await refused(limiter, "poll")
            return dict(limiter.statistics())

    found = run_virtually(main())

    assert (1, 1, 0, 0) == tuple(
        found[name] for name in ("started", "in_flight", "waiting", "waited")
    )


def test_the_next_limiter_of_the_app_knows_the_tickets():
    """Each try may run in an event loop, and with a client, of its own."""
    state = LimiterState()

    async def ask(ticket: str | None = None) -> QuotaWaitError:
        return await refused(LocalLimiter(ONE_A_MINUTE, state=state), "export", ticket)

    asyncio.run(hold(LocalLimiter(ONE_A_MINUTE, state=state), seconds=0))
    first, second = asyncio.run(ask()), asyncio.run(ask())
    again = asyncio.run(ask(first.ticket))

    assert first.ticket == again.ticket != second.ticket
    assert again.seconds <= first.seconds
    assert 2 == len(state.window_tickets)
    assert state.newest > max(state.ends)


def test_threads_that_try_and_threads_that_wait_never_exceed_a_limit():
    """Two event loops with tickers, two with callers who queue; none is left out."""
    limits = Limits(in_flight=2, exports=(), polls=None, release_delay=0)
    limiter, mutex, seen, running = LocalLimiter(limits), threading.Lock(), [0], 0

    async def run(slot: Callable[[], Awaitable[None]]) -> None:
        await asyncio.gather(*(slot() for _ in range(10)))

    def enter(by: int) -> None:
        nonlocal running
        with mutex:
            running += by
            seen.append(running)

    async def hold_one() -> None:
        async with limiter.slot("file"):
            enter(+1)
            await asyncio.sleep(0.001)
            enter(-1)

    async def try_one() -> None:
        ticket, is_over = None, False
        while not is_over:
            try:
                async with limiter.try_slot("file", ticket=ticket):
                    is_over = True
                    enter(+1)
                    await asyncio.sleep(0.001)
                    enter(-1)
            except QuotaWaitError as error:
                ticket = error.ticket
                await asyncio.sleep(0.002)

    threads = [
        threading.Thread(target=asyncio.run, args=[run(way)])
        for way in (hold_one, try_one) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)

    assert 2 == max(seen)
    assert 40 == limiter.statistics()["started"]
    assert {} == limiter._state.slot_tickets


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_waits_for_no_ticket_of_its_parent():
    """Whose owner comes back to the parent; nor for a lock that a thread held."""
    limiter = LocalLimiter(ALONE)

    async def draw() -> None:
        async with limiter.slot("file"):
            await refused(limiter, "file")

    asyncio.run(draw())
    locks = limiter._slot_line._mutex, limiter._window_line._mutex
    for lock in locks:
        lock.acquire()
    try:
        status = in_child(
            lambda: asyncio.run(asyncio.wait_for(hold(limiter, "file", 0), 20))
        )
    finally:
        for lock in locks:
            lock.release()

    assert 0 == status
    assert 1 == len(limiter._state.slot_tickets)


class Own(Limiter):
    """A limiter with one method, which is left in any case."""

    def __init__(self, error: Exception | None = None) -> None:
        self._one = asyncio.Semaphore(1)
        self._error = error
        self.inside = 0

    @asynccontextmanager
    async def slot(self, kind: Kind) -> AsyncIterator[Permit]:
        """Wait for the others."""
        self.inside += 1
        try:
            if self._error:
                raise self._error
            async with self._one:
                yield Permit()
        finally:
            self.inside -= 1


def test_a_limiter_with_one_method_can_be_tried():
    """It gives up after a second, and leaves the slot."""

    async def main() -> tuple[QuotaWaitError, float, float]:
        limiter = Own()
        async with limiter.slot("export"):
            error = await refused(limiter)
            gave_up_at = now()
            assert 1 == limiter.inside
        async with limiter.try_slot("export", ticket=error.ticket):
            assert 1 == limiter.inside
        with pytest.raises(KeyError):
            async with limiter.try_slot("export"):
                raise KeyError
        assert 0 == limiter.inside
        await asyncio.sleep(5)
        return error, gave_up_at, await hold(limiter)

    error, gave_up_at, start = run_virtually(main())

    assert (None, 1.0, 6.0) == (error.ticket, gave_up_at, start)
    assert error.seconds >= 1


@pytest.mark.parametrize(
    "error", [QuotaWaitError("far away", seconds=90), TimeoutError("its own")]
)
def test_an_error_of_a_limiter_with_one_method_comes_out_as_it_is(error: Exception):
    """Its own refusal, and a timeout that is not ours."""

    async def main() -> None:
        async with Own(error).try_slot("poll"):
            pass

    with pytest.raises(type(error)) as caught:
        run_virtually(main())

    assert error is caught.value


def test_the_ticket_of_an_error_is_pickled():
    """It comes back from a worker with the error."""
    error = QuotaWaitError("later", seconds=1.5, ticket="abc")
    copy = pickle.loads(pickle.dumps(error))

    assert (1.5, "abc", "later") == (copy.seconds, copy.ticket, copy.message)
    assert QuotaWaitError("later", seconds=1.5).ticket is None
