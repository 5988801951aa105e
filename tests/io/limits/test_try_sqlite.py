"""Asking without waiting, with a ticket in the file that any process may show."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async._io.limits.tickets import KEPT_FOR
from amplitude_cohorts_async.errors import (
    ConfigurationError,
    LimiterUnavailableError,
    QuotaWaitError,
)
from amplitude_cohorts_async.limiters import Kind, Limiter, SqliteLimiter
from amplitude_cohorts_async.limits import Limits, Rate
from amplitude_cohorts_async.testing import FakeClock
from support.cancelling import WAYS, Way

pytestmark = pytest.mark.slow

ONE = Limits(exports=Rate(1, per=0.2), polls=None, clock_margin=0.0, release_delay=0.0)
ALONE = Limits(in_flight=1, exports=(), polls=None, release_delay=0.0)
GARBAGE = ["", "x", "F" * 32, "\ud800" * 32, "' OR 1=1 --", "\0", "0" * 100_000]

Made = Callable[[Limits], SqliteLimiter]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "limits.db"


@pytest.fixture
async def made(path: Path) -> AsyncGenerator[Made]:
    """Makes limiters on the file, each as if it were another process."""
    limiters: list[SqliteLimiter] = []

    def make(limits: Limits) -> SqliteLimiter:
        limiters.append(SqliteLimiter(path, app="app", limits=limits))
        return limiters[-1]

    yield make
    for limiter in limiters:
        await limiter.aclose()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What is in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def drawn(path: Path, tickets: int) -> None:
    """Wait until there are so many tickets in the file."""
    while len(rows(path, "SELECT * FROM ticket")) < tickets:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def refused(
    limiter: Limiter, kind: Kind, ticket: str | None = None
) -> QuotaWaitError:
    """Try in vain."""
    with pytest.raises(QuotaWaitError) as caught:
        await tried(limiter, kind, ticket)

    return caught.value


async def tried(limiter: Limiter, kind: Kind, ticket: str | None = None) -> None:
    """Hold a slot if there is one."""
    async with limiter.try_slot(kind, ticket=ticket):
        pass


@asynccontextmanager
async def another(path: Path, limits: Limits) -> AsyncGenerator[SqliteLimiter]:
    """A limiter on the file for one try, as that of `asyncio.run()` for one tick."""
    async with aclosing(SqliteLimiter(path, app="app", limits=limits)) as limiter:
        yield limiter


async def tick(path: Path, limits: Limits, kind: Kind, seconds: float = 0.0) -> None:
    """Come back at each due time, with a limiter of its own each time."""
    ticket = None

    while True:
        try:
            async with (
                another(path, limits) as limiter,
                limiter.try_slot(kind, ticket=ticket),
            ):
                await asyncio.sleep(seconds)
                return
        except QuotaWaitError as error:
            ticket = error.ticket
            await asyncio.sleep(error.seconds)


@pytest.mark.parametrize(("kind", "limits"), [("export", ONE), ("poll", ALONE)])
async def test_a_ticker_beside_callers_who_queue_is_admitted_in_its_order(
    path: Path, made: Made, kind: Kind, limits: Limits
):
    """Among callers of two other processes that ask again and again."""
    order: list[str] = []

    async def queue(limiter: SqliteLimiter, name: str) -> None:
        while "ticked" not in order:
            async with limiter.slot(kind):
                order.append(name)
                await asyncio.sleep(0.02)

    async def come_back() -> None:
        async with asyncio.timeout(250):
            await tick(path, limits, kind)
        order.append("ticked")

    one, two = made(limits), made(limits)
    await tried(one, "other")
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(queue((one, two)[number % 2], f"q{number}"))
        await drawn(path, 3)
        before = len(order)
        await come_back()
        started = len(order)

    # Four are ahead of it; one of them may have asked again before it.
    assert started - before - 1 <= 4 + 1


async def test_tickers_of_any_process_keep_their_order(path: Path, made: Made):
    """Each try is made by another one."""
    order: list[int] = []

    async def ask(number: int) -> None:
        await tick(path, ONE, "export")
        order.append(number)

    await tried(made(ONE), "export")
    async with asyncio.timeout(250), asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(ask(number))
            await drawn(path, number + 1)

    assert [0, 1, 2, 3, 4] == order
    assert [] == rows(path, "SELECT * FROM ticket")


@pytest.mark.parametrize("kind", ["export", "file"])
async def test_an_owner_who_never_comes_back_holds_up_nobody_for_longer_than_its_lease(
    path: Path, kind: Kind
):
    """Who queues starts when the lease is over, and not before."""
    clock = FakeClock()
    limits = attrs.evolve(ALONE, exports=Rate(1, per=60))

    async with aclosing(
        SqliteLimiter(path, app="app", limits=limits, clock=clock)
    ) as limiter:
        async with limiter.slot(kind):
            # The slot renews its lease, so that time may jump while the file is asked.
            earliest = clock.now()
            error = await refused(limiter, kind)
            latest = clock.now()
        async with limiter.slot(kind):
            start = clock.now() - error.seconds - KEPT_FOR

    assert earliest - 1 <= start <= latest + 5


async def test_a_ticket_outlives_the_process_that_drew_it(path: Path, made: Made):
    """It is nobody's: neither shown, nor gone with anybody."""
    waiting = made(ALONE)
    async with made(ALONE).slot("file"):
        async with another(path, ALONE) as first:
            ticket = (await refused(first, "file")).ticket
        queued = asyncio.create_task(hold(waiting))
        await drawn(path, 2)
    await asyncio.sleep(0.5)
    assert not queued.done()

    async with another(path, ALONE) as second:
        await tried(second, "file", ticket)
    async with asyncio.timeout(20):
        await queued


async def hold(limiter: SqliteLimiter) -> None:
    """Wait for a slot for a file."""
    async with limiter.slot("file"):
        pass


async def test_a_process_may_be_no_owner_of_a_ticket(path: Path, made: Made):
    """What is no ticket is as none, also the name of an owner in the file."""
    limiter = made(ALONE)
    async with made(ALONE).slot("file"):
        waiting = asyncio.create_task(hold(limiter))
        await drawn(path, 1)
        ((owner,),) = rows(path, "SELECT owner FROM ticket")
        for text in [*GARBAGE, str(owner)]:
            error = await refused(limiter, "file", text)
            assert text != error.ticket
        owners = rows(path, "SELECT DISTINCT owner FROM ticket")
    await waiting

    assert len(GARBAGE) + 2 == len(owners)


async def test_a_ticket_that_is_over_has_the_last_place(path: Path):
    """Its lease has ended: another's is ahead of it."""
    clock = FakeClock()

    async with aclosing(
        SqliteLimiter(path, app="app", limits=ALONE, clock=clock)
    ) as limiter:
        async with limiter.slot("file"):
            early = await refused(limiter, "file")
            clock.advance(early.seconds + KEPT_FOR)
            late = await refused(limiter, "file")
            again = await refused(limiter, "file", early.ticket)
        await refused(limiter, "file", again.ticket)
        await tried(limiter, "file", late.ticket)
        await tried(limiter, "file", again.ticket)

    assert [] == rows(path, "SELECT * FROM ticket")


async def test_apps_of_one_file_do_not_know_each_others_tickets(path: Path):
    """A ticket names a place in the lines of one app."""
    clock = FakeClock()

    async with (
        aclosing(SqliteLimiter(path, app="a", limits=ALONE, clock=clock)) as one,
        aclosing(SqliteLimiter(path, app="b", limits=ALONE, clock=clock)) as two,
    ):
        async with one.slot("file"):
            ticket = (await refused(one, "file")).ticket
            await tried(two, "file", ticket)
        await refused(one, "file")
        await tried(one, "file", ticket)


async def test_a_ticket_for_another_kind_leaves_nothing_behind(path: Path):
    """Nobody waits for a place that its owner no longer wants."""
    clock = FakeClock()
    limits = attrs.evolve(ALONE, exports=Rate(1, per=60))

    async with aclosing(
        SqliteLimiter(path, app="app", limits=limits, clock=clock)
    ) as limiter:
        await tried(limiter, "export")
        ticket = (await refused(limiter, "export")).ticket
        await tried(limiter, "file", ticket)

    assert [] == rows(path, "SELECT * FROM ticket")


async def test_a_pause_is_no_wait(path: Path):
    """Its end is told, and each kind has its ticket."""
    clock = FakeClock()

    async with aclosing(
        SqliteLimiter(path, app="app", limits=ALONE, clock=clock)
    ) as limiter:
        async with limiter.slot("file") as permit:
            permit.throttled(40)
        errors = [await refused(limiter, kind) for kind in ("export", "file")]
        assert 0.0 == clock.now()
        clock.advance(41)
        poll = await refused(limiter, "poll")
        await tried(limiter, "file", errors[1].ticket)
        await tried(limiter, "poll", poll.ticket)
        await tried(limiter, "export", errors[0].ticket)

    assert [40.0, 40.0] == [pytest.approx(e.seconds, abs=0.01) for e in errors]


async def test_polls_do_not_wait_for_their_pace(path: Path, made: Made):
    """Neither in the bucket of this process, nor after a pause."""
    limiter = made(attrs.evolve(ALONE, polls=Rate(2, per=600)))
    for _ in range(2):
        await tried(limiter, "poll")

    async with asyncio.timeout(250):
        error = await refused(limiter, "poll")

    assert 80 < error.seconds < 301
    assert error.ticket


async def test_a_pause_gives_a_poll_its_place_in_the_pace_back(path: Path, made: Made):
    """And none in flight, which files would have to leave it."""
    limiter = made(attrs.evolve(ALONE, polls=Rate(3, per=1)))
    async with limiter.slot("file"):
        ticket = (await refused(limiter, "poll")).ticket
        assert 1 == len(rows(path, "SELECT * FROM ticket"))
    async with limiter.try_slot("poll", ticket=ticket) as permit:
        permit.throttled(0.3)
    error = await refused(limiter, "poll")

    assert 0 < error.seconds < 0.4
    assert [] == rows(path, "SELECT * FROM ticket")
    await asyncio.sleep(error.seconds)
    async with asyncio.timeout(250):
        await tried(limiter, "poll", error.ticket)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("has_ticket", [False, True])
async def test_a_try_may_be_cancelled_anywhere(
    path: Path, made: Made, way: Way, has_ticket: bool
):
    """No place is left taken, and no ticket that nobody knows."""
    limiter = made(ALONE)

    async def ask(ticket: str | None) -> None:
        async with limiter.try_slot("file", ticket=ticket):
            await asyncio.sleep(0.001)

    for step in range(1, 30):
        ticket = None
        if has_ticket:
            async with limiter.slot("file"):
                ticket = (await refused(limiter, "file")).ticket
        ended = await way(ask(ticket), step)
        assert [] == rows(path, "SELECT * FROM place WHERE state = 'running'")
        left = {owner for (owner,) in rows(path, "SELECT owner FROM ticket")}
        assert left <= {ticket}
        if ended:
            break
        await limiter._database.run(lambda c: c.execute("DELETE FROM ticket"))

    assert ended
    assert step > 2
    counts = limiter.statistics()
    assert (0, 0) == (counts["in_flight"], counts["waiting"])


@pytest.mark.parametrize("way", WAYS)
async def test_a_try_in_vain_may_be_cancelled_anywhere(
    path: Path, made: Made, way: Way
):
    """The caller has not heard of the new ticket: it holds up nobody."""
    limiter = made(ALONE)

    async def ask() -> None:
        try:
            await tried(limiter, "file")
        except QuotaWaitError as error:
            heard.append(error.ticket)

    async with limiter.slot("file"):
        for step in range(1, 30):
            heard: list[str | None] = []
            ended = await way(ask(), step)
            owners = rows(path, "SELECT owner FROM ticket")
            assert [(ticket,) for ticket in heard] == owners
            if ended:
                break
            await limiter._database.run(lambda c: c.execute("DELETE FROM ticket"))

    assert ended
    assert step > 1


async def test_a_file_that_cannot_be_used_is_no_refusal(path: Path, made: Made):
    """It is unknown whether a slot is free; and no ticket is made up."""
    limiter = made(ALONE)
    database = limiter._database
    database.options = attrs.evolve(database.options, busy_seconds=0.05)
    await tried(limiter, "file")

    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LimiterUnavailableError):
            await tried(limiter, "file")
    await tried(limiter, "file")

    with pytest.raises(ConfigurationError, match="does not know its app"):
        await tried(SqliteLimiter(path), "file")
