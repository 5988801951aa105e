"""What only the limiter on Redis has; see test_fleet_limiters.py for the rest."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from traceback import TracebackException
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("redis", reason="the extra redis is not installed")

from redis.asyncio import Connection, Redis

from amplitude_cohorts_async.contrib._redis import server as servers
from amplitude_cohorts_async.contrib.redis import RedisLimiter
from amplitude_cohorts_async.errors import ConfigurationError, LimiterUnavailableError
from amplitude_cohorts_async.limits import Kind, Limits, Rate
from support.ports import LOOPBACK

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


async def test_a_hundred_apps_share_four_connections(
    valkey: Valkey, store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which are closed while nobody asks, and with the last app that uses them."""
    monkeypatch.setattr(servers, "_IDLE_FOR", 0.2)

    async def others() -> int:
        return len(await store.client_list()) - 1

    async def wait_until_idle() -> None:
        async with asyncio.timeout(30):
            while await others():  # noqa: ASYNC110 - the server does not tell
                await asyncio.sleep(0.05)

    limiters = [
        RedisLimiter.from_url(valkey.url, app=f"app{number}") for number in range(100)
    ]
    for limiter in limiters:
        await store.set(f"cohorts:{{{limiter._app.known()}}}:epoch", "old")
    await asyncio.gather(*(request(limiter, "file") for limiter in limiters))
    assert 1 <= await others() <= 4
    await wait_until_idle()

    for limiter in limiters[1:]:
        await limiter.aclose()
    await request(limiters[0], "file")
    assert 1 == await others()
    await limiters[0].aclose()
    await wait_until_idle()


@pytest.mark.parametrize(
    ("user", "database", "told"),
    [
        ("bob:hunter9@", "0", "refused the user or the password"),
        ("bob:hunter2@", "99", "has no such database"),
        ("bob:hunter2@", "0", "does not let the user run a command"),
    ],
)
async def test_what_no_second_try_mends_is_an_error_of_configuration(
    valkey: Valkey, store: Redis, user: str, database: str, told: str
):
    """It says what is wrong, of whom; for the jobs as for the places."""
    allowed = ("on", ">hunter2", "+ping", "+hello", "+select", "+client")
    await store.execute_command("ACL", "SETUSER", "bob", *allowed)
    url = f"redis://{user}{LOOPBACK}:{valkey.port}/{database}"
    limiter = RedisLimiter.from_url(url, app="app", limits=QUICK)

    async with aclosing(limiter):
        with pytest.raises(ConfigurationError, match=told) as caught:
            await request(limiter, "poll")
        with pytest.raises(ConfigurationError, match=told):
            await limiter.job_store.transact("app", "g", lambda rows, now: (rows, None))

    assert str(valkey.port) in str(caught.value)
    assert "bob" not in str(caught.value)
    assert "hunter" not in str(caught.value)


async def test_a_password_that_was_changed_is_in_no_frame(valkey: Valkey, store: Redis):
    """Who was let in before is refused for a while; it is no mistake of the URL."""
    await store.execute_command(
        "ACL", "SETUSER", "bob", "on", ">hunter2", "~*", "+@all"
    )
    url = f"redis://bob:hunter2@{LOOPBACK}:{valkey.port}"

    async with aclosing(RedisLimiter.from_url(url, app="app", limits=QUICK)) as limiter:
        await request(limiter, "poll")
        await store.execute_command("ACL", "SETUSER", "bob", "resetpass", ">another")
        await store.execute_command("CLIENT", "KILL", "USER", "bob")
        with pytest.raises(LimiterUnavailableError) as caught:
            await request(limiter, "poll")

    assert caught.value.__traceback__ is not None
    # Without the frame of this test.
    trace = caught.value.__traceback__.tb_next
    shown = TracebackException(
        type(caught.value), caught.value, trace, capture_locals=True
    )
    assert "hunter2" not in "".join(shown.format())


async def test_a_user_who_may_not_see_the_settings_is_let_in(
    valkey: Valkey, store: Redis
):
    """Many hosts of Redis give nobody the command CONFIG."""
    await store.execute_command(
        "ACL", "SETUSER", "eve", "on", ">hunter2", "~*", "+@all", "-config"
    )
    url = f"redis://eve:hunter2@{LOOPBACK}:{valkey.port}"

    async with aclosing(RedisLimiter.from_url(url, app="app", limits=QUICK)) as limiter:
        await request(limiter, "poll")
