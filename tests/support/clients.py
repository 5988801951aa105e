"""The client that most tests need, and its emulator: the suite's keys, and no limits."""

from __future__ import annotations

from typing import Any

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.testing import (
    Assumptions,
    CohortsEmulator,
    FakeClock,
    Quotas,
)

from .canary import API_KEY, SECRET_KEY


def unlimited_client(base_url: str, clock: FakeClock, **options: Any) -> CohortsClient:
    """Return a client of a server, with further arguments of `CohortsClient`."""
    return CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=base_url,
        clock=clock,
        limits=UNLIMITED,
        **options,
    )


def emulator_assuming(clock: FakeClock, **assumed: Any) -> CohortsEmulator:
    """Return an emulator that does so where the vendor's page is silent."""
    return CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        quotas=Quotas.unlimited(),
        assumptions=Assumptions(**assumed),
    )
