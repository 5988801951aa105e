"""Whether a cohort is still what an earlier export of it holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from amplitude_cohorts_async._core.freshness import export_key, has_file, is_unchanged
from amplitude_cohorts_async._core.tokens import ExportRef
from amplitude_cohorts_async.models import Cohort

THEN = datetime(2026, 6, 15, 12, 0, 30, 700_000, tzinfo=UTC)
TICKET = ExportRef(request_id="Sf7M9j", requested_at=THEN, as_of=THEN)
COHORT = Cohort(id="26umsb5", name="Spring", last_computed=THEN - timedelta(hours=1))


def test_a_cohort_computed_before_the_export_is_unchanged():
    """A definition whose last change is not told does not matter."""
    assert is_unchanged(COHORT, TICKET)


@pytest.mark.parametrize("field", ["last_computed", "last_modified"])
def test_the_second_of_the_request_counts_as_after_it(field: str):
    """The list tells whole seconds: what falls into the same one may be later."""
    same = attrs.evolve(COHORT, **{field: THEN.replace(microsecond=0)})
    before = attrs.evolve(COHORT, **{field: THEN - timedelta(seconds=1)})

    assert not is_unchanged(same, TICKET)
    assert is_unchanged(before, TICKET)


def test_what_is_not_told_counts_as_a_change():
    """Neither a cohort without a time nor a token without one proves anything."""
    assert not is_unchanged(attrs.evolve(COHORT, last_computed=None), TICKET)
    assert not is_unchanged(COHORT, attrs.evolve(TICKET, as_of=None))


def test_a_file_is_had_for_seven_days_less_five_minutes():
    """A file that is about to go is not counted on."""
    assert has_file(TICKET, now=THEN + timedelta(days=6, hours=23))
    assert not has_file(TICKET, now=THEN + timedelta(days=6, hours=23, minutes=55))
    assert not has_file(ExportRef(request_id="Sf7M9j"), now=THEN)


def test_an_export_is_named_by_what_it_asks_for():
    """The order of properties does not matter, all else does."""
    assert export_key("c1", ("a", "b")) == export_key("c1", ("b", "a"))
    assert 5 == len(
        {
            export_key("c1", False),
            export_key("c1", True),
            export_key("c2", True),
            export_key("c1", ("a",)),
            export_key("c1", ("a,b",)),
        }
    )
