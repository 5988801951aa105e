"""Every limiter of ours keeps the promises of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amplitude_cohorts_async.limiters import Limiter, LocalLimiter, SqliteLimiter
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.testing import LimiterConformance

if TYPE_CHECKING:
    from support.valkey import Valkey


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
class TestRedisLimiter(LimiterConformance):
    """Whose members are on one store."""

    long = 3.2

    @pytest.fixture(autouse=True)
    def store(self, valkey: Valkey) -> None:
        """The store of this test, which has been in use: a new one is waited out."""
        redis = pytest.importorskip("redis", reason="the extra redis is not installed")
        self.url = valkey.url

        with redis.Redis.from_url(valkey.url) as store:
            store.flushall()
            store.set("cohorts:{app}:epoch", "old")

    def make(self, limits: Limits) -> Limiter:
        """One more on the store."""
        from amplitude_cohorts_async.contrib.redis import RedisLimiter  # noqa: PLC0415

        return RedisLimiter(self.url, app="app", limits=limits, lease=LEASE)
