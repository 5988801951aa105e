"""
The order of those who wait: tasks, and callers who come back with a ticket.

A ticket is plain data: a name, a number and the end of its lease. Nothing waits behind
it, so nothing has to be cleaned up when its owner does not come back.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Callable
from uuid import uuid4

import attrs

KEPT_FOR = 30.0
"""Seconds for which a ticket is kept beyond those after which it may ask again."""

LONGEST = 90.0
"""
Seconds after which a ticket asks again at the latest, however long its line.

Longer than a window of a minute, whose end is known. Those ahead may give up; and who does not come back holds up the others for less time.
"""

_LEAST = 0.05
# What a request in flight is taken to last.
_LATENCY = 0.5
_LONGEST_FOR_SLOT = 5.0

_NAME = re.compile(r"[0-9a-f]{32}")
# One order for all lines of the process, also for those of limiters that are gone.
_numbers = itertools.count(1)


def named(ticket: str | None) -> str:
    """Return the name of a ticket; a new one for a text that cannot be one."""
    if isinstance(ticket, str) and _NAME.fullmatch(ticket):
        return ticket

    return uuid4().hex


def again_in(seconds: float) -> float:
    """Return in how many seconds to ask again for what may be free after *seconds*."""
    return min(LONGEST, max(_LEAST, seconds))


def slot_in(ahead: int, places: int) -> float:
    """Return in how many seconds to ask again for a place in flight."""
    return min(_LONGEST_FOR_SLOT, _LATENCY * (1 + ahead // places))


@attrs.frozen
class Standing:
    """The number of a ticket, and until when it is kept."""

    number: int
    until: float


Tickets = dict[str, Standing]
"""What is to be remembered of a line: tickets by name."""


class Line:
    """Who waits for one thing, in the order they came; for tasks of any thread."""

    def __init__(
        self, now: Callable[[], float], tickets: Tickets | None = None
    ) -> None:
        """Begin with the tickets of an earlier line, which this one changes."""
        self._now = now
        self._mutex = threading.Lock()
        self._tasks: dict[int, None] = {}
        self._tickets: Tickets = {} if tickets is None else tickets

    def __len__(self) -> int:
        with self._mutex:
            return len(self._tasks) + len(self._kept())

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits; takes no lock."""
        return not self._tasks and not self._tickets

    def join(self) -> int:
        """Return the number of a task that waits from now on."""
        with self._mutex:
            number = next(_numbers)
            self._tasks[number] = None

        return number

    def leave(self, number: int) -> None:
        """Note that a task waits no more."""
        with self._mutex:
            del self._tasks[number]

    def tickets_ahead(self, number: int) -> int:
        """Return how many tickets are ahead of a task."""
        if not self._tickets:
            return 0

        with self._mutex:
            return sum(each.number < number for each in self._kept().values())

    def ends_at(self) -> float:
        """Return when the first lease of a ticket ends."""
        with self._mutex:
            return min((e.until for e in self._kept().values()), default=math.inf)

    def has(self, ticket: str) -> bool:
        """Whether a ticket is in the line."""
        with self._mutex:
            return ticket in self._kept()

    def draw(self, ticket: str, *, seconds: float = 0.0) -> int:
        """
        Keep a ticket's place, or give it the last one; return how many are ahead.

        Args:
            seconds: When its owner asks again.
        """
        with self._mutex:
            kept = self._kept()
            number = kept[ticket].number if ticket in kept else next(_numbers)
            kept[ticket] = Standing(number, self._now() + seconds + KEPT_FOR)
            tickets = sum(each.number < number for each in kept.values())
            tasks = sum(1 for _ in itertools.takewhile(number.__gt__, self._tasks))

        return tickets + tasks

    def drop(self, ticket: str) -> None:
        """Note that a ticket is over."""
        with self._mutex:
            self._tickets.pop(ticket, None)

    def _kept(self) -> Tickets:
        now = self._now()

        for name in [k for k, each in self._tickets.items() if each.until <= now]:
            del self._tickets[name]

        return self._tickets
