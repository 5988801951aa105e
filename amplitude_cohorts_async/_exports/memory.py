"""
What is remembered of exports: those that were requested and not delivered yet.

The one seam between exports and the stores that remember them. A shared limiter
brings a store for its fleet; other limiters get one of this process each.
"""

from __future__ import annotations

import threading
from contextlib import AbstractAsyncContextManager, suppress

from .._core.tokens import ExportRef, export_key, from_token, to_token
from .._io.context import Clock
from .._io.limits.base import Limiter, RunningJobs
from .._io.limits.fifo_lock import KeyedLock
from ..errors import LimiterUnavailableError

_RUNNING_TTL = 1800.0
"""Seconds in which an export that was not delivered is taken up by the next call."""


class NoAttemptLog:
    """An `AttemptLog` for exports that belong to no run."""

    async def attempted(self) -> None:
        """Write nothing."""

    async def refused(self) -> None:
        """Write nothing."""

    async def requested(self, token: str) -> None:
        """Write nothing."""


NO_RECORD = NoAttemptLog()


class LocalRunningJobs:
    """The `RunningJobs` of the clients of one app in one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks = KeyedLock()
        # Clients of one app may live in several threads.
        self._mutex = threading.Lock()
        self._jobs: dict[str, tuple[str, float]] = {}

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Wait until no other caller is about to request this export."""
        return self._locks.hold(key)

    async def find(self, key: str) -> str | None:
        """Return the token of the running export, if there is one."""
        token, until = self._jobs.get(key, ("", 0.0))

        return token if self._clock.now() < until else None

    async def record(self, key: str, token: str, *, seconds: float) -> None:
        """Record an export that is running now, for so long at most."""
        now = self._clock.now()

        with self._mutex:
            self._jobs = {k: job for k, job in self._jobs.items() if now < job[1]}
            self._jobs[key] = token, now + seconds

    async def forget(self, key: str, token: str) -> None:
        """Forget an export that is over, unless another one is recorded by now."""
        with self._mutex:
            if self._jobs.get(key, ("", 0.0))[0] == token:
                del self._jobs[key]


class ExportMemory:
    """
    The exports of one app that were requested and not delivered.

    A store that is away must not lose an export that was spent: only `lock()` and
    `find()` raise `LimiterUnavailableError`, before anything is.
    """

    def __init__(self, limiter: Limiter, clock: Clock) -> None:
        self._jobs = _job_store(limiter, clock)

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other caller is about to request the same.

        Args:
            key: The `export_key()` of what is asked for.
        """
        return self._jobs.lock(key)

    async def find(self, key: str) -> ExportRef | None:
        """Return an export of the same that was not delivered, if there is one."""
        token = await self._jobs.find(key)

        return None if token is None else from_token(token)

    async def record(self, ref: ExportRef) -> None:
        """Remember an export until it is delivered, or for half an hour."""
        with suppress(LimiterUnavailableError):
            token = to_token(ref)
            await self._jobs.record(_key(ref), token, seconds=_RUNNING_TTL)

    async def forget(self, ref: ExportRef) -> None:
        """Forget an export that was delivered, or that can never be."""
        with suppress(LimiterUnavailableError):
            await self._jobs.forget(_key(ref), to_token(ref))


def _job_store(limiter: Limiter, clock: Clock) -> RunningJobs:
    if limiter.job_store is not None:
        return limiter.job_store

    # Kept with the limiter, because all clients of an app share that: this lives
    # as long as the last of them. In one step, because they may live in threads.
    jobs: RunningJobs = vars(limiter).setdefault("_jobs", LocalRunningJobs(clock))

    return jobs


def _key(ref: ExportRef) -> str:
    return export_key(str(ref.cohort_id), ref.properties)
