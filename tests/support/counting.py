"""
How a server may count requests: three ways to keep "n in any w seconds".

None of them is known to be the service's; a client has to please all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import attrs


class Counting(Protocol):
    """Counts requests as they come."""

    def admits(self, now: float) -> bool:
        """Count one more request; False says 429."""
        ...


@attrs.define
class FixedWindow:
    """Counts anew in each window; the first begins at *phase*."""

    count: int
    per: float
    phase: float = 0.0
    _window: int = -1
    _seen: int = 0

    def admits(self, now: float) -> bool:
        """Count one more request."""
        window = int((now - self.phase) // self.per)
        if window != self._window:
            self._window, self._seen = window, 0

        self._seen += 1
        return self._seen <= self.count


@attrs.define
class SlidingLog:
    """Remembers the admitted ones of the last *per* seconds."""

    count: int
    per: float
    _admitted: list[float] = attrs.field(factory=list)

    def admits(self, now: float) -> bool:
        """Count one more request."""
        recent = len(self._admitted) - bisect_right(self._admitted, now - self.per)
        if recent >= self.count:
            return False

        self._admitted.append(now)
        return True


@attrs.define
class TokenBucket:
    """Holds *count* tokens, and gets as many back in *per* seconds, bit by bit."""

    count: int
    per: float
    _tokens: float | None = None
    _at: float = 0.0

    def admits(self, now: float) -> bool:
        """Take a token."""
        tokens = self.count if self._tokens is None else self._tokens
        refilled = tokens + (now - self._at) * self.count / self.per
        self._tokens, self._at = min(float(self.count), refilled), now

        if self._tokens < 1:
            return False

        self._tokens -= 1
        return True


def every_counting(
    rates: Sequence[tuple[int, float]], *, phases: int = 12
) -> dict[str, list[Counting]]:
    """Make the servers: each keeps all *rates*, in its own way."""
    servers: dict[str, list[Counting]] = {
        f"fixed window, phase {phase}/{phases}": [
            FixedWindow(count, per, phase=-per * phase / phases) for count, per in rates
        ]
        for phase in range(phases)
    }
    servers["sliding log"] = [SlidingLog(count, per) for count, per in rates]
    servers["token bucket"] = [TokenBucket(count, per) for count, per in rates]

    return servers


def most_in_any(moments: Sequence[float], per: float) -> int:
    """Tell the most moments that any half-open window of *per* seconds holds."""
    times = sorted(moments)
    return max(
        (bisect_right(times, start + per) - index for index, start in enumerate(times)),
        default=0,
    )
