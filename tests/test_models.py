"""The values users hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from amplitude_cohorts_async.errors import ConfigurationError
from amplitude_cohorts_async.models import Member, Usage
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
