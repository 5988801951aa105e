"""
The limiter of a fleet, one process of it, on a real Valkey: what is its own.

What it promises like every limiter is in tests/io/limits/test_conformance.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("redis", reason="the extra redis is not installed")

from redis.asyncio import Connection, Redis

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.redis import RedisLimiter
from amplitude_cohorts_async.errors import (
    ConfigurationError,
    LimiterUnavailableError,
    MissingExtraError,
)
from amplitude_cohorts_async.limits import DOCUMENTED, Kind, Limits, Rate
from support.canary import API_KEY, SECRET_KEY

if TYPE_CHECKING:
    from support.valkey import Valkey

pytestmark = pytest.mark.services

QUICK = Limits(
    exports=Rate(4, per=0.5), polls=None, clock_margin=0.01, release_delay=0.1
)
LEASE = 0.3
NEXT_MONTH = datetime(2030, 1, 8, tzinfo=UTC)


@pytest.fixture
async def store(valkey: Valkey) -> AsyncIterator[Redis]:
    """A connection to the store, which has been in use for a while."""
    redis = Redis.from_url(valkey.url)
    await redis.set("cohorts:{app}:epoch", "old")
    yield redis
    await redis.aclose()


@pytest.fixture
async def limiter(valkey: Valkey, store: Redis) -> AsyncIterator[RedisLimiter]:
    """A limiter on that store."""
    limiter = RedisLimiter.from_url(valkey.url, app="app", limits=QUICK, lease=LEASE)
    yield limiter
    await limiter.aclose()
    await limiter.aclose()


async def request(
    limiter: RedisLimiter, kind: Kind = "export", seconds: float = 0.0
) -> float:
    """Hold a slot for so long; tell when it began."""
    async with limiter.slot(kind):
        start = time.monotonic()
        await asyncio.sleep(seconds)

    return start


async def refuse(
    limiter: RedisLimiter,
    kind: Kind = "export",
    *,
    retry_after: float | None = None,
    details: str = "",
) -> None:
    """Let one request be answered 429."""
    async with limiter.slot(kind) as permit:
        permit.throttled(retry_after, details=details)


async def test_a_new_store_is_waited_out(valkey: Valkey):
    """It may have lost its data: a request may be running, a window may be full."""
    limiter = RedisLimiter.from_url(valkey.url, app="app", limits=QUICK, lease=LEASE)
    started = time.monotonic()
    poll, export = await asyncio.gather(
        request(limiter, "poll"), request(limiter, "export")
    )
    await limiter.aclose()

    assert 0.35 <= poll - started < 0.86
    assert 0.86 <= export - started


async def test_keys_tell_nothing_but_the_app(limiter: RedisLimiter, store: Redis):
    """All of them share one hash tag, so that a cluster keeps them together."""
    async with limiter.slot("export"), limiter.cohort_lock("secret-cohort"):
        keys = [key.decode() for key in await store.keys("*")]

    assert 4 == len(keys)
    assert all(key.startswith("cohorts:{app}:") for key in keys)
    assert not any("secret" in key for key in keys)


async def test_every_place_has_an_end(limiter: RedisLimiter, store: Redis):
    """A process that dies gives back what it held, when its lease is over."""
    async with limiter.slot("export"):
        left = {
            key.decode()[14:]: await store.pttl(key)
            for key in await store.keys("*:[cw]*")
        }

    (window,) = (ms for key, ms in left.items() if key.startswith("w0.5:"))
    (slot,) = (ms for key, ms in left.items() if key.startswith("c:"))
    assert 300 < slot <= 400
    assert 800 < window <= 950


async def test_a_429_for_concurrency_withholds_a_place(
    valkey: Valkey, limiter: RedisLimiter, store: Redis
):
    """One place stays taken for ten minutes, but never the last one."""
    await refuse(limiter, "poll", details="Exceeded concurrent limit", retry_after=0.01)
    left = [await store.pttl(f"cohorts:{{app}}:c:{number}") for number in range(5)]

    assert 1 == sum(ms > 590_000 for ms in left)

    lone = RedisLimiter.from_url(valkey.url, app="lone", limits=Limits(in_flight=1))
    await store.set("cohorts:{lone}:epoch", "old")
    await refuse(lone, "poll", details="Exceeded concurrent limit", retry_after=0.01)
    await request(lone, "poll")
    await lone.aclose()


async def test_a_request_that_takes_long_keeps_its_place(
    limiter: RedisLimiter, store: Redis
):
    """Longer than the lease, which is renewed while its process lives."""
    async with limiter.slot("file"):
        await asyncio.sleep(0.9)
        keys = await store.keys("*:c:*")

    assert 1 == len(keys)
    assert [] == await store.keys("*:c:*")


async def test_a_request_whose_place_is_lost_is_cancelled(
    limiter: RedisLimiter, store: Redis
):
    """Somebody else has it by now, and two would be one too many."""
    with pytest.raises(LimiterUnavailableError, match="may have taken effect"):
        async with limiter.slot("file"):
            await store.delete(*await store.keys("*:c:*"))
            await asyncio.sleep(10)


async def test_cancelling_leaves_no_place_taken(limiter: RedisLimiter, store: Redis):
    """After a hundred cancellations everything is free after the release delay."""
    for number in range(100):
        task = asyncio.create_task(request(limiter, "poll", 0.002))
        await asyncio.sleep(number / 20_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.15)

    assert [] == await store.keys("*:c:*")
    assert (0, 0) == (
        limiter.statistics()["in_flight"],
        limiter.statistics()["waiting"],
    )


async def test_nothing_is_sent_while_the_store_is_away(
    valkey: Valkey, limiter: RedisLimiter
):
    """LimiterUnavailableError names the store, not its password; then all is well."""
    await request(limiter, "poll")
    valkey.kill()
    with pytest.raises(LimiterUnavailableError, match=r"the store at 127\.0\.0\.1:"):
        await request(limiter, "poll")
    valkey.start()
    await request(limiter, "poll")


async def test_a_request_that_runs_while_the_store_goes_ends_well(
    valkey: Valkey, limiter: RedisLimiter
):
    """Its answer is not thrown away; its place runs out by itself."""
    async with limiter.slot("poll"):
        valkey.kill()

    assert 1 == limiter.statistics()["started"]


async def test_a_password_is_never_shown():
    """Neither in the repr nor in an error."""
    limiter = RedisLimiter.from_url("redis://me:hunter2@127.0.0.1:1/0", app="app")

    with pytest.raises(LimiterUnavailableError) as caught:
        await request(limiter, "poll")
    await limiter.aclose()

    assert "hunter2" not in f"{limiter!r}{caught.value!r}{caught.value.__cause__!r}"


async def test_an_outage_can_be_bridged_with_a_share(valkey: Valkey, store: Redis):
    """
    Once all the store knew is over, each process goes on with its part; when
    the store is back everybody waits until those starts are over, too.
    """
    limits = Limits(exports=Rate(4, per=0.2), clock_margin=0.01, release_delay=0.0)
    limiter = RedisLimiter.from_url(
        valkey.url,
        app="app",
        limits=limits,
        lease=0.2,
        on_outage="share",
        processes=2,
    )
    await request(limiter, "poll")
    valkey.kill()

    with pytest.raises(LimiterUnavailableError):
        await request(limiter)
    await asyncio.sleep(0.5)
    starts = [await request(limiter) for _ in range(3)]
    valkey.start()
    ended = time.monotonic()
    after = await request(limiter)
    await limiter.aclose()

    assert starts[2] - starts[0] >= 0.2
    assert after - ended >= 0.4


async def test_the_share_needs_the_number_of_processes():
    """And no more of them than there are places."""
    with pytest.raises(ConfigurationError, match="go together"):
        RedisLimiter.from_url("redis://localhost", on_outage="share")
    with pytest.raises(ConfigurationError, match="among 1 to 4"):
        RedisLimiter.from_url("redis://localhost", on_outage="share", processes=5)


async def test_its_limits_are_its_own():
    """A client that is given others is refused; a lease lasts for seconds."""
    limiter = RedisLimiter.from_url("redis://localhost")

    with pytest.raises(ConfigurationError, match="pass the limits to the limiter"):
        CohortsClient(API_KEY, SECRET_KEY, limits=DOCUMENTED, limiter=limiter)
    for lease in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match="lease is"):
            RedisLimiter.from_url("redis://localhost", lease=lease)


async def test_a_limiter_serves_one_app():
    """The client binds it; a client of another app is refused."""
    limiter = RedisLimiter.from_url("redis://localhost")
    with pytest.raises(ConfigurationError, match="does not know its app"):
        await request(limiter)
    limiter.bind("one")
    limiter.bind("one")

    with pytest.raises(ConfigurationError, match="another app"):
        limiter.bind("two")
    with pytest.raises(ConfigurationError, match="cannot name an app"):
        RedisLimiter.from_url("redis://localhost", app="{}")


async def test_only_rates_that_bind_have_keys(valkey: Valkey, store: Redis):
    """Four a minute keep sixty in ten minutes; nobody asks for sixty keys."""
    limiter = RedisLimiter.from_url(valkey.url, app="app", limits=DOCUMENTED)
    await request(limiter)
    windows = await store.keys("*:w*")
    await limiter.aclose()

    assert 1 == len(windows)
    assert windows[0].startswith(b"cohorts:{app}:w60:")


async def test_a_store_that_evicts_is_complained_of(
    limiter: RedisLimiter, store: Redis, caplog: pytest.LogCaptureFixture
):
    """Places in use must not be thrown out to make room."""
    await store.config_set("maxmemory-policy", "volatile-lru")
    with caplog.at_level(logging.WARNING):
        await request(limiter, "poll")
        await request(limiter, "poll")

    assert 1 == len(caplog.messages)
    assert "noeviction" in caplog.messages[0]


async def test_a_place_costs_three_round_trips_and_one_to_return_it(
    limiter: RedisLimiter, store: Redis, monkeypatch: pytest.MonkeyPatch
):
    """Uncontended; what that takes in time is in docs/limits.md."""
    send, sent = Connection.send_packed_command, list[float]()

    async def counted(connection: Connection, *args: object, **options: object) -> None:
        sent.append(time.monotonic())
        await send(connection, *args, **options)  # type: ignore[arg-type]

    await request(limiter, "poll")
    monkeypatch.setattr(Connection, "send_packed_command", counted)
    async with limiter.slot("poll"):
        taken = len(sent)

    assert (3, 1) == (taken, len(sent) - taken)


def test_one_limiter_serves_one_run_after_another(valkey: Valkey):
    """Made once, used in several event loops."""
    limiter = RedisLimiter.from_url(valkey.url, app="app", limits=QUICK, lease=LEASE)

    async def run() -> None:
        await request(limiter, "poll")
        await limiter.aclose()

    asyncio.run(run())
    asyncio.run(run())

    assert 2 == limiter.statistics()["started"]


def test_without_redis_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """MissingExtraError says what to install."""
    monkeypatch.setitem(sys.modules, "redis.exceptions", None)
    for name in [name for name in sys.modules if ".contrib._redis" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, RedisLimiter.__module__)

    with pytest.raises(MissingExtraError) as caught:
        __import__(RedisLimiter.__module__)

    assert "redis" == caught.value.extra
