"""Which rates a shared limiter has to keep, because no other implies them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.pacing import binding_rates, earliest_starts
from amplitude_cohorts_async.limits import DOCUMENTED, Limits, Rate
from support.counting import most_in_any


def test_rates_that_others_keep_anyway_are_left_out():
    """Four a minute are forty in ten minutes at most."""
    assert [Rate(4, per=60)] == binding_rates(DOCUMENTED.exports)
    both = [Rate(7, per=60), Rate(60, per=600)]
    assert both[::-1] == binding_rates(both)


@given(st.lists(st.builds(Rate, st.integers(1, 9), per=st.floats(1, 99)), max_size=3))
def test_the_rates_that_bind_keep_the_others(rates: list[Rate]):
    """Keeping these keeps all."""
    limits = Limits(exports=binding_rates(rates))
    starts = earliest_starts(60, limits, latency=0.0)

    for rate in rates:
        assert most_in_any(starts, rate.per) <= rate.count
