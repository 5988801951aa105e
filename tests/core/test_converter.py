"""JSON into models: forgiving of form, not of meaning."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.converter import odd_fields, structure, to_utc
from amplitude_cohorts_async.errors import UnexpectedResponseError
from amplitude_cohorts_async.models import Cohort, CohortSync, Usage

NAMES = [
    *[
        "appId",
        "archived",
        "definition",
        "description",
        "finished",
        "id",
        "name",
        "owners",
        "viewers",
    ],
    *[
        "published",
        "size",
        "type",
        "lastMod",
        "createdAt",
        "lastComputed",
        "hidden",
        "metadata",
    ],
    *[
        "view_count",
        "popularity",
        "last_viewed",
        "chart_id",
        "edit_id",
        "is_predictive",
    ],
    *["is_official_content", "location_id", "shortcut_ids", "syncMetadata"],
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)


def cohort(**fields: object) -> Cohort:
    """Read a cohort that has little but these keys."""
    return structure({"id": "a", "name": "b", **fields}, Cohort, path="$")


def test_the_least_of_a_cohort() -> None:
    """An id makes a cohort; all else may be missing, or null."""
    bare = cohort()

    assert ("a", "b", None, False) == (bare.id, bare.name, bare.size, bare.archived)
    assert bare == cohort(**dict.fromkeys(set(NAMES) - {"id", "name"}))
    assert cohort(name=None).name is None


@pytest.mark.parametrize(
    ("names", "value", "attribute", "expected"),
    [
        (["appId", "app_id"], 7, "app_id", 7),
        (["appId"], "153957", "app_id", 153957),
        (["lastMod", "last_mod", "last_modified"], 1781524800, "last_modified", NOON),
        (["createdAt", "created_at"], 1781524800.0, "created_at", NOON),
        (["lastComputed", "last_computed"], 1781524800000, "last_computed", NOON),
        (["lastComputed"], "2026-06-15T12:00:00", "last_computed", NOON),
        (["lastComputed"], "2026-06-15T12:00:00Z", "last_computed", NOON),
        (["lastComputed"], "2026-06-15T05:00:00.000000-07:00", "last_computed", NOON),
        (["lastComputed"], "1781524800", "last_computed", NOON),
        (["last_viewed", "lastViewed"], 1781524800, "last_viewed", NOON),
        (["owner", "owners"], "ann@example.com", "owners", ("ann@example.com",)),
        (["owners"], ["amp", None, 7], "owners", ("amp", "7")),
        (["is_predictive", "isPredictive"], 1, "is_predictive", True),
        (["is_official_content"], "false", "is_official_content", False),
        (["size"], 12.0, "size", 12),
        (["view_count", "viewCount"], "3", "view_count", 3),
        (["definition"], {"any": ["thing"]}, "definition", {"any": ["thing"]}),
        (["metadata"], ["funnel"], "metadata", ("funnel",)),
        (["cohort_output_type"], "UNIQUES", "extra", {"cohort_output_type": "UNIQUES"}),
        (["per_app_metadata"], None, "extra", {"per_app_metadata": None}),
    ],
)
def test_every_spelling(
    names: list[str], value: object, attribute: str, expected: object
) -> None:
    """The page's spelling, the other one, and every form of a value that was seen."""
    for name in names:
        assert expected == getattr(cohort(**{name: value}), attribute)


@pytest.mark.parametrize("name", ["id", "cohortId", "cohort_id"])
def test_the_spellings_of_an_id(name: str) -> None:
    """A cohort's id has been seen under three names, and as a number."""
    assert "7" == structure({name: 7, "name": "b"}, Cohort, path="$").id


def test_syncs() -> None:
    """Syncs have times with offsets, and keep what is new."""
    told = {
        "target": "braze",
        "frequency": "hourly",
        "last_successful": "2023-03-21T16:09:58.848454-07:00",
        "last_failure": None,
        "params": {"user_id": "ann"},
        "new": 1,
    }
    (sync,) = cohort(syncMetadata=[told]).syncs

    assert datetime(2023, 3, 21, 23, 9, 58, 848454, UTC) == sync.last_successful
    assert ("braze", "hourly", None) == (sync.target, sync.frequency, sync.last_failure)
    assert ({"user_id": "ann"}, {"new": 1}) == (sync.params, sync.extra)


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("name", ["b"], "name", None),
        ("size", "many", "size", None),
        ("size", 1.5, "size", None),
        ("size", True, "size", None),
        ("archived", "perhaps", "archived", False),
        ("owners", {"a": 1}, "owners", ()),
        ("lastMod", "yesterday", "last_modified", None),
        ("lastMod", True, "last_modified", None),
        ("lastMod", 1e300, "last_modified", None),
        ("metadata", {"a": 1}, "metadata", None),
        ("definition", "text", "definition", {}),
        ("syncMetadata", {"a": 1}, "syncs", ()),
    ],
)
def test_what_means_something_else(
    key: str, value: object, attribute: str, expected: object
) -> None:
    """A value that its attribute cannot hold is kept aside, and hides no other."""
    read = cohort(**{key: value, "type": "redshift"})

    assert expected == getattr(read, attribute)
    assert ({key: value}, "redshift") == (read.extra, read.type)
    assert [key] == [*odd_fields(read)]


def test_an_odd_sync_is_a_sync() -> None:
    """Without a target, or with one that is no text."""
    read = cohort(syncMetadata=[{"frequency": "hourly"}, {"target": 1.5}])

    assert [None, None] == [sync.target for sync in read.syncs]
    assert ["syncMetadata[1].target"] == [*odd_fields(read)]


@pytest.mark.parametrize(("fields", "path"), [({}, "$"), ({"usage": "many"}, "$.used")])
def test_a_count_that_is_none(fields: dict[str, object], path: str) -> None:
    """What the quota is reckoned with is read strictly, with the way to it."""
    with pytest.raises(UnexpectedResponseError) as caught:
        structure(fields, Usage, path="$")

    assert path in caught.value.path
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", 7, {}])
def test_what_is_no_cohort(value: object) -> None:
    """A cohort is an object with an id."""
    with pytest.raises(UnexpectedResponseError):
        structure(value, Cohort, path="$.cohorts[0]")


@given(
    st.dictionaries(
        st.sampled_from([*NAMES, "owner", "app_id", "last_mod"]) | st.text(), JSON
    )
)
def test_any_object_is_read_or_refused(value: dict[str, Any]) -> None:
    """Whatever the service sends becomes a model with aware times, or our error."""
    for model in (Cohort, CohortSync, Usage):
        try:
            read = structure(value, model, path="$")
        except UnexpectedResponseError:
            continue

        for field in fields(model):
            moment = getattr(read, field.name)
            assert not isinstance(moment, datetime) or moment.tzinfo is UTC


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_any_time_is_read_or_refused(value: object) -> None:
    """What is no time is a ValueError or a TypeError, nothing else."""
    with suppress(TypeError, ValueError):
        assert to_utc(value).tzinfo is UTC


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_is_the_same_moment(moment: datetime) -> None:
    """Writing a moment as text loses nothing."""
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        return

    assert expected == to_utc(moment.isoformat())


def test_a_bad_value_beside_a_good_one_is_told_with_its_place() -> None:
    """What could be read is no part of the message."""
    with pytest.raises(UnexpectedResponseError, match=r"expected int at \$\.used"):
        structure({"limit": 500, "usage": []}, Usage, path="$")
