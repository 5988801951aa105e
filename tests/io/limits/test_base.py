"""A limiter of one's own: a subclass with one method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, IdType
from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.limiters import Limiter, LocalLimiter, Permit
from amplitude_cohorts_async.limits import DOCUMENTED, LEAVE_ROOM, Kind
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY

NEXT_MONTH = datetime(2030, 1, 8, tzinfo=UTC)


class Own(Limiter):
    """Lets one request through at a time, and remembers the kinds."""

    def __init__(self) -> None:
        self.kinds: list[Kind] = []
        self._one = asyncio.Semaphore(1)

    @asynccontextmanager
    async def slot(self, kind: Kind) -> AsyncIterator[Permit]:
        """Wait for the others."""
        async with self._one:
            self.kinds.append(kind)
            yield Permit()


class Stating(Own):
    """States limits as a class attribute."""

    limits = LEAVE_ROOM


def client_of(emulator: CohortsEmulator, limiter: Limiter) -> CohortsClient:
    """Make a client on an emulator."""
    return CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=emulator.clock,
        limiter=limiter,
        app_id=153957,
        owner="ann@example.com",
    )


async def test_one_method_is_enough_for_a_client(
    emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Exports, plans and writes work; each request passes the one method."""
    emulator.add_cohort("c1", members=["ann"])
    limiter = Own()

    async with client_of(emulator, limiter) as client:
        await client.export("c1", tmp_path / "c1.csv")
        plan = await client.plan(["c1"])
        await client.upload_cohort("new", ["ann"], id_type=IdType.USER_ID)

    assert 0.0 == plan.exports[0].starts_in
    assert {"export", "poll", "file", "write", "other"} == set(limiter.kinds)
    assert [] == emulator.violations


async def test_what_a_limiter_does_not_override_works_within_the_process() -> None:
    """Counters count, writers of a cohort follow each other, nothing is shared."""
    limiter, order = Own(), list[str]()

    async def write(name: str) -> None:
        async with limiter.cohort_lock("c1"):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(write("a"), write("b"))
    counts = [await limiter.counter.add("x", 1, until=NEXT_MONTH) for _ in range(2)]
    limiter.bind("app")
    await limiter.aclose()

    assert ["a in", "a out", "b in", "b out"] == order
    assert [1, 2] == counts
    assert limiter.limits is None
    assert limiter.job_store is None
    assert {} == limiter.statistics()
    assert 5 == len(limiter.expected_starts(5, limits=LEAVE_ROOM))


@pytest.mark.parametrize("limiter", [LocalLimiter(), Stating()])
def test_limits_are_stated_once(limiter: Limiter) -> None:
    """
    A limiter that has limits and a client that is given others exclude each other.
    """
    with pytest.raises(ConfigurationError, match=r"pass the limits to the limiter"):
        CohortsClient(API_KEY, SECRET_KEY, limits=DOCUMENTED, limiter=limiter)


def test_a_limiter_without_limits_leaves_them_to_the_client() -> None:
    """The limits of the client then say how the month is kept."""
    client = CohortsClient(API_KEY, SECRET_KEY, limits=LEAVE_ROOM, limiter=Own())
    stating = CohortsClient(API_KEY, SECRET_KEY, limiter=Stating())
    plain = CohortsClient(API_KEY, SECRET_KEY)

    assert LEAVE_ROOM == client._config.limits == stating._config.limits
    assert DOCUMENTED == plain._config.limits


def test_something_else_is_no_limiter() -> None:
    """The message says what to pass."""
    with pytest.raises(ConfigurationError, match=r"subclass of limiters\.Limiter"):
        CohortsClient(API_KEY, SECRET_KEY, limiter=object())  # type: ignore[arg-type]


def test_the_one_method_cannot_be_left_out() -> None:
    """Python itself says which it is."""

    class Nothing(Limiter):
        pass

    with pytest.raises(TypeError, match="slot"):
        Nothing()  # type: ignore[abstract]


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan")])
def test_a_request_has_a_finite_time(timeout: float) -> None:
    """The timeout of one HTTP request is seconds above zero."""
    with pytest.raises(ConfigurationError, match="timeout must be a finite number"):
        CohortsClient(API_KEY, SECRET_KEY, timeout=timeout)


async def test_the_default_limiter_is_at_the_root(clock: FakeClock) -> None:
    """Without arguments it keeps the documented limits."""
    assert DOCUMENTED == LocalLimiter().limits
    assert LocalLimiter().job_store is None
    assert [0.0] == LocalLimiter(clock=clock).expected_starts(1)
