"""Limits as values."""

from __future__ import annotations

import math

import pytest

from amplitude_cohorts_async._core.pacing import reuse_after
from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.limits import (
    DOCUMENTED,
    LEAVE_ROOM,
    UNLIMITED,
    Limits,
    Rate,
)


def test_the_default_is_what_the_service_documents():
    """Five at once, four a minute, sixty in ten minutes."""
    assert 5 == DOCUMENTED.in_flight
    assert (Rate(4, per=60), Rate(60, per=600)) == DOCUMENTED.exports
    assert Limits() == DOCUMENTED


def test_leaving_room_takes_one_place_less():
    """People's dashboards find a place free."""
    assert DOCUMENTED.in_flight - 1 == LEAVE_ROOM.in_flight
    assert DOCUMENTED.exports == LEAVE_ROOM.exports


def test_unlimited_has_no_rates():
    """Tests wait for nothing."""
    assert () == UNLIMITED.exports


def test_one_rate_needs_no_brackets():
    """`exports=Rate(...)` is a sequence of one."""
    assert (Rate(1, per=9),) == Limits(exports=Rate(1, per=9)).exports
    assert (Rate(1, per=9),) == Limits(exports=[Rate(1, per=9)]).exports


def test_a_place_is_held_a_little_longer_than_the_window():
    """A thousandth for the clock's drift, and the margin."""
    assert pytest.approx(60.31) == reuse_after(Rate(4, per=60), DOCUMENTED)


def test_shares_add_up_to_no_more_than_the_whole():
    """Each of two processes may do half, rounded down."""
    share = DOCUMENTED.share(2)

    assert 2 == share.in_flight
    assert (Rate(2, per=60), Rate(30, per=600)) == share.exports
    assert Rate(3, per=2) == share.polls == share.writes
    assert DOCUMENTED == DOCUMENTED.share(1)


@pytest.mark.parametrize(
    ("processes", "says"), [(5, "5 processes"), (0, "0 processes")]
)
def test_there_are_only_so_many_shares(processes: int, says: str):
    """Five processes cannot each have one of four places."""
    with pytest.raises(ConfigurationError, match=f"{says}.* share among 1 to 4"):
        DOCUMENTED.share(processes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("in_flight", 0),
        ("in_flight", 2.5),
        ("in_flight", True),
        ("exports", ["4/60"]),
        ("monthly_reserve", -1),
        ("polls", 3),
        ("writes", "3/1"),
        ("clock_margin", -0.1),
        ("release_delay", math.inf),
        ("release_delay", math.nan),
        ("max_wait", -1.0),
        ("max_wait", "1"),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: object):
    """The message says which attribute, what it was, and what to give."""
    with pytest.raises(ConfigurationError, match=rf"Limits\.{name} .*; give "):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("count", "per", "name"),
    [(0, 60, "count"), (4, 0, "per"), (4, math.inf, "per"), ("4", 60, "count")],
)
def test_a_rate_of_nothing_is_refused(count: int, per: float, name: str):
    """At least one start, in a real stretch of time."""
    with pytest.raises(ConfigurationError, match=rf"Rate\.{name} .*; give "):
        Rate(count, per=per)
