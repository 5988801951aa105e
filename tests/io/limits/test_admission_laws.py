"""Who may start, by the rules on a ledger: whoever asks, and in whatever order."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Literal
from uuid import uuid4

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async._core.pacing import Refusal
from amplitude_cohorts_async._io.limits.admission import (
    SLOT,
    AdmissionRules,
    Candidate,
    Holding,
    Wait,
)
from amplitude_cohorts_async._io.limits.ledger import SCHEMA, Ledger
from amplitude_cohorts_async._io.limits.tickets import KEPT_FOR, LONGEST
from amplitude_cohorts_async.limits import Kind, Limits, Rate
from support.counting import most_in_any

PER = 60.0


@attrs.frozen
class Step:
    """One thing that happens: who acts, and how long after the one before."""

    act: Literal["queues", "tries", "asks", "ends", "is refused"]
    which: int
    kind: Kind
    after: float


steps = st.lists(
    st.builds(
        Step,
        act=st.sampled_from(("queues", "tries", "tries", "asks", "asks", "ends")),
        which=st.integers(0, 20),
        kind=st.sampled_from(("export", "export", "poll")),
        after=st.one_of(st.just(0.0), st.just(PER + 1), st.floats(0, PER)),
    ),
    max_size=60,
)
refused_steps = st.lists(
    st.builds(
        Step,
        act=st.sampled_from(("queues", "tries", "asks", "ends", "is refused")),
        which=st.integers(0, 20),
        kind=st.sampled_from(("export", "poll")),
        after=st.floats(0, 20),
    ),
    max_size=40,
)


@attrs.define(eq=False)
class Asker:
    """One who waits: an owner with a process, or a ticket."""

    kind: Kind
    owner: str
    tries: bool
    candidate: Candidate


@attrs.define
class Machine:
    """A ledger in memory, and all who ask it."""

    limits: Limits
    connection: sqlite3.Connection
    now: float = 1_000.0
    askers: list[Asker] = attrs.field(factory=list)
    running: list[tuple[Asker, Holding, float]] = attrs.field(factory=list)
    starts: list[float] = attrs.field(factory=list)
    due: dict[str, float] = attrs.field(factory=dict)
    rules: AdmissionRules = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rules = AdmissionRules(self.limits, lease=1_000.0)
        for statement in SCHEMA:
            self.connection.execute(statement)

    def ledger(self, owner: str) -> Ledger:
        """The rows as this owner sees them."""
        return Ledger(self.connection, "app", owner, self.now)

    def ask(self, asker: Asker) -> Holding | Wait:
        """Ask once: in line with others, or with a ticket from another process."""
        ledger = self.ledger(asker.owner)

        if asker.tries:
            candidate = asker.candidate = Candidate(asker.kind)
            return self.rules.try_to_admit(ledger, candidate, paced=False)

        outcome = self.rules.admit(ledger, asker.candidate)
        self.show()
        return outcome

    def show(self) -> None:
        """Show the tickets of all who queue."""
        for each in self.askers:
            if not each.tries:
                tickets = each.candidate.window, each.candidate.last
                self.ledger(each.owner).show(tickets)

    def take(self, step: Step) -> None:
        """Let it happen."""
        self.pass_by(step.after)

        if step.act in {"queues", "tries"}:
            tries = step.act == "tries"
            owner = uuid4().hex
            self.askers.append(Asker(step.kind, owner, tries, Candidate(step.kind)))
            self.go_on(self.askers[-1])
        elif step.act == "asks" and self.askers:
            self.go_on(self.askers[step.which % len(self.askers)])
        elif step.act in {"ends", "is refused"} and self.running:
            at = step.which % len(self.running)
            self.end(*self.running.pop(at), refused=step.act != "ends")

    def pass_by(self, seconds: float) -> None:
        """Let time pass; those who queue show their tickets meanwhile."""
        self.now += seconds
        self.show()

    def go_on(self, asker: Asker) -> None:
        """Ask, and start if one may."""
        outcome = self.ask(asker)

        if isinstance(outcome, Wait):
            if asker.tries:
                assert 0 < outcome.seconds
                assert outcome.seconds <= LONGEST or outcome.stage == "pause"
            self.due[asker.owner] = self.now + outcome.seconds
            return

        self.askers.remove(asker)
        self.running.append((asker, outcome, self.now))
        if outcome.windows:
            self.starts.append(self.now)

    def end(
        self, asker: Asker, holding: Holding, sent_at: float, *, refused: bool
    ) -> None:
        """Let a request end, as its answer says."""
        refusal = Refusal(kind=asker.kind, sent_at=sent_at, at=self.now)
        self.rules.settle(
            self.ledger("settler"),
            holding,
            [refusal] if refused else [],
            sent_at=sent_at,
            clean=True,
        )


def run(
    taken: Sequence[Step], limits: Limits, connection: sqlite3.Connection
) -> Machine:
    """Let all of it happen, and check that no limit is exceeded."""
    machine = Machine(limits, connection)

    for step in taken:
        machine.take(step)
        assert len(machine.running) <= limits.in_flight
        assert len(machine.ledger("").taken(SLOT)) <= limits.in_flight
        if limits.exports:
            (rate,) = limits.exports
            assert most_in_any(machine.starts, rate.per) <= rate.count

    return machine


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 4), st.integers(1, 4))
def test_no_limit_is_exceeded_and_nothing_is_left(
    taken: list[Step], count: int, in_flight: int
):
    """Everybody starts when all come back; then the lines are empty."""
    limits = Limits(exports=Rate(count, per=PER), in_flight=in_flight)

    with closing(sqlite3.connect(":memory:")) as connection:
        machine = run(taken, limits, connection)
        for _ in range(500):
            if not machine.askers and not machine.running:
                break
            while machine.running:
                machine.end(*machine.running.pop(), refused=False)
            machine.pass_by(5)
            for asker in list(machine.askers):
                if asker.tries and machine.due[asker.owner] > machine.now:
                    continue
                machine.go_on(asker)

        assert [] == machine.askers
        assert [] == connection.execute("SELECT * FROM ticket").fetchall()


@settings(max_examples=150, deadline=None)
@given(refused_steps)
def test_exports_that_are_spread_out_are_spread_out_for_tickets(taken: list[Step]):
    """No pause and no spacing is cut short by who only tries."""
    limits = Limits(exports=Rate(4, per=PER))

    with closing(sqlite3.connect(":memory:")) as connection:
        machine = Machine(limits, connection)
        for step in taken:
            pace, last = machine.ledger("").pace(), machine.ledger("").last_start()
            before = len(machine.starts)
            was_running = len(machine.running)
            machine.take(step)
            if len(machine.starts) > before:
                assert machine.now - last >= pace.spacing(limits.exports)
            if len(machine.running) > was_running:
                assert machine.now >= pace.paused_until


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 4))
def test_those_ahead_keep_a_place_each(taken: list[Step], count: int):
    """Whenever a newcomer starts, all who came earlier could start as well."""
    limits = Limits(exports=Rate(count, per=PER), in_flight=100)

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        machine = Machine(limits, connection)
        for step in taken:
            running = len(machine.running)
            machine.take(attrs.evolve(step, kind="export"))
            # A newcomer is behind all whose tickets are kept.
            if step.act in {"queues", "tries"} and len(machine.running) > running:
                ahead = [each for each in machine.askers if is_kept(machine, each)]
                assert all_could_start(machine, ahead)


def is_kept(machine: Machine, asker: Asker) -> bool:
    """Whether its ticket counts now."""
    return not asker.tries or machine.due[asker.owner] + KEPT_FOR > machine.now


def all_could_start(machine: Machine, askers: Sequence[Asker]) -> bool:
    """Whether they would start if all asked now; nothing is changed."""
    machine.connection.execute("SAVEPOINT here")
    outcomes: list[bool] = []

    for asker in askers:
        copy = attrs.evolve(asker, candidate=Candidate(asker.kind))
        ledger = machine.ledger(asker.owner)
        ledger.resume([copy.candidate.window, copy.candidate.last])
        outcome = machine.rules.admit(ledger, copy.candidate)
        outcomes.append(isinstance(outcome, Holding))

    machine.connection.execute("ROLLBACK TO here")
    return all(outcomes)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=8),
    st.sampled_from(["export", "poll"]),
)
def test_tickets_that_are_abandoned_end(gaps: list[float], kind: Kind):
    """However many they are, the last one's lease is all that others wait for."""
    limits = Limits(exports=Rate(1, per=PER), in_flight=1)

    with closing(sqlite3.connect(":memory:")) as connection:
        machine = Machine(limits, connection)
        first = Step("tries", 0, kind, 0.0)
        machine.take(first)
        for gap in gaps:
            machine.take(attrs.evolve(first, after=gap))
        over = max(machine.due.values(), default=machine.now) + KEPT_FOR
        for asker, holding, sent_at in machine.running:
            machine.end(asker, holding, sent_at, refused=False)
        machine.running.clear()
        machine.askers.clear()
        machine.now = max(over, machine.now + PER + 1)
        machine.take(attrs.evolve(first, act="queues"))

        assert 1 == len(machine.running)
