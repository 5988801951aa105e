"""One object for each event loop, and objects that its users share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class PerLoop(Generic[T]):
    """One object for each event loop that is not closed, made at first use."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Return that of the running loop."""
        loop = asyncio.get_running_loop()

        if loop not in self._made:
            # In steps that other threads may come between.
            for old in list(self._made):
                if old.is_closed():
                    self._made.pop(old, None)
            self._made[loop] = self._make()

        return self._made[loop]

    def pop(self) -> T | None:
        """Return that of the running loop, if there is one, and forget it."""
        return self._made.pop(asyncio.get_running_loop(), None)


@attrs.define(eq=False)
class _Counted(Generic[T]):
    value: T
    users: int = 0


class Share(Generic[T]):
    """One user's share of an object; see `SharedPerLoop`."""

    def __init__(self, counted: _Counted[T], forget: Callable[[], None]) -> None:
        counted.users += 1
        self.value = counted.value
        self._counted = counted
        self._forget = forget
        self._has_left = False

    def leave(self) -> bool:
        """Return whether its last user leaves it; may be called twice."""
        if self._has_left:
            return False

        self._has_left = True
        self._counted.users -= 1
        if self._counted.users:
            return False

        self._forget()
        return True


class SharedPerLoop(Generic[K, T]):
    """One object for each key and event loop, until the last of its users leaves it."""

    def __init__(self, make: Callable[[K], T]) -> None:
        self._make = make
        self._of_loop: PerLoop[dict[K, _Counted[T]]] = PerLoop(dict)

    def enter(self, key: K) -> Share[T]:
        """Return a share of the running loop's object."""
        here = self._of_loop.get()

        if key not in here:
            here[key] = _Counted(self._make(key))
        counted = here[key]

        return Share(counted, lambda: self._forget(key, counted))

    def _forget(self, key: K, counted: _Counted[T]) -> None:
        here = self._of_loop.get()

        if here.get(key) is counted:
            del here[key]
