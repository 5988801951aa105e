"""
The exports of one app that were requested and are not delivered yet.

The only place where exports meet the store that holds them. A shared limiter brings
a store for its fleet; every other limiter gets one in this process.
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
"""Seconds in which the next call joins an export that was not delivered."""


class AttemptLog:
    """
    The record of the requests for one export; this one writes nothing.

    The order is `attempted()`, then `refused()` and `attempted()` again for each
    retry, then `requested()`. The last is missing if the answer was lost.
    """

    async def attempted(self) -> None:
        """Record durably that a request is about to be sent; no request if it raises."""

    async def refused(self) -> None:
        """Record that the last request spent no export."""

    async def requested(self, token: str) -> None:
        """Record the token of an export that was spent or joined; never raises."""


class LocalRunningJobs:
    """The `RunningJobs` of the clients of one app in one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks = KeyedLock()
        # Clients of one app may live in several threads.
        self._mutex = threading.Lock()
        self._jobs: dict[str, tuple[str, float]] = {}

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Return a lock that one caller at a time holds for this export."""
        return self._locks.hold(key)

    async def find(self, key: str) -> str | None:
        """Return the token of the running export, if there is one."""
        token, until = self._jobs.get(key, ("", 0.0))

        return token if self._clock.now() < until else None

    async def record(self, key: str, token: str, *, seconds: float) -> None:
        """Record a running export; it counts as over after *seconds*."""
        now = self._clock.now()

        with self._mutex:
            self._jobs = {k: job for k, job in self._jobs.items() if now < job[1]}
            self._jobs[key] = token, now + seconds

    async def forget(self, key: str, token: str) -> None:
        """Remove an export, unless another one has taken its place."""
        with self._mutex:
            if self._jobs.get(key, ("", 0.0))[0] == token:
                del self._jobs[key]


class ExportMemory:
    """
    The running exports of one app.

    A store that cannot be reached must not lose an export that was spent: only
    `lock()` and `find()`, which come before the request, raise
    `LimiterUnavailableError`.
    """

    def __init__(self, limiter: Limiter, clock: Clock) -> None:
        store = limiter.job_store

        if store is None:
            # The limiter holds it, because all clients of an app share the limiter: the
            # store lives as long as the last of them. `setdefault()` is atomic, for
            # their threads.
            store = vars(limiter).setdefault("_jobs", LocalRunningJobs(clock))

        self._jobs: RunningJobs = store

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Return a lock that one caller at a time holds for an `export_key()`."""
        return self._jobs.lock(key)

    async def find(self, key: str) -> ExportRef | None:
        """Return the running export of a key, if there is one."""
        token = await self._jobs.find(key)

        return None if token is None else from_token(token)

    async def record(self, ref: ExportRef) -> None:
        """Record an export until it is delivered, for half an hour at most."""
        with suppress(LimiterUnavailableError):
            token = to_token(ref)
            await self._jobs.record(_key(ref), token, seconds=_RUNNING_TTL)

    async def forget(self, ref: ExportRef) -> None:
        """Remove an export that was delivered, or never will be."""
        with suppress(LimiterUnavailableError):
            await self._jobs.forget(_key(ref), to_token(ref))


def _key(ref: ExportRef) -> str:
    return export_key(str(ref.cohort_id), ref.properties)
