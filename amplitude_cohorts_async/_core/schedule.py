"""
When can the next exports start? Arithmetic for plans and refusals.

Keeps the same rules as the limiters: each start takes the place in every
window that has been free the longest, and holds it until a window, a
thousandth and the guard after its request ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace

from ..limits import Limits, Rate


def earliest_starts(
    count: int,
    limits: Limits,
    *,
    now: float = 0.0,
    taken_until: Mapping[Rate, Sequence[float]] | None = None,
    latency: float = 0.5,
    spacing: float = 0.0,
) -> list[float]:
    """
    Tell the earliest starts of *count* exports asked for at once.

    Args:
        now: The present, or the end of a pause.

        taken_until: For each rate the moments until which its places are
            taken; places that are not told of are free.

        latency: Seconds from sending an export request to its answer.

        spacing: Least seconds between two starts.

    Returns:
        The starts in order, on the clock that *now* was read from.
    """
    taken = taken_until or {}
    rings = [
        (limits.hold(rate), _ring(rate, taken.get(rate, ()))) for rate in limits.exports
    ]
    starts: list[float] = []
    earliest = now

    for _ in range(count):
        start = max([earliest, *(ring[0] for _, ring in rings)])
        starts.append(start)
        earliest = start + spacing
        for hold, ring in rings:
            heapreplace(ring, start + latency + hold)

    return starts


def binding_rates(rates: Sequence[Rate]) -> list[Rate]:
    """
    Leave out the rates that others keep anyway, as 4 a minute keeps 60 in ten.

    Returns:
        The rest, the longest window first.
    """
    return [
        rate
        for rate in sorted(rates, key=lambda rate: -rate.per)
        if not any(_implies(other, rate) for other in rates if other != rate)
    ]


def _implies(one: Rate, other: Rate) -> bool:
    return one.count * math.ceil(other.per / one.per) <= other.count


def _ring(rate: Rate, taken_until: Sequence[float]) -> list[float]:
    last = sorted(taken_until)[-rate.count :]
    ring = last + [-math.inf] * (rate.count - len(last))
    heapify(ring)
    return ring
