"""
The promises of the limiter, against servers that count in every way we know of.

The server stamps a request at any moment between its sending and its answer;
nothing else is known about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async._io.limits.local import LocalLimiter
from amplitude_cohorts_async.errors import QuotaWaitError
from amplitude_cohorts_async.limits import Kind, Limits, Rate
from support.counting import Counting, every_counting, most_in_any
from support.virtual_loop import run_virtually

RATES = ((4, 60.0), (60, 600.0))


@attrs.frozen(kw_only=True)
class Call:
    """One request: when it is asked for, and how slowly it travels."""

    kind: Kind
    asked: float
    uplink: float
    downlink: float
    given_up: bool = False
    way: Literal["waits", "tries", "vanishes"] = "waits"


def calls(
    slowest: float, *, ways: Sequence[str] = ("waits",)
) -> st.SearchStrategy[Call]:
    """Bursts, trickles, stragglers and callers who give up."""
    seconds = st.one_of(st.just(0.0), st.floats(0, 0.2), st.floats(0, slowest))
    return st.builds(
        Call,
        kind=st.sampled_from(("export", "export", "export", "poll", "file")),
        asked=st.one_of(st.just(0.0), st.floats(0, 300), st.integers(0, 20).map(float)),
        uplink=seconds,
        downlink=seconds,
        given_up=st.sampled_from((False, False, False, True)),
        way=st.sampled_from(ways),
    )


@attrs.define
class Course:
    """What a run looked like from outside."""

    asked: list[float] = attrs.field(factory=list)
    sent: list[float] = attrs.field(factory=list)
    stamped: list[float] = attrs.field(factory=list)
    ended: list[float] = attrs.field(factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


async def enter(stack: AsyncExitStack, limiter: LocalLimiter, call: Call) -> None:
    """Wait for a slot; or try until there is one, unless the caller vanishes."""
    ticket, slot = None, limiter.slot(call.kind)

    while True:
        if call.way != "waits":
            slot = limiter.try_slot(call.kind, ticket=ticket)
        try:
            await stack.enter_async_context(slot)
            break
        except QuotaWaitError as error:
            if call.way == "vanishes":
                raise
            ticket = error.ticket
            await asyncio.sleep(error.seconds)


def run(calls: Sequence[Call], limits: Limits) -> Course:
    """Make the calls in virtual time."""

    async def make(call: Call, limiter: LocalLimiter, course: Course) -> None:
        await asyncio.sleep(call.asked)
        async with AsyncExitStack() as stack:
            await enter(stack, limiter, call)
            course.in_flight += 1
            course.most_in_flight = max(course.most_in_flight, course.in_flight)
            loop = asyncio.get_running_loop()
            if call.kind == "export":
                course.asked.append(call.asked)
                course.sent.append(loop.time())
                # A request that is given up still arrives.
                loop.call_later(call.uplink, lambda: course.stamped.append(loop.time()))
            try:
                async with asyncio.timeout(0.3 if call.given_up else None):
                    await asyncio.sleep(call.uplink + call.downlink)
            finally:
                course.in_flight -= 1
                if call.kind == "export":
                    course.ended.append(loop.time())

    async def main() -> Course:
        limiter, course = LocalLimiter(limits), Course()
        await asyncio.gather(
            *(make(call, limiter, course) for call in calls), return_exceptions=True
        )
        await asyncio.sleep(60)
        return course

    return run_virtually(main())


def refusals(server: Sequence[Counting], stamps: Sequence[float]) -> int:
    """Count the requests a server answers with 429."""
    refused = 0
    for at in sorted(stamps):
        # Each rate counts the request, whatever the others say.
        verdicts = [rate.admits(at) for rate in server]
        refused += not all(verdicts)
    return refused


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(calls(slowest=20), max_size=60))
def test_no_server_ever_answers_429(calls: list[Call]):
    """Fixed windows in every phase, a sliding log and a bucket admit everything."""
    patient = [attrs.evolve(call, given_up=False) for call in calls]
    course = run(patient, Limits())

    for name, server in every_counting(RATES).items():
        assert 0 == refusals(server, course.stamped), name


WAYS = ("waits", "waits", "tries", "tries", "vanishes")


@settings(max_examples=60, deadline=None)
@given(st.lists(calls(slowest=20, ways=WAYS), max_size=60))
def test_windows_and_places_hold_from_sending_to_the_end_of_the_answer(
    calls: list[Call],
):
    """A start counts from its sending until a window after its end; five in flight."""
    course = run(calls, Limits())
    spans = sorted(zip(course.sent, course.ended, strict=True))

    assert course.most_in_flight <= 5
    for count, per in RATES:
        ends = sorted(course.ended)
        for index, (sent, _) in enumerate(spans):
            over = sum(end + per <= sent for end in ends)
            assert index - over < count


@settings(max_examples=40, deadline=None)
@given(st.lists(calls(slowest=1), max_size=60))
def test_a_caller_who_gives_up_costs_no_429_either(calls: list[Call]):
    """Requests given up after 0.3 s arrive up to 0.7 s later, and still fit."""
    course = run(calls, Limits())

    for name, server in every_counting(RATES).items():
        assert 0 == refusals(server, course.stamped), name


@settings(max_examples=40, deadline=None)
@given(st.lists(calls(slowest=5, ways=WAYS), max_size=40))
def test_everybody_is_served_in_the_end(calls: list[Call]):
    """Also beside tickets whose owners never come back."""
    course = run(calls, Limits())
    exports = [call for call in calls if call.kind == "export"]

    assert len(course.sent) >= sum(call.way != "vanishes" for call in exports)


@settings(max_examples=40, deadline=None)
@given(st.lists(calls(slowest=5), max_size=60))
def test_exports_are_served_in_the_order_they_came(calls: list[Call]):
    """Nobody is overtaken, so nobody starves."""
    course = run(calls, Limits())

    assert sorted(course.asked) == course.asked


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.floats(1, 100),
    st.integers(1, 40),
    st.floats(0, 3),
)
def test_no_safe_client_is_much_faster(
    count: int, per: float, exports: int, latency: float
):
    """The i-th start is as early as a window, a margin and the latency let it be."""
    limits = Limits(exports=Rate(count, per=per), in_flight=6)
    burst = [
        Call(kind="export", asked=0.0, uplink=latency, downlink=0.0)
        for _ in range(exports)
    ]
    sent = run(burst, limits).sent

    for index, start in enumerate(sent):
        rounds = index // count
        assert start <= rounds * (per * 1.001 + 0.25 + latency + 1e-4)


def test_the_servers_do_refuse():
    """The models are no yes-men: five at once are one too many for each."""
    for name, server in every_counting(RATES).items():
        assert 1 == refusals(server, [1.0] * 5), name


def test_most_in_any_counts_half_open_windows():
    """Two moments a window apart are not in one window."""
    assert 2 == most_in_any([0.0, 30.0, 60.0], 60.0 - 1e-9)
    assert 3 == most_in_any([0.0, 30.0, 59.9], 60.0)
