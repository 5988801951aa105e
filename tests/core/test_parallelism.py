"""How many connections one download is worth, and who brings what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.parallelism import (
    ParallelismController,
    RangeAllocator,
    Sample,
)

MIB = 1024 * 1024
GIB = 1024 * MIB


def sample(rate: float, *, others: float = 0.05, cost: float = 1e-9) -> Sample:
    """What receiving at a rate looks like beside other work of the loop."""
    ours = cost * rate

    return Sample(rate=rate, busy=others + ours, ours=ours, left=GIB)


def grown(rates: dict[int, float], *, most: int = 16, others: float = 0.05) -> int:
    """Look ten times at a store that gives so many bytes a second to so many."""
    controller = ParallelismController(most)
    for _ in range(10):
        controller.update(sample(rates[controller.connections], others=others))

    return controller.connections


def test_a_throttled_store_gets_all_there_may_be():
    """More connections, as many times the bytes: on to the most."""
    assert 64 == grown({n: n * 9e6 for n in (1, 16, 64)}, most=64)
    assert 6 == grown({n: n * 40e6 for n in (1, 6)}, most=6)


def test_a_line_that_is_full_gets_no_more():
    """More connections that bring no more bytes are not followed by others."""
    assert 16 == grown({1: 12e6, 16: 12e6}, most=64)


def test_a_busy_moment_is_not_for_ever():
    """Where the loop allowed one more connection only, that one's share is enough."""
    controller = ParallelismController(16)
    assert 2 == controller.update(sample(40e6, others=0.8))
    assert 16 == controller.update(sample(75e6))


def test_what_a_store_sends_ahead_is_not_expected_for_ever():
    """New connections bring more at first; later ones are held against the first."""
    controller = ParallelismController(16)
    assert 11 == controller.update(sample(40e6, others=0.46))
    assert 11 == controller.update(sample(570e6, others=0.4))
    assert 16 == controller.update(sample(440e6))


def test_other_files_are_received_as_well():
    """Five at a time share what there is: each sees what all of them cost."""
    files = [ParallelismController(16) for _ in range(5)]
    for _ in range(10):
        rates = [30e6 * file.connections for file in files]
        ours = 1e-9 * sum(rates)
        for file, rate in zip(files, rates, strict=True):
            file.update(Sample(rate=rate, busy=0.05 + ours, ours=ours, left=GIB))

    assert 0.7 < 30e6 * 1e-9 * sum(file.connections for file in files) < 0.9


def test_a_slow_machine_gets_fewer():
    """What receiving costs here is measured, not known."""
    controller = ParallelismController(16)

    assert 2 == controller.update(sample(100e6, cost=3e-9))


def test_where_nobody_measured_all_work_counts():
    """As on the ordinary path, whose cost is spread over others' code."""
    controller = ParallelismController(16)

    assert 3 == controller.update(Sample(rate=40e6, busy=0.3, left=GIB))


def test_a_fast_store_and_a_busy_loop_get_one():
    """Where the machine is what holds things up, connections only cost."""
    assert 1 == grown({1: 900e6})
    assert 1 == grown({1: 100e6}, others=0.8)


def test_a_loop_is_not_driven_to_its_limit():
    """
    As many connections as leave the loop a tenth of its time, after its other work.
    """
    assert 11 == grown({n: n * 40e6 for n in (1, 11)}, others=0.46)


@pytest.mark.parametrize("left", [15 * MIB, 0])
def test_what_is_nearly_there_gets_no_more(left: int):
    """A few megabytes are here before another connection is."""
    assert 1 == ParallelismController(16).update(Sample(rate=1e6, busy=0.0, left=left))


def test_a_store_that_is_silent_gets_no_more():
    """No byte says nothing about connections."""
    assert 1 == ParallelismController(16).update(Sample(rate=0.0, busy=0.0, left=GIB))


@given(
    st.integers(0, GIB), st.integers(0, GIB), st.lists(st.integers(1, 16), min_size=1)
)
def test_parts_are_all_bytes_once_in_order(start: int, size: int, counts: list[int]):
    """The parts touch, begin at the start and end at the end; none is empty."""
    spans = RangeAllocator([(start, start + size)])
    at = start

    for number in range(100_000):
        part = spans.claim(counts[number % len(counts)])
        if part is None:
            break
        assert at == part[0] < part[1]
        at = part[1]

    assert start + size == at
    assert 0 == spans.left
