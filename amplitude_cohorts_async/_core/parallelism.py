"""
How many connections one download is worth.

A store gives one connection less than this machine can take; then more of them
help. If the machine, or the line, is what holds things up, they only cost.
"""

from __future__ import annotations

import attrs

_LEAST_LEFT = 16 * 1024 * 1024
_LEAST_SECONDS = 0.5
_FAST = 160e6
"""Bytes a second that no store gives a connection which it throttles."""

_BUSY = 0.9
"""
Share of its time that the loop's thread may be at work, so that the other tasks
of the program keep their turns.
"""

_STEP = 16
_GAIN = 0.5
"""
Share that each further connection has to bring of what the former ones do: while
the store is what holds things up, it brings all of it.
"""

_WAITING = 0.2

_SHARES = (1 << 20, 16 << 20)


@attrs.frozen(kw_only=True)
class Sample:
    """
    How a download went for a while.

    Attributes:
        rate: Bytes a second.

        busy: Share of the time in which the event loop's thread was at work.

        ours: Share of the time in which it was at work for files, this one and
            others; 0 when unknown.

        waiting: Seconds that the wire waited for the disk, for each second;
            of several connections, each may have waited.

        left: Bytes still to come.
    """

    rate: float
    busy: float
    ours: float = 0.0
    waiting: float = 0.0
    left: int


class ParallelismController:
    """
    Opens connections as long as that pays.

    Attributes:
        connections: How many there should be.
    """

    def __init__(self, most: int) -> None:
        self.connections = 1
        self._most = most
        self._rate = 0.0
        self._from = 1

    def update(self, sample: Sample) -> int:
        """
        Return how many connections there should be from now on.

        Args:
            sample: Taken since the number changed last.
        """
        is_throttled = (
            0 < sample.rate < _FAST * self.connections
            and sample.waiting < _WAITING * self.connections
        )
        is_worth_it = sample.left > max(_LEAST_LEFT, _LEAST_SECONDS * sample.rate)
        step = self.connections / self._from
        has_gained = sample.rate >= (1 + _GAIN * (step - 1)) * self._rate

        if is_throttled and is_worth_it and has_gained:
            wanted = min(self._most, _STEP * self.connections, self._bearable(sample))

            if wanted > self.connections:
                self._from, self._rate = self.connections, sample.rate
                self.connections = wanted

        return self.connections

    def _bearable(self, sample: Sample) -> int:
        # What else the loop does will not grow with the connections.
        ours = max(0.01, sample.ours or sample.busy)
        others = max(0.0, sample.busy - ours)

        return int(self.connections * (_BUSY - others) / ours)


class RangeAllocator:
    """The bytes that are missing, handed out from the front."""

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._end = end

    @property
    def left(self) -> int:
        """Bytes not handed out yet."""
        return self._end - self._start

    def claim(self, connections: int) -> tuple[int, int] | None:
        """
        Return the next part, now handed out; None when there is none.

        The parts get smaller, so that all connections end at about the same
        time, and few requests are made.

        Returns:
            The first byte's position, and the one behind the last byte.
        """
        if not self.left:
            return None

        least, most = _SHARES
        share = self.left // (2 * connections)
        size = min(self.left, max(least, min(most, share)))
        self._start += size

        return self._start - size, self._start
