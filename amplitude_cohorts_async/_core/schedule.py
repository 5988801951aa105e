"""
When can the next exports start? Arithmetic for plans and refusals.

Keeps the same rules as the limiters: each start takes the place in every
window that has been free the longest, and holds it until a window, a
thousandth and the margin after its request ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace

from ..limits import Limits, Rate


def reuse_after(rate: Rate, limits: Limits) -> float:
    """
    Return how long a place in a window stays taken once a request ended.

    The window, a thousandth more for a clock that runs fast, and the margin.
    """
    return rate.per * 1.001 + limits.clock_margin


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
    Return the earliest starts of *count* exports asked for at once.

    Args:
        now: The present, or the end of a pause.

        taken_until: For each rate the moments until which its places are
            taken; places that are missing are free.

        latency: Seconds from sending an export request to its answer.

        spacing: Least seconds between two starts.

    Returns:
        The starts in order, on the clock that *now* was read from.
    """
    taken = taken_until or {}
    windows = [
        (reuse_after(rate, limits), _places(rate, taken.get(rate, ())))
        for rate in limits.exports
    ]
    starts: list[float] = []
    earliest = now

    for _ in range(count):
        start = max([earliest, *(places[0] for _, places in windows)])
        starts.append(start)
        earliest = start + spacing
        for seconds, places in windows:
            heapreplace(places, start + latency + seconds)

    return starts


def binding_rates(rates: Sequence[Rate]) -> list[Rate]:
    """
    Return the rates that no other implies, as 4 a minute implies 60 in ten.

    The longest window comes first.
    """
    return [
        rate
        for rate in sorted(rates, key=lambda rate: -rate.per)
        if not any(_implies(other, rate) for other in rates if other != rate)
    ]


def _implies(one: Rate, other: Rate) -> bool:
    return one.count * math.ceil(other.per / one.per) <= other.count


def _places(rate: Rate, taken_until: Sequence[float]) -> list[float]:
    last = sorted(taken_until)[-rate.count :]
    places = last + [-math.inf] * (rate.count - len(last))
    heapify(places)
    return places
