"""The base class of all job stores."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, TypeVar

from ..fifo_lock import KeyedLock

T = TypeVar("T")

Work: TypeAlias = Callable[[MutableMapping[str, str], float], T]
"""Reads and changes the rows of one group; the second argument is the store's time."""


class JobStore(ABC):
    """
    Keeps what was spent, for all clients of some apps.

    A store holds rows of text, by app, group and key, and knows nothing of their
    meaning: the library changes the rows of one group at a time, as a whole. A
    subclass needs `transact()` and `groups()`.

    Attributes:
        durable: Whether the rows outlive the process, a crash and a loss of power.
        local: Whether only processes of this machine use it, which can see each other
            end.
        lease: Seconds after which a caller that shows no sign of life counts as
            dead, if nothing shows it earlier.
    """

    durable: bool = False
    local: bool = False
    lease: float = 15.0

    @abstractmethod
    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """
        Run *work* on the rows of a group, atomically, and return its result.

        What it changed is stored when this returns, durably if the store is. If it
        raises, nothing is. It may run several times, in any thread. The library waits
        for the end even if its caller is cancelled.

        Args:
            app: A hash that names the app; no secret.
            group: What the rows are about.
            work: Called with the rows, which it may change in place, and with the
                time: seconds on a clock that all users of the store share, and
                that is never set back.

        Raises:
            JobStoreUnavailableError: It is not known what is stored.
        """

    @abstractmethod
    async def groups(self, app: str) -> Sequence[str]:
        """
        Return the groups of an app that have rows.

        Raises:
            JobStoreUnavailableError: The store cannot be read.
        """

    async def aclose(self) -> None:  # noqa: B027 - nothing to release
        """Release outside resources; may be called twice."""

    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        """
        Wait until no other task of this process holds this name.

        It spares waiting for leases; other processes are kept apart by those.
        """
        # Made at first use, because a subclass need not call our constructor; in one
        # step, because clients may run in several threads; and anew after a fork,
        # because this process never releases those of its parent.
        locks: KeyedLock = vars(self).setdefault(f"_locks_{os.getpid()}", KeyedLock())

        return locks.hold(name)
