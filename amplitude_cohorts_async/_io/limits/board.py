"""
Which exports are running: so that one asked for twice is requested once.

The board of one process. A shared limiter brings one for its whole fleet.
"""

from __future__ import annotations

import threading
from contextlib import AbstractAsyncContextManager

from ..clock import Clock
from .turns import KeyedLock


class LocalBoard:
    """
    The `RunningJobs` of the clients of one app in one process.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._claims = KeyedLock()
        # Clients of one app may live in several threads.
        self._mutex = threading.Lock()
        self._jobs: dict[str, tuple[str, float]] = {}

    def claim(self, key: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until nobody else is about to request this export.
        """
        return self._claims.hold(key)

    async def find(self, key: str) -> str | None:
        """
        Tell the token of the running export, if there is one.
        """
        token, until = self._jobs.get(key, ("", 0.0))

        return token if self._clock.now() < until else None

    async def put(self, key: str, token: str, *, seconds: float) -> None:
        """
        Tell the others of an export that is running now.

        Args:
            seconds: After this long it is taken for over, whatever happened.
        """
        now = self._clock.now()

        with self._mutex:
            self._jobs = {k: job for k, job in self._jobs.items() if now < job[1]}
            self._jobs[key] = token, now + seconds

    async def remove(self, key: str, token: str) -> None:
        """
        Tell the others that this export is over.
        """
        with self._mutex:
            if self._jobs.get(key, ("", 0.0))[0] == token:
                del self._jobs[key]
