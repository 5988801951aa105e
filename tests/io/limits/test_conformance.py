"""Every limiter of ours keeps the promises of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amplitude_cohorts_async.limiters import Limiter, LocalLimiter, SqliteLimiter
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.testing import LimiterConformance
from support.fleet_stores import limiter_of

if TYPE_CHECKING:
    from support.fleet_stores import FleetStore


class TestLocalLimiter(LimiterConformance):
    """Whose members are one."""

    limiter: Limiter | None = None

    def make(self, limits: Limits) -> Limiter:
        """The limiter of this test."""
        self.limiter = self.limiter or LocalLimiter(limits)
        return self.limiter


# A busy machine stops a process for a moment; the shorter the lease, the sooner its
# places are lost.
LEASE = 1.0


class TestSqliteLimiter(LimiterConformance):
    """Whose members are on one file."""

    long = 3.2

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        """The file of this test."""
        self.path = tmp_path / "limits.db"

    def make(self, limits: Limits) -> Limiter:
        """One more on the file."""
        return SqliteLimiter(self.path, app="app", limits=limits, lease=LEASE)


@pytest.mark.services
class TestFleetLimiter(LimiterConformance):
    """Whose members are on one store: of a RedisLimiter, and of a PostgresLimiter."""

    long = 3.2

    @pytest.fixture(autouse=True)
    def store(self, fleet_store: FleetStore) -> None:
        """The store of this test, which has been in use: a new one is waited out."""
        self.shared = fleet_store
        fleet_store.use()

    def make(self, limits: Limits) -> Limiter:
        """One more on the store."""
        return limiter_of(self.shared, app="app", limits=limits, lease=LEASE)
