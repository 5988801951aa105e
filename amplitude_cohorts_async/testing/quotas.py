"""
The vendor's limits, and the counting of them.

Rules: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

import attrs

__all__ = ("Quotas", "WindowKind", "counters")

WindowKind = Literal["log", "fixed", "bucket"]


@attrs.frozen(kw_only=True)
class Quotas:
    """
    How much the emulator allows; the vendor's figures by default.

    Attributes:
        concurrent: Requests in flight at once, over all endpoints; None for
            any number.

        windows: Pairs of a count and seconds, for requests of one cohort.

        window: How starts are counted: "log" counts any window that ends
            now, "fixed" restarts on the hour, as it were, and "bucket"
            refills while it drains. Nobody outside knows which it is.

        refused_count: Whether a refused start fills a window as well.

        month: Requests of one cohort a month; None for an unlimited plan.

        used: Requests already spent this month.

        ids: Identifiers in one request.

        members: Members of one cohort.
    """

    concurrent: int | None = 5
    windows: tuple[tuple[int, float], ...] = ((4, 60.0), (60, 600.0))
    window: WindowKind = "log"
    refused_count: bool = False
    month: int | None = 500
    used: int = 0
    ids: int = 100_000
    members: int = 2_000_000

    @classmethod
    def unlimited(cls) -> Quotas:
        """
        Return quotas that let any number of requests through.
        """
        return cls(concurrent=None, windows=(), month=None)


class Counter(Protocol):
    """
    Counts starts against one window.
    """

    def room(self, now: float) -> bool:
        """
        Tell whether one more may start.
        """
        ...

    def take(self, now: float) -> None:
        """
        Count a start.
        """
        ...


class _Log:
    """
    At most `count` starts in any window.
    """

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._starts: deque[float] = deque()

    def room(self, now: float) -> bool:
        while self._starts and now - self._starts[0] >= self._per:
            self._starts.popleft()

        return len(self._starts) < self._count

    def take(self, now: float) -> None:
        self._starts.append(now)


class _Fixed:
    """
    At most `count` starts between two strokes of the clock.
    """

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._period = -1
        self._taken = 0

    def room(self, now: float) -> bool:
        period = math.floor(now / self._per)

        if period != self._period:
            self._period, self._taken = period, 0

        return self._taken < self._count

    def take(self, now: float) -> None:
        del now
        self._taken += 1


class _Bucket:
    """
    A bucket of `count` tokens that refills evenly.
    """

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._tokens = float(count)
        self._filled_at = 0.0

    def room(self, now: float) -> bool:
        fresh = max(0.0, now - self._filled_at) * self._count / self._per
        self._tokens = min(float(self._count), self._tokens + fresh)
        self._filled_at = now
        # The refill is a sum of fractions; do not refuse for its last bit.
        return self._tokens > 1 - 1e-9

    def take(self, now: float) -> None:
        del now
        self._tokens -= 1


def counters(quotas: Quotas) -> list[Counter]:
    """
    Return a fresh counter for each window.
    """
    kinds: dict[WindowKind, Callable[[int, float], Counter]] = {
        "log": _Log,
        "fixed": _Fixed,
        "bucket": _Bucket,
    }

    return [kinds[quotas.window](count, per) for count, per in quotas.windows]
