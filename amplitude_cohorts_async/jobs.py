"""
Job stores, which keep what was spent, and the base class for your own.

A store knows rows of text and nothing of their meaning. Your own is a subclass of
`JobStore` with two methods; `testing.JobStoreConformance` tries
it out.

A client uses a `MemoryJobStore` by default, which survives everything but the end of
the process. `SqliteJobStore` survives that, too; a fleet's is
`contrib.redis.RedisJobStore` or `contrib.postgres.PostgresJobStore`.
"""

from ._core.claims import LONGEST_OCCURRENCE
from ._core.job_rows import OnUnknown
from ._io.jobs.base import JobStore, Work
from ._io.jobs.memory import MemoryJobStore
from ._io.jobs.sqlite import SqliteJobStore
from .models import JobDelivery, JobRecord, Tick

__all__ = (
    "LONGEST_OCCURRENCE",
    "JobDelivery",
    "JobRecord",
    "JobStore",
    "MemoryJobStore",
    "OnUnknown",
    "SqliteJobStore",
    "Tick",
    "Work",
)
