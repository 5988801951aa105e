"""The values users hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.models import (
    Cohort,
    ExportPlan,
    Member,
    PlannedExport,
    Usage,
)
from amplitude_cohorts_async.policies import Downloading


@pytest.mark.parametrize(
    "change",
    [
        lambda properties: properties.__setitem__("plan", "free"),
        lambda properties: properties.setdefault("plan", "free"),
        lambda properties: properties.update(plan="free"),
        lambda properties: properties.__ior__({"plan": "free"}),
    ],
)
def test_members_without_properties_share_what_nobody_can_change(
    change: Callable[[Any], object],
):
    """A change to one member's would be a change to all members'."""
    with pytest.raises(TypeError, match="without properties"):
        change(Member(user_id="ann").properties)

    assert {} == Member(user_id="bob").properties


@pytest.mark.parametrize(
    ("limit", "used", "remaining"), [(500, 42, 458), (500, 501, 0), (None, 42, None)]
)
def test_what_remains_of_the_month(limit: int | None, used: int, remaining: int | None):
    """Never less than nothing, and no number where there is no limit."""
    assert remaining == Usage(limit=limit, used=used).remaining


def test_a_download_needs_a_connection():
    """One is the least, and turns further ones off."""
    assert 1 == Downloading(max_connections=1).max_connections

    with pytest.raises(ConfigurationError, match="connections >= 1, got 0"):
        Downloading(max_connections=0)


HOSTILE = '<img src=x onerror="alert(1)">'
ESCAPED = "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;"


def _plan(*, left_after: int | None = 3) -> ExportPlan:
    planned = PlannedExport(
        cohort_id=HOSTILE, name=HOSTILE, size=1200, starts_in=2.4, skipped=HOSTILE
    )
    return ExportPlan(
        exports=[planned],
        usage=Usage(used=1),
        needed=1,
        left_after=left_after,
        ends_in=47.2,
        unknown=[HOSTILE],
    )


@pytest.mark.parametrize(
    ("value", "times"),
    [
        (Cohort(id=HOSTILE, name=HOSTILE, type=HOSTILE, owners=[HOSTILE]), 4),
        (_plan(), 4),
    ],
)
def test_a_hostile_name_is_text_in_a_notebook(value: Cohort | ExportPlan, times: int):
    """A cohort is named by whoever made it, and the notebook runs what is markup."""
    html = value._repr_html_()
    assert "<img" not in html
    assert times == html.count(ESCAPED)


def test_a_notebook_shows_what_is_left_of_the_month():
    """The number a person looks for is there without a calculation."""
    html = Usage(limit=500, used=120)._repr_html_()
    assert '<th scope="row">remaining</th><td>380</td>' in html


def test_a_notebook_says_that_a_plan_has_no_limit():
    """An empty cell would read as nothing left."""
    assert "<td>no limit</td>" in Usage(used=1)._repr_html_()
    assert "left of the month: no limit" in _plan(left_after=None)._repr_html_()


def test_the_repr_of_a_cohort_is_short():
    """A list of cohorts is read in a notebook's cell or a debugger's line."""
    cohort = Cohort(id="abc", name="Paying", size=1200, owners=["ann"] * 100)
    assert "Cohort(id='abc', name='Paying', size=1200)" == repr(cohort)
