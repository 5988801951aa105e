"""
Who may start: the rules of a limiter that keeps its places in a ledger.

Each function here is called inside of one transaction. What is free is taken at
once and as a whole, so no request holds a place while it waits for another one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal
from uuid import uuid4

import attrs

from ..._core.pacing import (
    Pace,
    Refusal,
    binding_rates,
    earliest_starts,
    reuse_after,
)
from ...limits import Kind, Limits, Rate
from .ledger import Ledger, Row, Ticket
from .local import WITHHELD_FOR
from .shared import good_for
from .tickets import KEPT_FOR, again_in, slot_in

WINDOW = "window"
SLOT = "slot"

_SOON = 0.01

Stage = Literal["pause", "window", "slot"]


@attrs.define(eq=False)
class Candidate:
    """
    A request that wants to start, or a task that wants a lock.

    Attributes:
        pool: Whose place it needs last, in a line of the same name.
    """

    kind: Kind
    pool: str = SLOT
    id: str = attrs.field(factory=lambda: uuid4().hex)
    window: Ticket = attrs.field(factory=lambda: Ticket(WINDOW))
    last: Ticket = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.last = Ticket(self.pool)


@attrs.frozen(kw_only=True)
class Wait:
    """
    What a request waits for.

    Attributes:
        seconds: Nothing changes earlier; zero if that is not known.
        ahead: How many are ahead of it in the line.
        counts: Whether it waits in the line of those that count in the windows.
    """

    stage: Stage
    seconds: float
    ahead: int
    counts: bool


@attrs.define(eq=False)
class Holding:
    """
    The places of a request that may start.

    Attributes:
        windows: The pools of the windows in which it counts.
        good_until: When it must have ended, unless it is renewed.
    """

    candidate: Candidate
    windows: Sequence[str]
    good_until: float


@attrs.frozen(kw_only=True)
class Outlook:
    """What is to be expected, as the last transaction saw it."""

    pace: Pace
    last_start: float
    ahead: int
    taken: Mapping[Rate, Sequence[Row]]
    in_flight: int
    withheld: int


@attrs.frozen(kw_only=True)
class Slowdown:
    """What the refusal of a request changed."""

    refusal: Refusal
    before: Pace
    after: Pace


class AdmissionRules:
    """The rules that limits and a lease make."""

    def __init__(self, limits: Limits, *, lease: float) -> None:
        self._limits = limits
        self._lease = lease
        self._ttl = good_for(lease, limits.release_delay)
        self._windows = {
            f"w{rate.per:g}": rate for rate in binding_rates(limits.exports)
        }

    @property
    def recovery(self) -> float:
        """Seconds after which all places that a lost file held are free."""
        reuse = [reuse_after(rate, self._limits) for rate in self._windows.values()]
        return self._ttl + max(reuse, default=0.0)

    def outlook(self, ledger: Ledger) -> Outlook:
        """Return what is to be expected."""
        slots = ledger.taken(SLOT)

        return Outlook(
            pace=ledger.pace(),
            last_start=ledger.last_start(),
            ahead=ledger.ahead(Ticket(WINDOW)),
            taken={rate: ledger.taken(pool) for pool, rate in self._windows.items()},
            in_flight=len(slots),
            withheld=sum(row.state == "withheld" for row in slots),
        )

    def expected_starts(
        self, seen: Outlook, kind: Kind, *, now: float, count: int
    ) -> list[float]:
        """Return the earliest moments at which *count* more requests may start."""
        earliest = max(now, seen.pace.paused_until)
        if kind not in seen.pace.counted:
            return [earliest] * count

        spacing = seen.pace.spacing(self._limits.exports)
        starts = earliest_starts(
            seen.ahead + count,
            self._limits,
            now=max(earliest, seen.last_start + spacing),
            taken_until={
                rate: [self._free_at(row, rate, now) for row in rows]
                for rate, rows in seen.taken.items()
            },
            spacing=spacing,
        )
        return starts[seen.ahead :]

    def admit(
        self, ledger: Ledger, candidate: Candidate, *, heads: Collection[str] = ()
    ) -> Holding | Wait:
        """
        Let a request start, or have it wait in line.

        Args:
            heads: The lines at whose head it is within this process. Without one, it
                is behind all who wait, ours as well.
        """
        pace = ledger.pace()
        counts = candidate.pool == SLOT and candidate.kind in pace.counted
        wait = self._wait(ledger, candidate, pace, counts=counts, heads=heads)

        if wait is None:
            return self._take(ledger, candidate, counts=counts)

        if counts:
            ledger.draw(candidate.window)
        else:
            ledger.drop(candidate.window)
        if wait.stage == "slot":
            ledger.draw(candidate.last)
        elif counts:
            ledger.drop(candidate.last)

        return wait

    def try_to_admit(
        self, ledger: Ledger, candidate: Candidate, *, paced: bool
    ) -> Holding | Wait:
        """
        Let a request start now, or keep its place in line until it asks again.

        Args:
            ledger: Its owner is the ticket.
            paced: Whether the request keeps its place in the line of a pace, too.
        """
        tickets = candidate.window, candidate.last
        ledger.resume(tickets)
        outcome = self.admit(ledger, candidate)

        if isinstance(outcome, Holding):
            return outcome

        if outcome.stage == "pause" and not outcome.counts:
            if paced:
                ledger.drop(candidate.last)
            else:
                ledger.draw(candidate.last)

        seconds = self._again_in(ledger, candidate, outcome)
        ledger.keep_tickets(tickets, seconds=seconds + KEPT_FOR)
        return attrs.evolve(outcome, seconds=seconds)

    def renew(self, ledger: Ledger, holding: Holding) -> bool:
        """Keep the places of a long request; return whether it had them still."""
        had = ledger.renew(
            holding.candidate.pool, holding.candidate.id, seconds=self._ttl
        )

        for pool in holding.windows:
            seconds = self._ttl + self._reuse_after(pool)
            had = ledger.renew(pool, holding.candidate.id, seconds=seconds) and had

        if had:
            holding.good_until = ledger.now + self._lease
        return had

    def settle(
        self,
        ledger: Ledger,
        holding: Holding,
        refusals: Sequence[Refusal],
        *,
        sent_at: float,
        clean: bool,
    ) -> list[Slowdown]:
        """Note that a request has ended, and what its answer said about the pace."""
        kind, place = holding.candidate.kind, holding.candidate.id
        before = pace = ledger.pace()
        slowdowns: list[Slowdown] = []

        for refusal in refusals:
            after = pace.refused(refusal)
            slowdowns.append(Slowdown(refusal=refusal, before=pace, after=after))
            pace = after
        if clean and not refusals:
            pace = pace.answered(kind, sent_at=sent_at)
        if pace != before:
            ledger.keep_pace(pace)

        delay = 0.0 if clean else self._limits.release_delay
        for pool in holding.windows:
            seconds = delay + self._reuse_after(pool)
            ledger.keep(pool, place, state="ended", seconds=seconds)

        if any(map(_is_crowded, slowdowns)) and self._may_withhold(ledger):
            ledger.keep(SLOT, place, state="withheld", seconds=WITHHELD_FOR)
        elif delay:
            ledger.keep(SLOT, place, state="ended", seconds=delay)
        else:
            ledger.free([SLOT], place)

        return slowdowns

    def give_back(self, ledger: Ledger, candidate: Candidate) -> None:
        """Undo all of a request: it waits no more, and has not used its places."""
        ledger.drop(candidate.window)
        ledger.drop(candidate.last)
        ledger.free([*self._windows, candidate.pool], candidate.id)

    def _wait(
        self,
        ledger: Ledger,
        candidate: Candidate,
        pace: Pace,
        *,
        counts: bool,
        heads: Collection[str],
    ) -> Wait | None:
        paused = pace.paused_until - ledger.now
        if candidate.pool == SLOT and paused > 0:
            return Wait(stage="pause", seconds=paused, ahead=0, counts=counts)

        if counts:
            ahead = ledger.ahead(candidate.window, others_only=WINDOW in heads)
            seconds = self._until_free(ledger, pace, ahead)
            if seconds > 0 or (ahead and pace.step):
                return Wait(stage="window", seconds=seconds, ahead=ahead, counts=True)

        ahead = ledger.ahead(candidate.last, others_only=candidate.pool in heads)
        places = self._limits.in_flight if candidate.pool == SLOT else 1
        if ahead + len(ledger.taken(candidate.pool)) >= places:
            return Wait(stage="slot", seconds=0.0, ahead=ahead, counts=counts)

        return None

    def _until_free(self, ledger: Ledger, pace: Pace, ahead: int) -> float:
        """
        Return the seconds after which it may be its turn; zero if it is.

        Those ahead keep a place each: it does not wait until they have taken theirs.
        """
        spacing = pace.spacing(self._limits.exports)
        moments = [ledger.last_start() + spacing if spacing else -math.inf]

        for pool, rate in self._windows.items():
            taken = ledger.taken(pool)
            if len(taken) + ahead < rate.count:
                continue

            # Those ahead may give up, so it looks again when the first place is free;
            # and soon where one is, which they are about to take.
            free = sorted(self._free_at(row, rate, ledger.now) for row in taken)
            full = len(taken) - rate.count
            moments.append(free[full] if full >= 0 else ledger.now + _SOON)

        return max(0.0, max(moments) - ledger.now)

    def _again_in(self, ledger: Ledger, candidate: Candidate, wait: Wait) -> float:
        if wait.stage == "pause":
            return wait.seconds
        if wait.stage == "slot":
            return slot_in(wait.ahead, self._limits.in_flight)

        seen = attrs.evolve(self.outlook(ledger), ahead=wait.ahead)
        (start,) = self.expected_starts(seen, candidate.kind, now=ledger.now, count=1)
        return again_in(start - ledger.now)

    def _take(self, ledger: Ledger, candidate: Candidate, *, counts: bool) -> Holding:
        windows = list(self._windows) if counts else []

        for pool in windows:
            seconds = self._ttl + self._reuse_after(pool)
            ledger.take(pool, candidate.id, seconds=seconds)
        ledger.take(candidate.pool, candidate.id, seconds=self._ttl)

        if counts:
            ledger.note_start()
        ledger.drop(candidate.window)
        ledger.drop(candidate.last)

        return Holding(candidate, windows, ledger.now + self._lease)

    def _may_withhold(self, ledger: Ledger) -> bool:
        rows = ledger.taken(SLOT)
        return sum(row.state == "withheld" for row in rows) + 1 < self._limits.in_flight

    def _reuse_after(self, pool: str) -> float:
        return reuse_after(self._windows[pool], self._limits)

    def _free_at(self, row: Row, rate: Rate, now: float) -> float:
        # While its request runs, a place is taken for longer than it may turn out.
        if row.state == "running":
            return min(row.until, now + reuse_after(rate, self._limits))

        return row.until


def _is_crowded(slowdown: Slowdown) -> bool:
    """Whether others evidently use the app."""
    refusal = slowdown.refusal
    return refusal.crowded and refusal.sent_at >= slowdown.before.paused_at
