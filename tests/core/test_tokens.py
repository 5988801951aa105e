"""A job as text."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.tokens import ExportRef, from_token, to_token
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.models import Region

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.text(
    st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=40
).filter(lambda text: text.isprintable() and text not in {".", ".."})
REQUEST_IDS = TEXT.filter(lambda text: text not in {"", ".", ".."})
MOMENTS = st.none() | st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001 - the zone comes with the strategy
    max_value=datetime(2999, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))]),
)
TICKETS = st.builds(
    ExportRef,
    request_id=REQUEST_IDS,
    cohort_id=st.none() | IDS,
    properties=st.booleans() | st.lists(TEXT).map(tuple),
    requested_at=MOMENTS,
    as_of=MOMENTS,
    region=st.none() | st.sampled_from(Region),
)


@given(TICKETS)
def test_a_token_is_its_ticket(ticket: ExportRef) -> None:
    """What is written is what is read, in one line of ASCII."""
    token = to_token(ticket)

    assert ticket == from_token(token)
    assert token.isascii()
    assert "\n" not in token
    assert json.loads(token)["version"] == 1


@given(TICKETS, st.text(max_size=5))
def test_a_token_is_pretty_or_has_news(ticket: ExportRef, name: str) -> None:
    """
    A token that was printed with spaces, or holds more than we know, is still read.
    """
    fields = {f"new {name}": [1], **json.loads(to_token(ticket))}

    assert ticket == from_token(" \n" + json.dumps(fields, indent=2))


@given(TICKETS, st.data())
def test_a_damaged_token_is_said_to_be_one(
    ticket: ExportRef, data: st.DataObject
) -> None:
    """A cut token, or one with other values, is refused or read: no other exception."""
    fields = json.loads(to_token(ticket))
    field = data.draw(st.sampled_from(sorted(fields)))
    fields[field] = data.draw(
        st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT) | st.floats()
    )
    cut = to_token(ticket)[: data.draw(st.integers(1, 300))]

    for text in (json.dumps(fields), cut):
        try:
            from_token(text)
        except InvalidInputError as error:
            assert "request id" in str(error)


@given(IDS.filter(lambda text: not text.startswith("{")))
def test_any_other_text_is_a_request_id(text: str) -> None:
    """What is no JSON object is taken for the id itself."""
    assert ExportRef(request_id=text) == from_token(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "\ud800",
        "x" * 1_025,
        None,
        7,
        b"Sf7M9j",
        "{",
        "{}",
        '{"version":2,"request_id":"a"}',
        '{"version":"1","request_id":"a"}',
        '{"version":1}',
        '{"version":1,"request_id":""}',
        '{"version":1,"request_id":".."}',
        '{"version":1,"request_id":"a","region":"MARS"}',
        '{"version":1,"request_id":"a","requested_at":"then"}',
        '{"version":1,"request_id":"a","requested_at":"2026-06-15T12:00:00"}',
        '{"version":1,"request_id":"a","cohort_id":"a b"}',
        '{"version":1,"a":' + "[" * 100_000,
    ],
)
def test_what_is_no_token(text: str) -> None:
    """The message says what to pass instead."""
    with pytest.raises(InvalidInputError):
        from_token(text)
