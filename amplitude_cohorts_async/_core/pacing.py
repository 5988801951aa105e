"""
How fast requests may follow each other: the effect of a 429, and exports in windows.

Pure: times come in as numbers, a new `Pace` or the starts of exports come out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace

import attrs

from ..limits import Kind, Limits, Rate

# The service was never seen to send Retry-After: our own pauses start with 15 s and
# double up to ten minutes, the longest window it documents. A refused poll is
# ordinary: the vendor's own clients ask again after 5 s.
_FIRST_PAUSE = 15.0
_FIRST_PAUSE_UNCOUNTED = 5.0
_LONGEST_PAUSE = 600.0
# One request too many at once: over as soon as another one ends.
_CROWDED_PAUSE = 2.0

# Spacing of exports, as multiples of an even share of the shortest window: for 4 a
# minute, one each 15, 20, 30 or 60 s.
_STEPS = (0.0, 1.0, 4 / 3, 2.0, 4.0)
_CALM = 40

_EXPORTS: frozenset[Kind] = frozenset({"export"})
_ALL_OF_A_JOB: frozenset[Kind] = frozenset({"export", "poll", "file"})
# One bad hour must not slow polls down for ever.
_REMEMBERED = 600.0


@attrs.frozen(kw_only=True)
class Refusal:
    """
    One answer 429.

    Attributes:
        sent_at: When the request got its slot.
        at: When the answer arrived.
        details: Its text, as in "Exceeded rate limit with query of cost 1".
    """

    kind: Kind
    sent_at: float
    at: float
    retry_after: float | None = None
    details: str = ""

    @property
    def crowded(self) -> bool:
        """Whether too many requests ran at once, rather than in a window."""
        return "concurren" in self.details.lower()

    @property
    def names_rate(self) -> bool:
        """Whether the text names too many requests in a window."""
        return "rate" in self.details.lower()


@attrs.frozen(kw_only=True)
class Pace:
    """
    How carefully requests go on.

    Attributes:
        paused_until: Nothing is sent before this time.
        paused_at: When the last pause began. A refusal of a request sent before it is
            no news.
        pauses: Pauses in a row; each is twice as long as the last.
        step: How far exports are spread out, as an index of `_STEPS`.
        calm: Good answers since the last change.
        counted: Kinds of request that count in the windows.
        learned_at: When the service last showed that more than exports count.
    """

    paused_until: float = -math.inf
    paused_at: float = -math.inf
    pauses: int = 0
    refused_kind: Kind | None = None
    step: int = 0
    calm: int = 0
    counted: frozenset[Kind] = _EXPORTS
    learned_at: float = -math.inf

    def spacing(self, rates: Sequence[Rate]) -> float:
        """Return the least seconds between two starts that count."""
        if not rates:
            return 0.0

        shortest = min(rates, key=lambda rate: rate.per)
        return shortest.per / shortest.count * _STEPS[self.step]

    def refused(self, refusal: Refusal) -> Pace:
        """Return the slower pace after a 429."""
        if refusal.sent_at < self.paused_at:
            return self._paused(refusal, _seconds_asked(refusal, 0.0))

        if refusal.crowded:
            return self._paused(refusal, _seconds_asked(refusal, _CROWDED_PAUSE))

        pace = self._learned(refusal)
        counts = refusal.kind in pace.counted
        first = _FIRST_PAUSE if counts else _FIRST_PAUSE_UNCOUNTED
        ours = min(_LONGEST_PAUSE, first * 2.0 ** min(self.pauses, 10))
        pace = attrs.evolve(
            pace._paused(refusal, _seconds_asked(refusal, ours)),  # noqa: SLF001
            pauses=self.pauses + 1,
            refused_kind=refusal.kind,
        )

        if not counts:
            return pace

        step = min(len(_STEPS) - 1, pace.step + 1)
        return attrs.evolve(pace, step=step, calm=0)

    def answered(self, kind: Kind, *, sent_at: float) -> Pace:
        """Return the pace after a good answer: faster again after enough of them."""
        if self.counted != _EXPORTS and sent_at > self.learned_at + _REMEMBERED:
            return attrs.evolve(self, counted=_EXPORTS)

        if (not self.pauses and not self.step) or sent_at < self.paused_at:
            return self

        same = kind == self.refused_kind
        pace = attrs.evolve(self, pauses=0 if same else self.pauses)

        if kind not in self.counted or not self.step:
            return pace
        if self.calm + 1 < _CALM:
            return attrs.evolve(pace, calm=self.calm + 1)
        return attrs.evolve(pace, calm=0, step=max(0, self.step - 1))

    def _learned(self, refusal: Refusal) -> Pace:
        # The documentation does not say whether polls and files count as "single
        # cohort requests". A refusal that names the rate shows it; one without a text
        # does not.
        if refusal.kind not in {"poll", "file"} or not refusal.names_rate:
            return self

        return attrs.evolve(self, counted=_ALL_OF_A_JOB, learned_at=refusal.at)

    def _paused(self, refusal: Refusal, seconds: float) -> Pace:
        until = max(self.paused_until, refusal.at + seconds)
        return attrs.evolve(
            self, paused_until=until, paused_at=max(self.paused_at, refusal.at)
        )


def _seconds_asked(refusal: Refusal, otherwise: float) -> float:
    asked = refusal.retry_after
    return otherwise if asked is None or not 0 <= asked < math.inf else asked


def reuse_after(rate: Rate, limits: Limits) -> float:
    """
    Return the seconds a place in a window stays taken after its request ended.

    The window, a thousandth more for a clock that runs fast, and the margin.
    """
    return rate.per * 1.001 + limits.clock_margin


def binding_rates(rates: Sequence[Rate]) -> list[Rate]:
    """
    Return the rates that no other implies, the longest window first.

    4 a minute, for example, imply 60 in ten minutes.
    """
    return [
        rate
        for rate in sorted(rates, key=lambda rate: -rate.per)
        if not any(_implies(other, rate) for other in rates if other != rate)
    ]


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
    Return the earliest starts of *count* exports, in order, on the clock of *now*.

    The rule is the limiters': each start takes the place in every window that has been
    free the longest, and holds it for `reuse_after()` from the end of its request.

    Args:
        now: The present, or the end of a pause.
        taken_until: For each rate, when its taken places become free.
        latency: Seconds from sending an export request to its answer.
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


def _places(rate: Rate, taken_until: Sequence[float]) -> list[float]:
    last = sorted(taken_until)[-rate.count :]
    places = last + [-math.inf] * (rate.count - len(last))
    heapify(places)
    return places


def _implies(one: Rate, other: Rate) -> bool:
    return one.count * math.ceil(other.per / one.per) <= other.count
