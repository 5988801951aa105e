"""The limiter on a file: what goes wrong with files, processes and clocks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, closing
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._io.limits import admission, ledger, sqlite
from amplitude_cohorts_async._io.limits.sqlite import BootClock
from amplitude_cohorts_async.errors import ConfigurationError, LimiterUnavailableError
from amplitude_cohorts_async.limiters import Clock, Kind, SqliteLimiter
from amplitude_cohorts_async.limits import DOCUMENTED, Limits, Rate
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY
from support.holder import ALONE, holder
from support.stepping import Stepped

pytestmark = pytest.mark.slow

QUICK = Limits(
    exports=Rate(4, per=0.5), polls=None, clock_margin=0.01, release_delay=0.1
)
ONE_A_MINUTE = Limits(exports=Rate(1, per=60.0), clock_margin=0.0)
NOVEMBER = datetime(2026, 12, 8, tzinfo=UTC)
JANUARY = datetime(2027, 2, 8, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "limits.db"


@pytest.fixture
async def limiter(path: Path) -> AsyncGenerator[SqliteLimiter]:
    """A limiter on that file, which waits only a moment for others."""
    limiter = SqliteLimiter(path, app="app", limits=QUICK, lease=1.0)
    database = limiter._database
    database.options = attrs.evolve(database.options, busy_seconds=0.05)
    yield limiter
    await limiter.aclose()
    await limiter.aclose()


async def hold(
    limiter: SqliteLimiter, kind: Kind = "export", seconds: float = 0.0
) -> float:
    """Hold a slot for so long; tell when it began, on the limiter's clock."""
    async with limiter.slot(kind):
        start = limiter._clock.now()
        await limiter._clock.sleep(seconds)

    return start


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What is in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def drawn(path: Path, tickets: int) -> None:
    """Wait until there are so many tickets in the file."""
    while len(rows(path, "SELECT * FROM ticket")) < tickets:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_who_came_first_starts_first(path: Path):
    """Whichever process it is of."""
    limits = attrs.evolve(QUICK, exports=Rate(1, per=0.3))
    order: list[int] = []

    async def ask(limiter: SqliteLimiter, number: int) -> None:
        async with limiter.slot("export"):
            order.append(number)

    async with (
        aclosing(SqliteLimiter(path, app="app", limits=limits)) as one,
        aclosing(SqliteLimiter(path, app="app", limits=limits)) as two,
    ):
        await hold(one)
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(ask((one, two)[number % 2], number)))
            await drawn(path, number + 1)
        await asyncio.gather(*tasks)

    assert [0, 1, 2, 3, 4] == order


async def test_apps_share_a_file_and_no_places(path: Path):
    """A file serves any number of them."""
    clock = FakeClock()

    async with (
        aclosing(SqliteLimiter(path, app="a", limits=ONE_A_MINUTE, clock=clock)) as one,
        aclosing(SqliteLimiter(path, app="b", limits=ONE_A_MINUTE, clock=clock)) as two,
    ):
        starts = [await hold(one), await hold(two)]

    assert [0.0, 0.0] == starts


async def started(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, boot: str
) -> float:
    """When the next export starts, in this run of the machine."""
    monkeypatch.setattr(sqlite, "this_boot", lambda: boot)
    limiter = SqliteLimiter(
        path, app="app", limits=ONE_A_MINUTE, lease=300, clock=clock
    )

    async with aclosing(limiter):
        return await hold(limiter)


@pytest.mark.parametrize(
    ("boot", "again", "earliest"),
    [
        ("first", 1_010.0, 1_060.0),
        ("first", 5_000.0, 5_000.0),
        ("second", 5.0, 65.0),
        ("second", 5_000.0, 5_060.0),
        ("first", 5.0, 65.0),
        ("", 5.0, 65.0),
    ],
    ids=["same", "later", "reboot", "long after", "clock went back", "no name"],
)
async def test_what_was_recent_before_a_reboot_is_waited_out(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    boot: str,
    again: float,
    earliest: float,
):
    """How long the machine was off is not known: the window begins again."""
    first = boot and "first"
    before = await started(path, FakeClock(start=1_000.0), monkeypatch, boot=first)
    after = await started(path, FakeClock(start=again), monkeypatch, boot=boot)

    assert 1_000.0 == before
    assert earliest <= after < earliest + 5


async def test_a_change_of_the_date_moves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Forward or back: times are those since the machine was started."""
    limits = attrs.evolve(QUICK, exports=Rate(1, per=0.4))
    real = time.time

    async with aclosing(SqliteLimiter(path, app="app", limits=limits)) as limiter:
        starts = [await hold(limiter)]
        for jump in (86_400, -86_400):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            starts.append(await hold(limiter))

    assert 0.4 <= starts[1] - starts[0] < 10
    assert 0.4 <= starts[2] - starts[1] < 10


def test_the_clock_runs_on_while_the_machine_sleeps():
    """Where the system has one that does."""
    assert pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5) == (
        BootClock().now()
    )


class Asleep(BootClock):
    """A clock that jumps when the machine has slept."""

    slept = 0.0

    def now(self) -> float:
        """The time, sleep included."""
        return super().now() + self.slept


async def test_a_machine_that_slept_beyond_the_lease_has_lost_its_place(path: Path):
    """The request is cancelled: it may have taken effect."""
    clock = Asleep()

    async with aclosing(
        SqliteLimiter(path, app="app", limits=QUICK, lease=2.0, clock=clock)
    ) as limiter:
        with pytest.raises(LimiterUnavailableError, match="taken effect") as caught:
            async with limiter.slot("file"):
                clock.slept = 10.0
                await asyncio.sleep(10)

    assert caught.value.may_have_happened


async def test_nothing_is_sent_while_the_file_is_locked(
    path: Path, limiter: SqliteLimiter
):
    """The error names the file and says that nothing was sent; then all is well."""
    await hold(limiter, "poll")

    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            LimiterUnavailableError, match=r"limits\.db is locked.*nothing was sent"
        ) as caught:
            await hold(limiter, "poll")

    assert not caught.value.may_have_happened
    await hold(limiter, "poll")


async def test_who_cannot_renew_stops_before_its_lease_ends(
    path: Path, limiter: SqliteLimiter
):
    """When the request is cancelled, nobody can have its place yet."""
    with (
        closing(sqlite3.connect(path)) as other,
        pytest.raises(LimiterUnavailableError) as caught,
    ):
        async with limiter.slot("file"):
            other.execute("BEGIN IMMEDIATE")
            try:
                await asyncio.sleep(10)
            finally:
                stopped = limiter._clock.now()
                ((until,),) = other.execute("SELECT until FROM place").fetchall()

    assert caught.value.may_have_happened
    assert stopped < until


async def test_an_end_that_cannot_be_noted_does_no_harm(
    path: Path, limiter: SqliteLimiter
):
    """The answer is not thrown away; the place is free when the lease is over."""
    with closing(sqlite3.connect(path)) as other:
        async with limiter.slot("file"):
            other.execute("BEGIN IMMEDIATE")

    assert 0 == limiter.statistics()["in_flight"]
    assert [("running",)] == rows(path, "SELECT state FROM place")


async def test_nothing_is_sent_while_the_disk_is_full(limiter: SqliteLimiter):
    """A place that cannot be noted is not taken."""
    await hold(limiter, "poll")
    await limiter._database.run(lambda c: c.execute("PRAGMA max_page_count = 1"))

    with pytest.raises(LimiterUnavailableError, match="the disk is full"):
        for number in range(1_000):
            await limiter.counter.add(f"{number}", 1, until=NOVEMBER)


async def test_nothing_is_sent_where_the_file_cannot_be_written(
    limiter: SqliteLimiter,
):
    """As on a disk that was mounted read only after an error."""
    await hold(limiter, "poll")
    await limiter._database.run(lambda c: c.execute("PRAGMA query_only = ON"))

    with pytest.raises(LimiterUnavailableError, match="cannot be written"):
        await hold(limiter, "poll")


async def test_a_path_that_cannot_be_made_is_a_mistake(tmp_path: Path):
    """As is a file of another program."""
    (tmp_path / "notes.db").write_text("dear diary, " * 100)

    for name in ("absent/limits.db", "notes.db", ""):
        limiter = SqliteLimiter(tmp_path / name, app="app")
        with pytest.raises(ConfigurationError, match="the limiter's file"):
            await hold(limiter)
        await limiter.aclose()


async def test_a_file_that_was_replaced_is_waited_out(
    path: Path, caplog: pytest.LogCaptureFixture
):
    """It may have forgotten requests that run, and windows that are full."""
    clock = FakeClock()

    async with aclosing(
        SqliteLimiter(path, app="app", limits=ONE_A_MINUTE, lease=12, clock=clock)
    ) as limiter:
        await hold(limiter)
        for each in path.parent.iterdir():
            each.unlink()
        start = await hold(limiter)

    # A lease, its sixth, and a window.
    assert 74 <= start < 80
    assert ["the limiter's file was replaced; waiting"] == caplog.messages


async def test_a_killed_process_gives_its_place_back(path: Path):
    """When its lease is over, and not before."""
    async with holder(path, lease=1.0) as other:
        assert ["asks", "holds"] == [await other.says(), await other.says()]
        ((until,),) = rows(path, "SELECT until FROM place WHERE state = 'running'")
        other.process.kill()

        async with aclosing(SqliteLimiter(path, app="app", limits=ALONE)) as limiter:
            start = await asyncio.wait_for(hold(limiter, "file"), 20)

    assert start >= until


async def test_a_killed_process_leaves_the_line_at_once(path: Path):
    """Its ticket holds nothing that the service may go on with."""
    async with (
        aclosing(SqliteLimiter(path, app="app", limits=ALONE)) as limiter,
        holder(path, lease=30) as other,
    ):
        async with limiter.slot("file"):
            await drawn(path, 1)
            other.process.kill()
            await other.process.wait()
            waiting = asyncio.create_task(hold(limiter, "file"))
            (killed,) = rows(path, "SELECT owner FROM ticket")
            while killed in rows(path, "SELECT owner FROM ticket"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await waiting

    assert [] == rows(path, "SELECT * FROM ticket")


@pytest.mark.posix
async def test_a_frozen_process_is_passed_over_in_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its ticket counts only as long as it is shown."""
    monkeypatch.setattr(ledger, "PASSED_OVER", 1.5)

    async with (
        aclosing(SqliteLimiter(path, app="app", limits=ALONE)) as limiter,
        holder(path, lease=30) as other,
    ):
        async with limiter.slot("file"):
            await drawn(path, 1)
            other.process.send_signal(signal.SIGSTOP)
            waiting = asyncio.create_task(hold(limiter, "file"))
            await drawn(path, 2)
        await asyncio.wait_for(waiting, 20)
        other.process.send_signal(signal.SIGCONT)
        said = [await other.says(), await other.says()]

    assert ["asks", "holds"] == said


@pytest.mark.posix
async def test_a_frozen_process_notices_that_its_place_is_lost(path: Path):
    """It wakes up when another one has it: its request is cancelled at once."""
    async with holder(path, lease=1.0) as other:
        assert ["asks", "holds"] == [await other.says(), await other.says()]
        other.process.send_signal(signal.SIGSTOP)

        async with (
            aclosing(SqliteLimiter(path, app="app", limits=ALONE)) as limiter,
            limiter.slot("file"),
        ):
            other.process.send_signal(signal.SIGCONT)
            said = await asyncio.wait_for(other.says(), 20)

    assert "LimiterUnavailableError True" == said


async def test_a_place_that_was_overrun_counts_to_its_end(path: Path):
    """In the windows: a request that ended late was sent all the same."""
    clock = FakeClock()
    limits = ONE_A_MINUTE

    async with (
        aclosing(
            SqliteLimiter(path, app="a", limits=limits, lease=600, clock=clock)
        ) as one,
        aclosing(SqliteLimiter(path, app="a", limits=limits, clock=clock)) as two,
    ):
        async with one.slot("export"):
            await two._database.run(lambda c: c.execute("DELETE FROM place"))
            await clock.sleep(100)
        start = await hold(two)

    assert 160 <= start < 165


@pytest.mark.posix
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_keeps_the_limits_together_with_its_parent(path: Path):
    """The limiter came along, its places and its lines did not."""
    limiter = SqliteLimiter(path, app="app", limits=ALONE)
    holds, may_end = threading.Event(), threading.Event()

    async def parent() -> None:
        async with limiter.slot("file"):
            waiting = asyncio.create_task(hold(limiter, "file"))
            holds.set()
            await asyncio.to_thread(may_end.wait)
        await waiting

    async def child() -> int:
        waiting = asyncio.create_task(hold(limiter, "file"))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        os.write(told, b"waits" if not done else b"starts")
        await asyncio.wait_for(waiting, 20)
        await limiter.aclose()
        return 0

    thread = threading.Thread(target=lambda: asyncio.run(parent()))
    thread.start()
    holds.wait(10)
    heard, told = os.pipe()

    if not (pid := os.fork()):
        status = 1
        try:
            status = asyncio.run(child())
        finally:
            os._exit(status)

    said = os.read(heard, 9)
    may_end.set()
    thread.join()
    _, status = os.waitpid(pid, 0)
    os.close(heard)
    os.close(told)
    asyncio.run(limiter.aclose())

    assert (b"waits", 0) == (said, status)


async def test_two_loops_share_a_limiter(path: Path):
    """Each in a thread of its own."""
    limits = Limits(in_flight=2, exports=(), polls=None)
    limiter = SqliteLimiter(path, app="app", limits=limits)
    mutex = threading.Lock()
    seen: list[int] = []
    running = 0

    async def run() -> None:
        nonlocal running
        async with limiter.slot("file"):
            with mutex:
                running += 1
                seen.append(running)
            await asyncio.sleep(0.01)
            with mutex:
                running -= 1

    async def run_many() -> None:
        await asyncio.gather(*(run() for _ in range(10)))

    thread = threading.Thread(target=lambda: asyncio.run(run_many()))
    thread.start()
    await run_many()
    await asyncio.to_thread(thread.join)
    await limiter.aclose()

    assert (20, 2) == (len(seen), max(seen))


def test_one_limiter_serves_one_run_after_another(path: Path):
    """Made once, used in several event loops."""
    limiter = SqliteLimiter(path, app="app", limits=QUICK)

    async def run() -> None:
        await hold(limiter, "poll")
        await limiter.aclose()

    asyncio.run(run())
    asyncio.run(run())

    assert 2 == limiter.statistics()["started"]


@pytest.mark.parametrize("kind", ["export", "file", "lock"])
async def test_a_wait_may_be_cancelled_anywhere(path: Path, kind: str):
    """In line, while the file is asked, while the place is taken: nothing is left."""
    limits = attrs.evolve(
        QUICK, exports=Rate(1, per=0.02), in_flight=1, release_delay=0
    )

    stopped = 0

    async def ask(limiter: SqliteLimiter) -> None:
        lock = limiter.cohort_lock("c1")
        async with lock if kind == "lock" else limiter.slot(kind):  # type: ignore[arg-type]
            await asyncio.sleep(0.003)

    async with (
        aclosing(SqliteLimiter(path, app="app", limits=limits)) as one,
        aclosing(SqliteLimiter(path, app="app", limits=limits)) as two,
    ):
        # How often it asks before it starts is another matter each time.
        for step in range(1, 25):
            others = [asyncio.create_task(ask(who)) for who in (one, one)]
            await asyncio.sleep(0)
            stopped += await cancelled(ask(two), at=step)
            await asyncio.gather(*others)
            assert [] == rows(path, "SELECT * FROM ticket")
            assert [] == rows(path, "SELECT * FROM place WHERE state = 'running'")
        counts = two.statistics()

    assert stopped >= 4
    assert (0, 0) == (counts["in_flight"], counts["waiting"])


async def cancelled(work: Coroutine[object, object, None], *, at: int) -> bool:
    """Whether a task waited so often that it was cancelled at that wait."""

    async def run() -> None:
        await Stepped(work, at=at, act=lambda: task.cancel())  # noqa: PLW0108 - not yet

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    return task.cancelled()


async def test_the_months_counters_stay(path: Path):
    """When the file was closed as well; those of an earlier month go."""
    async with aclosing(SqliteLimiter(path, app="app")) as one:
        await one.counter.add("2026-11:*", 2, until=NOVEMBER)
    async with aclosing(SqliteLimiter(path, app="app")) as two:
        found = await two.counter.add("2026-11:*", 1, until=NOVEMBER)
        await two.counter.add("2027-01:*", 1, until=JANUARY)

    assert 3 == found
    assert [("2027-01:*", 1)] == rows(path, "SELECT name, value FROM counter")


async def test_statistics_say_what_was_learned(path: Path):
    """How many places are withheld, how far exports are spread out."""
    clock = FakeClock()
    limiter = SqliteLimiter(path, app="app", limits=DOCUMENTED, clock=clock)

    async with aclosing(limiter):
        async with limiter.slot("poll") as permit:
            permit.throttled(0.1, details="concurrent")
        async with limiter.slot("export") as permit:
            permit.throttled(0.1)
        found = limiter.statistics()

    assert (1, 15.0, 2) == (found["withheld"], found["spacing"], found["throttled"])


async def test_only_rates_that_bind_have_places(path: Path):
    """Four a minute keep sixty in ten minutes."""
    async with aclosing(SqliteLimiter(path, app="app")) as limiter:
        await hold(limiter)

    assert [("w60",)] == rows(path, "SELECT DISTINCT pool FROM place")


async def test_a_limiter_serves_one_app(path: Path):
    """The client binds it; a client of another app is refused."""
    limiter = SqliteLimiter(path)
    with pytest.raises(ConfigurationError, match="does not know its app"):
        await hold(limiter)
    limiter.bind("one")
    limiter.bind("one")

    with pytest.raises(ConfigurationError, match="another app"):
        limiter.bind("two")
    with pytest.raises(ConfigurationError, match="cannot name an app"):
        SqliteLimiter(path, app="{}")
    with pytest.raises(ConfigurationError, match="lease is"):
        SqliteLimiter(path, lease=0)


async def test_its_limits_are_its_own(path: Path):
    """A client that is given others is refused."""
    with pytest.raises(ConfigurationError, match="pass the limits to the limiter"):
        CohortsClient(
            API_KEY, SECRET_KEY, limits=DOCUMENTED, limiter=SqliteLimiter(path)
        )


@pytest.mark.posix
async def test_the_file_is_its_owners_and_tells_nothing(
    path: Path, emulator: CohortsEmulator
):
    """Neither keys nor cohorts; a hash names the app."""
    limiter = SqliteLimiter(path, clock=emulator.clock)

    async with (
        aclosing(limiter),
        CohortsClient(
            API_KEY, SECRET_KEY, base_url=emulator.base_url, limiter=limiter
        ) as client,
    ):
        await client.list_cohorts()
        async with limiter.cohort_lock("secret-cohort"):
            files = list(path.parent.iterdir())
            told = b"".join(file.read_bytes() for file in files)

    assert 3 == len(files)
    for file in path.parent.iterdir():
        assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    for secret in (API_KEY, SECRET_KEY, "secret-cohort"):
        assert secret.encode() not in told


async def test_the_order_of_lines_does_not_depend_on_who_is_frozen(path: Path):
    """A ticket that was passed over has its old number when it is shown again."""
    async with aclosing(SqliteLimiter(path, app="app", limits=ALONE)) as limiter:
        first, second = admission.Candidate("file"), admission.Candidate("file")
        async with limiter.slot("file"):
            for each in (first, second):
                await limiter._transact(
                    lambda book, each=each: limiter._rules.admit(book, each)
                )
            numbers = first.last.number, second.last.number
            await limiter._database.run(lambda c: c.execute("DELETE FROM ticket"))
            await limiter._transact(lambda book: book.show([first.last, second.last]))

        found = rows(path, "SELECT number FROM ticket ORDER BY number")

    assert [(number,) for number in numbers] == found


async def test_those_ahead_keep_a_place_each(path: Path):
    """With more of them than places a newcomer waits, though all places are free."""
    limits = attrs.evolve(QUICK, exports=Rate(2, per=0.3), in_flight=2)

    async def starts(*candidates: admission.Candidate) -> list[bool]:
        return [
            not isinstance(
                await limiter._transact(
                    lambda book, each=each: limiter._rules.admit(book, each)
                ),
                admission.Wait,
            )
            for each in candidates
        ]

    async with aclosing(SqliteLimiter(path, app="app", limits=limits)) as limiter:
        first, second, third, fourth = (admission.Candidate("export") for _ in range(4))
        assert [True, True, False, False] == await starts(first, second, third, fourth)
        await limiter._database.run(lambda c: c.execute("DELETE FROM place"))

        assert [False] == await starts(admission.Candidate("export"))
        assert [True, True] == await starts(third, fourth)


async def test_a_long_wait_is_logged_by_nobody(
    limiter: SqliteLimiter, caplog: pytest.LogCaptureFixture
):
    """Polling is silent."""
    with caplog.at_level(logging.DEBUG):
        await asyncio.gather(*(hold(limiter) for _ in range(6)))

    assert [] == [r for r in caplog.records if r.name.startswith("amplitude")]
