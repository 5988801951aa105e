"""The month's export requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async._core.known_usage import KnownUsage
from amplitude_cohorts_async._io.limits.base import LocalCounter
from amplitude_cohorts_async._io.limits.budget import Budget
from amplitude_cohorts_async._io.limits.local import LocalLimiter
from amplitude_cohorts_async.errors import (
    ConfigurationError,
    MonthlyQuotaError,
    ServerError,
)
from amplitude_cohorts_async.models import Usage
from amplitude_cohorts_async.testing.clock import FakeClock
from support.virtual_loop import run_virtually

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


class Service:
    """Counts exports as the service does."""

    def __init__(self, *, limit: int | None = 500, used: int = 0) -> None:
        self.limit = limit
        self.used = used
        self.asked = 0
        self.resets_at: datetime | None = DECEMBER
        self.broken = False

    async def usage(self) -> Usage:
        """Tell the usage, a moment later."""
        await asyncio.sleep(0)
        self.asked += 1
        if self.broken:
            raise ServerError("no", status=500)
        return Usage(limit=self.limit, used=self.used, resets_at=self.resets_at)


class LostCounter:
    """Counters in a store that can be emptied."""

    def __init__(self) -> None:
        self.add = LocalCounter().add

    def lose(self) -> None:
        """Begin from 0."""
        self.add = LocalCounter().add


def november() -> FakeClock:
    """Make a clock that starts on the 22nd and moves when told."""
    return FakeClock(utc=datetime(2026, 11, 22, tzinfo=UTC), jumps=False)


def alone(read_usage: Callable[[], Awaitable[Usage]], **options: Any) -> Budget:
    """Make the budget of one client that shares its counter with no other."""
    return Budget(read_usage, counter=LocalCounter(), **options)


async def left(budget: Budget) -> int:
    """Count how many more exports could be reserved at once."""
    count = 0

    async with AsyncExitStack() as reserved:
        with suppress(MonthlyQuotaError):
            while True:
                await reserved.enter_async_context(budget.spend())
                count += 1

    return count


async def spend(budget: Budget, service: Service, **options: str) -> None:
    """Spend one export request."""
    async with budget.spend(**options) as place:
        place.commit()
        service.used += 1


async def test_what_is_left_is_spent_and_no_more():
    """The service is asked, and asked again before we refuse; it refuses nothing."""
    service = Service(limit=500, used=497)
    budget = alone(service.usage, clock=november())

    for _ in range(3):
        await spend(budget, service)
    with pytest.raises(MonthlyQuotaError) as caught:
        await spend(budget, service)

    assert (500, 500, DECEMBER) == (
        caught.value.limit,
        caught.value.used,
        caught.value.resets_at,
    )
    assert "500 of 500 export requests are spent" in str(caught.value)
    assert "2026-12-01 00:00 UTC" in str(caught.value)
    assert 2 == service.asked


async def test_at_once_is_no_way_around():
    """Ten at once with three left: three go."""
    service = Service(limit=500, used=497)
    budget = alone(service.usage, clock=november())

    ends = await asyncio.gather(
        *(spend(budget, service) for _ in range(10)), return_exceptions=True
    )

    assert 3 == ends.count(None)
    assert 500 == service.used
    assert 2 >= service.asked


async def test_what_the_service_did_not_count_is_not_spent():
    """Refused requests, and a larger plan, are seen before an export is refused."""
    clock = november()
    service = Service(limit=500, used=498)
    budget = alone(service.usage, clock=clock)

    for _ in range(2):
        async with budget.spend() as place:
            place.commit()
    for _ in range(2):
        await spend(budget, service)
    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)
    service.limit = 1_000
    clock.advance(60)
    await spend(budget, service)

    assert 501 == service.used


async def test_a_refusal_asks_once_a_minute():
    """A service that is full is not asked for each call."""
    clock = november()
    service = Service(limit=500, used=500)
    budget = alone(service.usage, clock=clock)

    for _ in range(5):
        with pytest.raises(MonthlyQuotaError):
            await spend(budget, service)
    assert 1 == service.asked

    clock.advance(60)
    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)
    assert 2 == service.asked


async def test_a_request_on_its_way_is_not_looked_for():
    """The service may not have counted it yet, and would seem to have room."""
    service = Service(limit=500, used=499)
    budget = alone(service.usage, clock=november())

    async with budget.spend() as place:
        place.commit()
        with pytest.raises(MonthlyQuotaError):
            await spend(budget, service)

    assert 1 == service.asked


async def test_a_reserve_is_left_to_others():
    """With a reserve of 20 the last 20 are not ours."""
    service = Service(limit=500, used=479)
    budget = alone(service.usage, clock=november(), reserve=20)
    await spend(budget, service)

    with pytest.raises(MonthlyQuotaError, match="20 of them in reserve"):
        await spend(budget, service)


async def test_an_unlimited_plan_has_no_end():
    """A limit of null means no limit."""
    service = Service(limit=None, used=10_000)
    budget = alone(service.usage, clock=november(), reserve=20)

    for _ in range(30):
        await spend(budget, service)

    assert 10_030 == service.used


async def test_what_was_not_sent_is_given_back():
    """An error or a cancellation before the sending costs nothing."""
    service = Service(limit=1)
    budget = alone(service.usage, clock=november())

    with pytest.raises(ZeroDivisionError):
        async with budget.spend():
            raise ZeroDivisionError
    waiting = asyncio.create_task(_hold(budget))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    await spend(budget, service)
    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)


async def _hold(budget: Budget) -> None:
    async with budget.spend():
        await asyncio.sleep(60)


async def test_the_service_is_asked_again_every_twenty_spends():
    """So that what others spend is seen."""
    service = Service(limit=500)
    budget = alone(service.usage, clock=november())

    for _ in range(60):
        await spend(budget, service)
        service.used += 1

    assert 3 == service.asked
    service.used = 500
    with pytest.raises(MonthlyQuotaError):
        for _ in range(20):
            await spend(budget, service)


async def test_a_new_month_is_a_new_count():
    """After `resets_at` the service is asked again."""
    clock, service = november(), Service(limit=2, used=2)
    budget = alone(service.usage, clock=clock)
    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)

    clock.advance(9 * 86_400)
    service.used, service.resets_at = 0, datetime(2027, 1, 1, tzinfo=UTC)
    await spend(budget, service)
    await spend(budget, service)
    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)

    assert 2 == service.used


async def test_a_service_that_resets_late_is_asked_every_minute():
    """Its clock may be behind ours when the month ends."""
    clock, service = november(), Service(limit=1, used=1)
    clock.advance(9 * 86_400)
    budget = alone(service.usage, clock=clock)
    for _ in range(3):
        with pytest.raises(MonthlyQuotaError):
            await spend(budget, service)
    assert 1 == service.asked

    clock.advance(61)
    service.used, service.resets_at = 0, datetime(2027, 1, 1, tzinfo=UTC)
    await spend(budget, service)

    assert (2, 1) == (service.asked, service.used)


async def test_a_month_that_is_over_when_the_usage_cannot_be_read():
    """The count has started again, and the service refuses what is too much."""
    clock, service = november(), Service(limit=2, used=2)
    service.resets_at = datetime(2026, 11, 25, tzinfo=UTC)
    budget = alone(service.usage, clock=clock)
    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)

    clock.advance(4 * 86_400)
    service.broken = True
    await spend(budget, service)

    assert 3 == service.used


@pytest.mark.parametrize("is_shared", [True, False])
async def test_what_another_client_has_read(is_shared: bool):
    """It counts if both have one counter, and says nothing of another one."""
    clock, service = november(), Service(limit=10, used=7)
    theirs, ours = LocalCounter(), LocalCounter()
    one = Budget(service.usage, clock=clock, counter=theirs)
    other = Budget(None, clock=clock, counter=theirs if is_shared else ours)
    await spend(one, service)
    await spend(one, service)

    async with other.spend(known=one.known) as place:
        place.commit()
        assert (9 if is_shared else None) == place.used

    if is_shared:
        with pytest.raises(MonthlyQuotaError):
            async with other.spend(known=one.known):
                pass


async def test_a_counter_that_is_lost():
    """The usage is read again: how many were counted since is not known."""
    clock, service = november(), Service(limit=10)
    counter = LostCounter()
    ours, theirs = (
        Budget(service.usage, clock=clock, counter=counter, reserve=4) for _ in range(2)
    )
    for _ in range(4):
        await spend(ours, service)

    counter.lose()
    await spend(theirs, service)
    await spend(theirs, service)

    with pytest.raises(MonthlyQuotaError, match="6 of 10"):
        await spend(ours, service)


async def test_a_failure_of_the_future_is_none():
    """It was noted by a clock that was ahead."""
    clock, service = november(), Service(limit=2, used=2)
    budget = alone(service.usage, clock=clock)
    budget.known = KnownUsage(failed_at=clock.utcnow() + timedelta(days=5))

    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)


async def test_a_usage_that_cannot_be_read_stops_nobody(
    caplog: pytest.LogCaptureFixture,
):
    """The service itself refuses then; it is asked again a minute later."""
    clock, service = november(), Service(limit=0)
    service.broken = True
    budget = alone(service.usage, clock=clock)

    with caplog.at_level(logging.WARNING):
        await spend(budget, service)
        await spend(budget, service)
    clock.advance(61)
    service.broken = False
    with pytest.raises(MonthlyQuotaError):
        await spend(budget, service)

    assert 2 == service.asked
    assert ["the month's usage could not be read"] == caplog.messages


async def test_each_caller_has_an_allowance():
    """One team's spending leaves another's alone."""
    service = Service()
    budget = alone(
        service.usage, clock=november(), allowances={"team-a": 2, "team-b": 1}
    )
    await spend(budget, service, allowance="team-a")
    await spend(budget, service, allowance="team-a")

    with pytest.raises(MonthlyQuotaError, match="'team-a' has spent its 2"):
        await spend(budget, service, allowance="team-a")
    await spend(budget, service, allowance="team-b")
    await spend(budget, service)

    assert 500 - 4 == await left(budget)


async def test_an_unknown_allowance_is_an_error():
    """The message lists those there are."""
    budget = alone(Service().usage, clock=november(), allowances={"team-a": 2})

    with pytest.raises(ConfigurationError, match="'team-c'; there is team-a"):
        await spend(budget, Service(), allowance="team-c")


async def test_clients_of_an_app_count_together():
    """The limiter's counter is seen by every client that shares the limiter."""
    service, limiter = Service(limit=3), LocalLimiter()
    budgets = [
        Budget(service.usage, clock=november(), counter=limiter.counter)
        for _ in range(2)
    ]
    for budget in budgets:
        async with budget.spend():
            """Read the usage, and spend nothing."""

    for budget in (budgets[0], budgets[1], budgets[0]):
        await spend(budget, service)
    for budget in budgets:
        with pytest.raises(MonthlyQuotaError):
            await spend(budget, service)

    # Each at its first export, and before it refuses one.
    assert 4 == service.asked


async def test_an_old_months_counters_are_dropped():
    """A process that runs for years keeps one month's."""
    counter = LocalCounter()
    await counter.add("old", 1, until=datetime(2026, 12, 8, tzinfo=UTC))
    await counter.add("new", 1, until=DECEMBER.replace(year=2027))

    assert ["new"] == list(counter._counts)


@settings(max_examples=50, deadline=None)
@given(
    limit=st.integers(0, 30),
    used=st.integers(0, 30),
    reserve=st.integers(0, 5),
    callers=st.lists(
        st.tuples(st.floats(0, 9), st.floats(0, 9), st.booleans()), max_size=50
    ),
)
def test_no_course_of_things_spends_too_much_or_loses_any(
    limit: int, used: int, reserve: int, callers: list[tuple[float, float, bool]]
):
    """Callers come, wait, commit or give up; in the end all that is left is left."""

    async def call(
        budget: Budget, service: Service, at: float, wait: float, commits: bool
    ) -> None:
        await asyncio.sleep(at)
        async with asyncio.timeout(None if commits else wait / 2):
            async with budget.spend() as place:
                await asyncio.sleep(wait)
                if commits:
                    place.commit()
                    service.used += 1

    async def main() -> None:
        service = Service(limit=limit, used=used)
        budget = alone(service.usage, clock=november(), reserve=reserve)
        await asyncio.gather(
            *(call(budget, service, *caller) for caller in callers),
            return_exceptions=True,
        )
        most = max(used, limit - reserve)
        assert service.used <= most
        assert max(0, limit - reserve - service.used) == await left(budget)

    run_virtually(main())
