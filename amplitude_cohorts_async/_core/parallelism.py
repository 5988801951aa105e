"""
How many connections one download uses.

More connections help where the store gives one connection less than this machine
can take. If the machine or the line is the bottleneck, they only add cost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

_MIN_LEFT = 16 * 1024 * 1024
_MIN_SECONDS = 0.5
# Bytes a second; a store that throttles a connection gives it less.
_FAST = 160e6

# The share of time the loop's thread may be busy, so that other tasks get their turns.
_MAX_BUSY = 0.9

# Growth in one step, and the share of the former connections' rate that each further
# one has to add: all of it, as long as the store is the bottleneck.
_MAX_STEP = 16
_MIN_GAIN = 0.5

_MAX_WAITING = 0.2
_MIN_PART, _MAX_PART = 1 << 20, 16 << 20


@attrs.frozen(kw_only=True)
class Sample:
    """
    A measurement of a download over a short time.

    Attributes:
        rate: Bytes a second.
        busy: Share of the time in which the event loop's thread was at work.
        ours: Share of the time in which it worked for downloads, this one and others;
            0 when unknown.
        waiting: Seconds that connections waited for the disk, for each second; the sum
            over all connections.
        left: Bytes still to come.
    """

    rate: float
    busy: float
    ours: float = 0.0
    waiting: float = 0.0
    left: int


class ParallelismController:
    """Adds connections, counted in `connections`, as long as they raise the rate."""

    def __init__(self, most: int) -> None:
        self.connections = 1
        self._most = most
        self._rate = 0.0
        self._from = 1

    def update(self, sample: Sample) -> int:
        """
        Return the number of connections after a sample taken since it changed last.
        """
        is_throttled = (
            0 < sample.rate < _FAST * self.connections
            and sample.waiting < _MAX_WAITING * self.connections
        )
        is_worth_it = sample.left > max(_MIN_LEFT, _MIN_SECONDS * sample.rate)
        step = self.connections / self._from
        has_gained = sample.rate >= (1 + _MIN_GAIN * (step - 1)) * self._rate

        if is_throttled and is_worth_it and has_gained:
            wanted = min(
                self._most, _MAX_STEP * self.connections, self._affordable(sample)
            )

            if wanted > self.connections:
                self._from, self._rate = self.connections, sample.rate
                self.connections = wanted

        return self.connections

    def _affordable(self, sample: Sample) -> int:
        # The loop's other work does not grow with the connections.
        ours = max(0.01, sample.ours or sample.busy)
        others = max(0.0, sample.busy - ours)

        return int(self.connections * (_MAX_BUSY - others) / ours)


class RangeAllocator:
    """The missing bytes of an object, handed out from the front."""

    def __init__(self, gaps: Sequence[tuple[int, int]]) -> None:
        self._gaps = deque(gap for gap in gaps if gap[0] < gap[1])

    @property
    def left(self) -> int:
        """Bytes not handed out yet."""
        return sum(end - start for start, end in self._gaps)

    def claim(self, connections: int) -> tuple[int, int] | None:
        """
        Return the first byte and the end of the next part; None when none is left.

        Parts shrink towards the end, so that all connections end at about the same time
        with few requests.
        """
        if not self._gaps:
            return None

        share = self.left // (2 * connections)
        start, gap_end = self._gaps.popleft()
        end = min(gap_end, start + max(_MIN_PART, min(_MAX_PART, share)))

        if end < gap_end:
            self._gaps.appendleft((end, gap_end))

        return start, end
