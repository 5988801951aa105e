"""The month, guarded: what is left is known, and not overspent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.errors import ConfigurationError, MonthlyQuotaError
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas, faults
from support.canary import API_KEY, SECRET_KEY


@pytest.fixture
async def emulator(clock: FakeClock) -> AsyncIterator[CohortsEmulator]:
    """A service that gives three exports a month."""
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        quotas=Quotas(month=3),
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])
        yield emulator


async def test_an_export_the_month_has_no_room_for_is_not_sent(
    client: CohortsClient, emulator: CohortsEmulator
) -> None:
    """The fourth of three is refused here, with the limit and its end."""
    for _ in range(3):
        await client.request_export("c1")

    with pytest.raises(MonthlyQuotaError) as caught:
        await client.request_export("c1")

    assert (3, 3) == (caught.value.limit, caught.value.used)
    assert caught.value.resets_at is not None
    assert 3 == emulator.requests("export")


async def test_a_reserve_is_left_to_others(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """What is reserved is as good as spent."""
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        limits=Limits(monthly_reserve=2),
    ) as client:
        await client.request_export("c1")

        with pytest.raises(MonthlyQuotaError, match="2 of them in reserve"):
            await client.request_export("c1")


async def test_an_allowance_bounds_one_caller(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """Who has spent a part of the month cannot spend another's."""
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        allowances={"reports": 1, "sync": 2},
    ) as client:
        await client.request_export("c1", allowance="reports")

        with pytest.raises(MonthlyQuotaError, match="'reports' has spent"):
            await client.request_export("c1", allowance="reports")
        with pytest.raises(ConfigurationError, match="no allowance"):
            await client.request_export("c1", allowance="nobody")

        await client.request_export("c1", allowance="sync")

    assert 2 == emulator.spent


async def test_an_unlimited_plan_is_never_refused(clock: FakeClock) -> None:
    """A usage without a limit leaves nothing to guard."""
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        quotas=Quotas(month=None),
    ) as emulator:
        emulator.add_cohort("c1", members=["ann"])

        async with CohortsClient(
            API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock
        ) as client:
            for _ in range(5):
                await client.request_export("c1")

    assert 5 == emulator.spent


async def test_a_usage_that_cannot_be_read_stops_nobody(
    client: CohortsClient, emulator: CohortsEmulator
) -> None:
    """Who would spend too much is refused by the service then."""
    emulator.fail_next("usage", faults.broken(500), times=None)

    await client.request_export("c1")

    assert 1 == emulator.spent
