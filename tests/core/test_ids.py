"""What can be an id in a URL."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.ids import (
    checked_distinct_ids,
    checked_id,
    checked_request_id,
)
from amplitude_cohorts_async.errors import InvalidInputError


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


def test_different_ids_keep_their_order() -> None:
    """An id that is repeated counts once."""
    assert ["b", "a"] == checked_distinct_ids(iter(["b", "a", "b"]), "cohort id")


@pytest.mark.parametrize("values", ["26umsb5", b"26umsb5", 7, None])
def test_ids_are_a_list(values: object) -> None:
    """One text would be taken apart, and a number has no ids in it."""
    with pytest.raises(InvalidInputError, match="pass a list of them"):
        checked_distinct_ids(values, "cohort id")  # type: ignore[arg-type]


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
