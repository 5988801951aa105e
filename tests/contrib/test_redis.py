"""What only the limiter on Redis has; see test_fleet_limiters.py for the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("redis", reason="the extra redis is not installed")

from redis.asyncio import Connection, Redis

from amplitude_cohorts_async.contrib.redis import RedisLimiter
from amplitude_cohorts_async.limits import Kind, Limits, Rate

if TYPE_CHECKING:
    from support.valkey import Valkey

pytestmark = pytest.mark.services

QUICK = Limits(
    exports=Rate(4, per=0.5), polls=None, clock_margin=0.01, release_delay=0.1
)


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
    limiter = RedisLimiter.from_url(valkey.url, app="app", limits=QUICK)
    yield limiter
    await limiter.aclose()


async def request(limiter: RedisLimiter, kind: Kind) -> None:
    """Hold a slot for a moment."""
    async with limiter.slot(kind):
        pass


async def test_keys_share_one_hash_tag(limiter: RedisLimiter, store: Redis):
    """So that a cluster keeps them together."""
    async with limiter.slot("export"), limiter.cohort_lock("secret-cohort"):
        keys = [key.decode() for key in await store.keys("*")]

    assert 4 == len(keys)
    assert all(key.startswith("cohorts:{app}:") for key in keys)
    assert not any("secret" in key for key in keys)


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
