"""
Limiters, which keep the limits of one app, and the base class for your own.

Your own limiter is a subclass of `Limiter` with one method:

    class Gateway(Limiter):
        @asynccontextmanager
        async def slot(self, kind):
            async with my_semaphore:
                yield Permit()

A client uses `LocalLimiter` by default; `SqliteLimiter` is shared by the processes of
a machine, `contrib.redis.RedisLimiter` and `contrib.postgres.PostgresLimiter` by a fleet.
"""

from ._io.context import Clock
from ._io.limits.base import Limiter, Permit, SharedCounter, Statistics
from ._io.limits.local import LocalLimiter
from ._io.limits.sqlite import SqliteLimiter
from .limits import Kind

__all__ = (
    "Clock",
    "Kind",
    "Limiter",
    "LocalLimiter",
    "Permit",
    "SharedCounter",
    "SqliteLimiter",
    "Statistics",
)
