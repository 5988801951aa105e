"""
The limiters of a fleet, one process of it, on a real Valkey and on a real Postgres.

What they promise like every limiter is in tests/io/limits/test_conformance.py; what
only one of them has is in test_redis.py and test_postgres.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import (
    ConfigurationError,
    LimiterUnavailableError,
    MissingExtraError,
    QuotaWaitError,
)
from amplitude_cohorts_async.limiters import Limiter
from amplitude_cohorts_async.limits import DOCUMENTED, Kind, Limits, Rate
from support.canary import API_KEY, SECRET_KEY
from support.exporting import until
from support.fleet_stores import limiter_of

if TYPE_CHECKING:
    from support.fleet_stores import FleetStore

pytestmark = pytest.mark.services

QUICK = Limits(
    exports=Rate(4, per=0.5), polls=None, clock_margin=0.01, release_delay=0.1
)
LEASE = 0.6
NEXT_MONTH = datetime(2030, 1, 8, tzinfo=UTC)


@pytest.fixture
async def limiter(fleet_store: FleetStore) -> AsyncIterator[Limiter]:
    """A limiter on a store that has been in use for a while."""
    fleet_store.use()
    limiter = limiter_of(fleet_store, app="app", limits=QUICK, lease=LEASE)
    yield limiter
    await limiter.aclose()
    await limiter.aclose()


@pytest.fixture
async def patient_limiter(fleet_store: FleetStore) -> AsyncIterator[Limiter]:
    """One whose windows stay full for longer than a test takes on any machine."""
    fleet_store.use()
    limits = attrs.evolve(QUICK, exports=Rate(4, per=60))
    limiter = limiter_of(fleet_store, app="app", limits=limits, lease=LEASE)
    yield limiter
    await limiter.aclose()


async def request(
    limiter: Limiter, kind: Kind = "export", seconds: float = 0.0
) -> float:
    """Hold a slot for so long; tell when it began."""
    async with limiter.slot(kind):
        start = time.monotonic()
        await asyncio.sleep(seconds)

    return start


async def refuse(
    limiter: Limiter,
    kind: Kind = "export",
    *,
    retry_after: float | None = None,
    details: str = "",
) -> None:
    """Let one request be answered 429."""
    async with limiter.slot(kind) as permit:
        permit.throttled(retry_after, details=details)


def in_flight(store: FleetStore, app: str = "app") -> list[float]:
    """How long the places in flight stay taken that are."""
    return [left for name, left in store.taken(app).items() if name.startswith("c:")]


async def test_what_is_waited_for_is_told(patient_limiter: Limiter) -> None:
    """A full window is named to who asks why nothing happens."""
    for _ in range(4):
        await request(patient_limiter)

    waiting = asyncio.create_task(request(patient_limiter))
    await until(lambda: "window of exports" in patient_limiter.waits_for("export"))
    waiting.cancel()

    assert "a place in the window of exports, 4 in 60 s (of the whole fleet)" == (
        patient_limiter.waits_for("export")
    )
    assert "its place in line (of the whole fleet)" == patient_limiter.waits_for("poll")
    with contextlib.suppress(asyncio.CancelledError):
        await waiting


async def test_a_new_store_is_waited_out(fleet_store: FleetStore) -> None:
    """It may have lost its data: a request may be running, a window may be full."""
    started = time.monotonic()
    limiter = limiter_of(fleet_store, app="app", limits=QUICK, lease=LEASE)
    async with aclosing(limiter):
        poll, export = await asyncio.gather(
            request(limiter, "poll"), request(limiter, "export")
        )

    assert LEASE + 0.1 <= poll - started
    assert LEASE + 0.1 + 0.51 <= export - started
    # A poll does not wait for what may be left of a window.
    assert poll < export


async def test_the_store_learns_nothing_but_the_app(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """Neither a key nor the name of a cohort."""
    async with limiter.slot("export"), limiter.cohort_lock("secret-cohort"):
        told = fleet_store.dump()

    assert told
    assert not any(b"secret" in each for each in told)


async def test_every_place_has_an_end(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """A process that dies gives back what it held, when its lease is over."""
    async with limiter.slot("export"):
        left = fleet_store.taken()

    (window,) = (seconds for name, seconds in left.items() if name[:5] == "w0.5:")
    (slot,) = (seconds for name, seconds in left.items() if name[:2] == "c:")
    assert 0.3 < slot <= LEASE + 0.1
    assert slot + 0.4 < window <= LEASE + 0.1 + 0.52


async def test_a_429_for_concurrency_withholds_a_place(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """One place stays taken for ten minutes, but never the last one."""
    await refuse(limiter, "poll", details="Exceeded concurrent limit", retry_after=0.01)

    assert 1 == sum(left > 590 for left in in_flight(fleet_store))

    fleet_store.use("lone")
    lone = limiter_of(fleet_store, app="lone", limits=Limits(in_flight=1))
    async with aclosing(lone):
        await refuse(lone, "poll", details="Exceeded concurrent limit", retry_after=0.0)
        await request(lone, "poll")


async def test_a_request_that_takes_long_keeps_its_place(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """Longer than the lease, which is renewed while its process lives."""
    async with limiter.slot("file"):
        await asyncio.sleep(3 * LEASE)
        meanwhile = in_flight(fleet_store)

    assert 1 == len(meanwhile)
    assert [] == in_flight(fleet_store)


async def test_a_request_whose_place_is_lost_is_cancelled(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """Somebody else has it by now, and two would be one too many."""
    with pytest.raises(
        LimiterUnavailableError, match="may have taken effect"
    ) as caught:
        async with limiter.slot("file"):
            fleet_store.lose_places()
            await asyncio.sleep(10)

    assert caught.value.may_have_happened


async def test_a_request_whose_lease_cannot_be_renewed_stops_before_it_ends(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """The store may be there for others, who will get its place."""
    began = math.inf

    with pytest.raises(LimiterUnavailableError, match="may have taken effect"):
        async with limiter.slot("file"):
            began = time.monotonic()
            fleet_store.server.kill()
            await asyncio.sleep(10)

    # Without the two seconds in which a question may be answered.
    assert time.monotonic() - began < 10
    assert limiter.statistics()["in_flight"] == 0


async def test_a_stop_comes_as_much_earlier_as_the_service_may_need(
    fleet_store: FleetStore,
) -> None:
    """What was cancelled may still be on the way: its place is taken a while longer."""
    fleet_store.use()
    limiter = limiter_of(fleet_store, app="app", limits=QUICK, lease=2.0)
    left: list[float] = []

    async with aclosing(limiter):
        with pytest.raises(LimiterUnavailableError):
            async with limiter.slot("file"):
                (taken_for,) = in_flight(fleet_store)
                began = time.monotonic()
                fleet_store.server.kill()
                try:
                    await asyncio.sleep(10)
                finally:
                    left.append(taken_for - (time.monotonic() - began))

    # A sixth of the lease, less what a busy machine takes.
    assert left[0] > 0


async def test_cancelling_leaves_no_place_taken(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """After a hundred cancellations everything is free after the release delay."""
    for number in range(100):
        task = asyncio.create_task(request(limiter, "poll", 0.002))
        await asyncio.sleep(number / 20_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.15)

    assert [] == in_flight(fleet_store)
    assert (0, 0) == (
        limiter.statistics()["in_flight"],
        limiter.statistics()["waiting"],
    )


async def test_nothing_is_sent_while_the_store_is_away(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """LimiterUnavailableError names the store, not its password; then all is well."""
    await request(limiter, "poll")
    fleet_store.server.kill()
    with pytest.raises(
        LimiterUnavailableError, match=r"the store at 127\.0\.0\.1:"
    ) as caught:
        await request(limiter, "poll")
    fleet_store.server.start()
    await request(limiter, "poll")

    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}"


async def test_a_request_that_runs_while_the_store_goes_ends_well(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """Its answer is not thrown away; its place runs out by itself."""
    async with limiter.slot("poll"):
        fleet_store.server.kill()

    assert 1 == limiter.statistics()["started"]


async def test_a_password_is_never_shown(fleet_store: FleetStore) -> None:
    """Neither in the repr nor in an error."""
    url = f"{fleet_store.scheme}://me:hunter2@127.0.0.1:1/0"
    limiter = limiter_of(fleet_store, url=url, app="app")

    with pytest.raises(LimiterUnavailableError) as caught:
        await request(limiter, "poll")
    await limiter.aclose()

    assert "hunter2" not in f"{limiter!r}{caught.value!r}{caught.value.__cause__!r}"


async def test_an_outage_can_be_bridged_with_a_share(fleet_store: FleetStore) -> None:
    """
    Once all the store knew is over, each process goes on with its part; when
    the store is back everybody waits until those starts are over, too.
    """
    fleet_store.use()
    limits = Limits(exports=Rate(4, per=0.2), clock_margin=0.01, release_delay=0.0)
    limiter = limiter_of(
        fleet_store,
        app="app",
        limits=limits,
        lease=0.2,
        on_outage="share",
        processes=2,
    )
    await request(limiter, "poll")
    fleet_store.server.kill()

    with pytest.raises(LimiterUnavailableError):
        await request(limiter)
    await asyncio.sleep(0.5)
    starts = [await request(limiter) for _ in range(3)]
    fleet_store.server.start()
    ended = time.monotonic()
    after = await request(limiter)
    await limiter.aclose()

    assert starts[2] - starts[0] >= 0.2
    assert after - ended >= 0.4


async def test_the_share_needs_the_number_of_processes(fleet_store: FleetStore) -> None:
    """And no more of them than there are places."""
    with pytest.raises(ConfigurationError, match="go together"):
        limiter_of(fleet_store, on_outage="share")
    with pytest.raises(ConfigurationError, match="among 1 to 4"):
        limiter_of(fleet_store, on_outage="share", processes=5)


async def test_its_limits_are_its_own(fleet_store: FleetStore) -> None:
    """A client that is given others is refused; a lease lasts for seconds."""
    limiter = limiter_of(fleet_store)

    with pytest.raises(ConfigurationError, match="pass the limits to the limiter"):
        CohortsClient(API_KEY, SECRET_KEY, limits=DOCUMENTED, limiter=limiter)
    for lease in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match="lease is"):
            limiter_of(fleet_store, lease=lease)


async def test_a_limiter_serves_one_app(fleet_store: FleetStore) -> None:
    """The client binds it; a client of another app is refused."""
    limiter = limiter_of(fleet_store)
    with pytest.raises(ConfigurationError, match="does not know its app"):
        await request(limiter)
    limiter.bind("one")
    limiter.bind("one")

    with pytest.raises(ConfigurationError, match="another app"):
        limiter.bind("two")
    with pytest.raises(ConfigurationError, match="cannot name an app"):
        limiter_of(fleet_store, app="{}")


async def test_only_rates_that_bind_have_places(fleet_store: FleetStore) -> None:
    """Four a minute keep sixty in ten minutes; nobody asks for sixty places."""
    fleet_store.use()
    async with aclosing(limiter_of(fleet_store, app="app", limits=DOCUMENTED)) as one:
        await request(one)
        windows = [name for name in fleet_store.taken() if name.startswith("w")]

    assert 1 == len(windows)
    assert windows[0].startswith("w60:")


async def test_an_addition_is_counted_once(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """By whichever member, and down as well as up."""
    async with aclosing(limiter_of(fleet_store, app="app", limits=QUICK)) as other:
        counts = [
            await member.counter.add("month", by, until=NEXT_MONTH)
            for member, by in ((limiter, 2), (other, 3), (limiter, -1))
        ]

    assert [2, 5, 4] == counts


def test_one_limiter_serves_one_run_after_another(fleet_store: FleetStore) -> None:
    """Made once, used in several event loops."""
    limiter = limiter_of(fleet_store, app="app", limits=QUICK, lease=LEASE)

    async def run() -> None:
        await request(limiter, "poll")
        await limiter.aclose()

    asyncio.run(run())
    asyncio.run(run())

    assert 2 == limiter.statistics()["started"]


def test_without_its_extra_the_import_names_it(
    fleet_store: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MissingExtraError says what to install."""
    parts = fleet_store.contrib.replace("contrib.", "contrib._")
    package = {"redis": "redis", "postgres": "psycopg"}[fleet_store.scheme]
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in [n for n in sys.modules if n.startswith((parts, fleet_store.contrib))]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(MissingExtraError) as caught:
        import_module(fleet_store.contrib)

    assert fleet_store.scheme == caught.value.extra


# Asking without waiting.


async def tried(limiter: Limiter, kind: Kind = "export") -> float:
    """Return the seconds after which a refused try may ask again; zero if none."""
    try:
        async with limiter.try_slot(kind):
            return 0.0
    except QuotaWaitError as error:
        assert error.ticket is None
        return error.seconds


async def test_a_try_takes_what_is_free(
    fleet_store: FleetStore, patient_limiter: Limiter
) -> None:
    """All of a window, one after another; then it is told how long to stay away."""
    took = [await tried(patient_limiter) for _ in range(4)]
    left = await tried(patient_limiter)

    assert [0.0] * 4 == took
    assert 0 < left <= 60.1
    assert 4 == sum(name.startswith("w") for name in fleet_store.taken())


async def test_tries_of_the_same_moment_take_all_that_is_free(
    fleet_store: FleetStore, patient_limiter: Limiter
) -> None:
    """None is told that the window is full because another one is asking."""
    outcomes = await asyncio.gather(*(tried(patient_limiter) for _ in range(20)))

    assert 4 == outcomes.count(0.0)
    assert all(0 < left <= 60.1 for left in outcomes if left)
    assert 4 == sum(name.startswith("w") for name in fleet_store.taken())


async def test_a_try_that_is_refused_holds_nothing(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """It had a place in the window, and found none in flight."""
    everybody_is_in, may_end = asyncio.Barrier(6), asyncio.Event()

    async def hold() -> None:
        async with limiter.slot("file"):
            await everybody_is_in.wait()
            await may_end.wait()

    holders = [asyncio.create_task(hold()) for _ in range(5)]
    await everybody_is_in.wait()
    left = await tried(limiter)
    taken = fleet_store.taken()
    may_end.set()
    await asyncio.gather(*holders)

    assert 0 < left
    assert not any(name.startswith("w") for name in taken)


async def test_a_try_does_not_pass_those_who_wait(patient_limiter: Limiter) -> None:
    """Within a process the line is kept."""
    starts = [asyncio.create_task(request(patient_limiter)) for _ in range(6)]
    await until(lambda: sum(start.done() for start in starts) == 4)

    assert 0 < await tried(patient_limiter)
    for start in starts:
        start.cancel()
    await asyncio.gather(*starts, return_exceptions=True)


async def test_a_try_during_a_pause_is_told_its_end(limiter: Limiter) -> None:
    """It is everybody's."""
    await refuse(limiter, "poll", retry_after=30)

    assert 20 < await tried(limiter, "poll") < 31
    assert 20 < await tried(limiter) < 31


async def test_a_try_keeps_the_gap_between_exports(patient_limiter: Limiter) -> None:
    """After a 429, a quarter of a minute."""
    await refuse(patient_limiter, "export", retry_after=0.0)
    await asyncio.sleep(0.01)
    # The first one learns of it, the second one begins a gap.
    outcomes = [await tried(patient_limiter) for _ in range(3)]

    assert [0.0, 0.0] == outcomes[:2]
    assert 0 < outcomes[2] <= 15.1


async def test_a_try_waits_for_no_pace(fleet_store: FleetStore) -> None:
    """Neither for that of polls."""
    limits = Limits(polls=Rate(1, per=60), exports=())
    fleet_store.use()

    async with aclosing(limiter_of(fleet_store, app="app", limits=limits)) as limiter:
        assert 0.0 == await tried(limiter, "poll")
        assert 30 < await tried(limiter, "poll") <= 61


async def test_a_try_finds_the_store_away(
    fleet_store: FleetStore, limiter: Limiter
) -> None:
    """As a wait does."""
    fleet_store.server.kill()

    with pytest.raises(LimiterUnavailableError):
        await tried(limiter, "poll")
