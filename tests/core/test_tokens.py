"""A job as text."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.tokens import (
    ExportRef,
    export_key,
    from_token,
    has_file,
    is_unchanged,
    to_token,
)
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.models import Cohort, Region

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
