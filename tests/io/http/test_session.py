"""The gates of the session: retries by meaning, one pause for all, five slots."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import (
    ConnectionFailedError,
    RateLimitedError,
    ServerError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.events import Event, RequestSent, RetryScheduled
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.policies import Retrying
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import CSV, FILE, LIST, OBJECT, USAGE, until, whole
from support.fault_server import DROP, FaultServer, Reply, json_reply, redirect, reply

USED = json_reply({"rest_download": {"limit": 500, "usage": 42}})


@pytest.mark.parametrize("retry_after", [40.0, None])
async def test_one_429_pauses_every_caller(
    emulator: CohortsEmulator, client: CohortsClient, retry_after: float | None
) -> None:
    """
    Whoever is told to slow down speaks for all: nobody sends until the pause is over.
    """
    emulator.fail_next("usage", faults.throttled(retry_after))
    await asyncio.gather(client.get_usage(), *(client.list_cohorts() for _ in range(9)))

    pause = 5.0 if retry_after is None else retry_after
    moments = sorted(record.at for record in emulator.log)
    assert 11 == len(moments)
    # Five at a time are on their way, and cannot know. Some of them may be answered
    # before the one that is refused, and others sent in their place.
    early = [at for at in moments if at < moments[0] + pause]
    assert {moments[0]} == set(early)
    assert 5 <= len(early) < 10


async def test_the_pause_holds_for_other_jobs_of_the_client(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock
) -> None:
    """A request that begins during the pause waits for its end, too."""
    emulator.fail_next("usage", faults.throttled(60))
    first = asyncio.create_task(client.get_usage())
    await until(
        lambda: client._operations.session.limiter.statistics()["throttled"] > 0
    )
    await client.list_cohorts()

    assert clock.now() >= 60
    await first


async def test_a_retry_after_with_a_date(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock
) -> None:
    """Retry-After may be a moment in time."""
    then = format_datetime(clock.utcnow() + timedelta(seconds=90), usegmt=True)
    server.on(USAGE, reply(429, retry_after=then), USED)
    await exporter.get_usage()

    assert 89 <= clock.now() <= 92


async def test_a_long_retry_after_ends_the_request(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock
) -> None:
    """A wait beyond the cap is the caller's decision: the error tells its length."""
    server.on(USAGE, reply(429, retry_after="3600"), USED)

    with pytest.raises(RateLimitedError) as caught:
        await exporter.get_usage()

    assert 3600.0 == caught.value.retry_after
    assert clock.now() < 10
    assert 1 == len(server.seen)


@pytest.mark.parametrize("answer", [reply(503), reply(500), reply(502), DROP])
async def test_reading_is_tried_again_a_few_times(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock, answer: Reply
) -> None:
    """A reading request is safe to repeat, with growing waits, up to six sendings."""
    server.on(USAGE, *[answer] * 5, USED)
    assert 42 == (await exporter.get_usage()).used
    assert 6 == len(server.seen)

    server.on(USAGE, answer)
    with pytest.raises((ServerError, ConnectionFailedError)):
        await exporter.get_usage()
    assert 12 == len(server.seen)
    assert 10 < clock.now() < 60


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 501])
async def test_a_refusal_for_good_is_not_tried_again(
    server: FaultServer, exporter: CohortsClient, status: int
) -> None:
    """What will not become better by waiting is told at once."""
    server.on(USAGE, reply(status))

    with pytest.raises(Exception, match=str(status)):
        await exporter.get_usage()
    assert 1 == len(server.seen)


async def test_the_waits_have_a_budget(server: FaultServer, clock: FakeClock) -> None:
    """However many attempts are left, the waits of one request end with the budget."""
    server.on(USAGE, reply(503, retry_after="20"))
    retrying = Retrying(attempts=1_000, timeout=70.0)

    async with unlimited_client(
        server.url,
        clock,
        retrying=retrying,
    ) as client:
        with pytest.raises(ServerError):
            await client.get_usage()

    assert 3 <= len(server.seen) <= 4
    assert clock.now() <= 90


async def test_a_redirect_is_never_followed_with_the_keys(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """The API does not move: a redirect of it is an error, not a way."""
    server.on(LIST, redirect(f"{server.url}/elsewhere"))

    with pytest.raises(UnexpectedResponseError, match="302"):
        await exporter.list_cohorts()
    assert [LIST] == [seen.target for seen in server.seen]


async def test_what_a_hook_hears(server: FaultServer, clock: FakeClock) -> None:
    """Each answer and each retry is an event, with words and without secrets."""
    heard: list[Event] = []
    server.on(USAGE, reply(503), DROP, USED)

    async with unlimited_client(
        server.url,
        clock,
        hook=heard.append,
    ) as client:
        await client.get_usage()

    sent = [event for event in heard if isinstance(event, RequestSent)]
    retried = [event for event in heard if isinstance(event, RetryScheduled)]
    assert [("usage", 503), ("usage", 200)] == [
        (event.operation, event.status) for event in sent
    ]
    assert [1, 2] == [event.attempt for event in retried]
    assert "503" in retried[0].reason


async def test_a_broken_hook_harms_nobody(
    server: FaultServer, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that raises is logged, and the request goes on."""
    server.on(USAGE, USED)

    def broken(_: Event) -> None:
        raise LookupError("the hook's own")

    async with unlimited_client(
        server.url,
        clock,
        hook=broken,
    ) as client:
        assert 458 == (await client.get_usage()).remaining

    assert "event hook failed" in caplog.messages


async def test_never_more_than_five_at_once(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """Twelve exports at once keep all of the vendor's rules, and all end."""
    for n in range(12):
        emulator.add_cohort(f"cohort{n}", members=[f"user-{n}"])

    await asyncio.gather(
        *(client.export(f"cohort{n}", tmp_path / f"{n}.csv") for n in range(12))
    )

    assert [] == emulator.violations
    assert 5 >= emulator.max_in_flight
    assert 12 == emulator.spent


async def test_a_store_holds_no_slot(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """While bodies stand still in the store, Amplitude is asked as ever."""
    standing = Reply(raw=whole().raw[:-99], then="hang")
    server.on(OBJECT, *[standing] * 5, whole())
    server.on(USAGE, USED)
    limits = Limits(in_flight=2, exports=(), release_delay=0.0)

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=server.url,
        clock=clock,
        limits=limits,
        stall_timeout=0.5,
    ) as client:
        job = client.resume_export("Sf7M9j")
        downloads = [
            asyncio.create_task(job.download(tmp_path / f"{n}.csv")) for n in range(5)
        ]
        await until(lambda: len(server.requests(OBJECT)) == 5)

        assert 42 == (await client.get_usage()).used
        assert not any(download.done() for download in downloads)
        await asyncio.gather(*downloads)


async def test_a_file_in_the_answer_holds_a_slot(
    server: FaultServer, clock: FakeClock
) -> None:
    """A body that Amplitude itself sends is one of the five until it is read."""
    server.on(FILE, Reply(raw=whole(CSV * 99).raw[:-1], then="hang"))
    server.on(USAGE, USED)
    limits = Limits(in_flight=1, exports=(), release_delay=0.0)

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=server.url, clock=clock, limits=limits
    ) as client:
        async with client.resume_export("Sf7M9j").members() as stream:
            await anext(aiter(stream))
            waiting = asyncio.create_task(client.get_usage())
            await asyncio.sleep(0.05)
            assert 0 == len(server.requests(USAGE))

        assert 42 == (await waiting).used


async def test_a_slot_for_calls_of_ones_own(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """`slot()` takes one of the five, and gives it back."""
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            await group.create_task(hold(client))
        async with client.slot(), client.slot(), client.slot(), client.slot():
            assert [] == await client.list_cohorts()


async def hold(client: CohortsClient) -> None:
    """Hold a slot for a moment."""
    async with client.slot():
        await asyncio.sleep(0)
