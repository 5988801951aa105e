"""
How many connections one download is worth, and who brings what.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.widening import Sample, Spans, Widening

MIB = 1024 * 1024
GIB = 1024 * MIB


def grown(rates: dict[int, float], *, most: int = 16, others: float = 0.05) -> int:
    """
    Look ten times at a store that gives so many bytes a second to so many.
    """
    widening = Widening(most)
    for _ in range(10):
        rate = rates[widening.connections]
        widening.look(Sample(rate=rate, busy=others + 1e-9 * rate, left=GIB))

    return widening.connections


def test_a_throttled_store_gets_all_there_may_be():
    """
    More connections, as many times the bytes: on to the most.
    """
    assert 64 == grown({n: n * 9e6 for n in (1, 16, 64)}, most=64)
    assert 6 == grown({n: n * 40e6 for n in (1, 6)}, most=6)


def test_a_line_that_is_full_gets_no_more():
    """
    More connections that bring no more bytes are not followed by others.
    """
    assert 16 == grown({1: 12e6, 16: 12e6}, most=64)


def test_a_busy_moment_is_not_for_ever():
    """
    Where the loop allowed one more connection only, that one's share is enough.
    """
    widening = Widening(16)
    widening.look(Sample(rate=40e6, busy=0.84, left=GIB))
    assert 2 == widening.connections
    widening.look(Sample(rate=75e6, busy=0.1, left=GIB))
    assert 16 == widening.connections


def test_what_a_store_sends_ahead_is_not_expected_for_ever():
    """
    New connections bring more at first; later ones are held against the first.
    """
    widening = Widening(16)
    widening.look(Sample(rate=40e6, busy=0.5, left=GIB))
    assert 11 == widening.connections
    widening.look(Sample(rate=570e6, busy=1.0, left=GIB))
    assert 11 == widening.connections
    widening.look(Sample(rate=440e6, busy=0.5, left=GIB))
    assert 16 == widening.connections


def test_a_fast_store_and_a_busy_loop_get_one():
    """
    Where the machine is what holds things up, connections only cost.
    """
    assert 1 == grown({1: 900e6})
    assert 1 == grown({1: 100e6}, others=0.8)


def test_a_loop_is_not_driven_to_its_limit():
    """
    As many connections as leave the loop a tenth of its time, after its other work.
    """
    assert 11 == grown({n: n * 40e6 for n in (1, 11)}, others=0.46)


@pytest.mark.parametrize("left", [15 * MIB, 0])
def test_what_is_nearly_there_gets_no_more(left: int):
    """
    A few megabytes are here before another connection is.
    """
    assert 1 == Widening(16).look(Sample(rate=1e6, busy=0.0, left=left))


def test_a_store_that_is_silent_gets_no_more():
    """
    No byte says nothing about connections.
    """
    assert 1 == Widening(16).look(Sample(rate=0.0, busy=0.0, left=GIB))


@given(
    st.integers(0, GIB), st.integers(0, GIB), st.lists(st.integers(1, 16), min_size=1)
)
def test_parts_are_all_bytes_once_in_order(start: int, size: int, counts: list[int]):
    """
    The parts touch, begin at the start and end at the end; none is empty.
    """
    spans = Spans(start, start + size)
    at = start

    for number in range(100_000):
        part = spans.claim(counts[number % len(counts)])
        if part is None:
            break
        assert at == part[0] < part[1]
        at = part[1]

    assert start + size == at
    assert 0 == spans.left
