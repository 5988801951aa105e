"""What can be an id in a URL."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.ids import (
    checked_id,
    checked_request_id,
    cohort_id_of,
    distinct_cohort_ids,
)
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.models import Cohort


@pytest.mark.parametrize("value", ["26umsb5", "9apg8e8f", "0", "a/b", "ü", "x" * 256])
def test_ids(value: str) -> None:
    """Anything that can be printed and has no space in it may be an id."""
    assert value == checked_id(value, "cohort id")


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\t", "a\n", "\x00", ".", "..", "x" * 257, 7, None, b"a"]
)
def test_no_ids(value: object) -> None:
    """What is empty, too long, no text, or would be another path, is no id."""
    with pytest.raises(InvalidInputError, match="request id"):
        checked_id(value, "request id")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, "missing.*list_cohorts"),
        ("Power users of May", "looks like a cohort's name.*list_cohorts"),
        ("https://app.amplitude.com/analytics/a/cohort/26umsb5", "last part"),
        (["26umsb5"], "several were given as list.*export_many"),
        (7, "pass it in quotes"),
        (Cohort(id="", name="Power users"), "1 to 256 characters"),
    ],
)
def test_what_names_no_cohort(value: object, hint: str) -> None:
    """The message says what the value looks like, and where the ids are."""
    with pytest.raises(InvalidInputError, match=hint):
        cohort_id_of(value)  # type: ignore[arg-type]


def test_a_cohort_is_named_by_itself() -> None:
    """An object of the list goes wherever an id goes."""
    cohort = Cohort(id="26umsb5", name="Power users")

    assert "26umsb5" == cohort_id_of(cohort)
    assert ["26umsb5", "a"] == distinct_cohort_ids([cohort, "26umsb5", "a"])


def test_different_ids_keep_their_order() -> None:
    """An id that is repeated counts once."""
    assert ["b", "a"] == distinct_cohort_ids(iter(["b", "a", "b"]))


@pytest.mark.parametrize(
    "values", ["26umsb5", b"26umsb5", 7, None, Cohort(id="a", name="b")]
)
def test_ids_are_a_list(values: object) -> None:
    """One text would be taken apart, and a number has no ids in it."""
    with pytest.raises(InvalidInputError, match="pass a list of them"):
        distinct_cohort_ids(values)  # type: ignore[arg-type]


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_an_id_is_one_segment(value: str) -> None:
    """Whatever passes arrives at the other side as the one segment it was."""
    try:
        checked_id(value, "cohort id")
    except InvalidInputError:
        assume(False)

    url = urlsplit(f"https://example.com/a/{quote(value, safe='')}/file")
    assert ["", "a", value, "file"] == [unquote(part) for part in url.path.split("/")]
    assert "" == url.query == url.fragment


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_request_id_is_one_segment(value: str) -> None:
    """Any text that the service gives arrives at its side as the segment it was."""
    assume(value not in {".", ".."})
    checked_request_id(value)

    url = urlsplit(f"https://example.com/a/{quote(value, safe='')}/file")
    assert ["", "a", value, "file"] == [unquote(part) for part in url.path.split("/")]
