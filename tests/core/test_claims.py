"""The laws of claims, for whatever rows a store may have."""

from __future__ import annotations

import copy
from datetime import timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.claims import (
    Call,
    Claims,
    Decision,
    Delivered,
    Doubt,
    Ended,
    Join,
    Listing,
    Publishing,
    ReadList,
    RequestNew,
    Superseded,
    WaitForOther,
    checked_occurrence,
    checked_on_unknown,
    checked_reuse,
    has_newer,
    when_to_publish,
)
from amplitude_cohorts_async._core.job_rows import (
    SPENT,
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
)
from amplitude_cohorts_async.errors import InvalidInputError
from amplitude_cohorts_async.models import Cohort
from support.rows import (
    DEAD,
    LIVE,
    NOW,
    UNCHANGED,
    calls,
    cohorts,
    is_alive,
    without_names,
)

MINUTE = timedelta(minutes=1)
listings = st.sampled_from([None, UNCHANGED])


def decide(rows: CohortRows, call: Call, listing: Listing | None = None) -> Decision:
    """Decide at noon."""
    return Claims(rows=rows, call=call, listing=listing).decide()


def _began(rows: CohortRows, call: Call) -> int:
    """The cohort's last event when the call began."""
    return rows.sequence if call.since_sequence is None else call.since_sequence


def same(rows: CohortRows, call: Call) -> list[ExportRow]:
    """The exports of what the call asks for."""
    return [
        export
        for export in rows.exports.values()
        if (export.properties, export.occurrence) == (call.properties, call.occurrence)
    ]


def is_left_for(rows: CohortRows, export: ExportRow, call: Call) -> bool:
    """Whether the call has to go on with an export, in other words than the code's."""
    delivered = [
        each for each in rows.deliveries_of(export) if each.finished_at is not None
    ]

    return (
        export.state in SPENT
        and (NOW - export.began_at).total_seconds() < call.reuse_within
        and export.sequence > rows.written
        and not delivered
        and not has_newer(rows, export.sequence, call.target)
    )


@given(cohorts(), calls(), listings)
def test_what_was_spent_and_left_is_not_spent_again(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """Recent, undelivered, unedited, not written to, not parked: it is gone on with."""
    decision = decide(rows, call, listing)

    if any(is_left_for(rows, export, call) for export in same(rows, call)):
        assert not isinstance(decision, RequestNew)


@given(cohorts(), calls(), listings)
def test_deciding_changes_nothing(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """The same rows have the same answer."""
    before = copy.deepcopy(rows)

    assert decide(rows, call, listing) == decide(rows, call, listing)
    assert before == rows


@given(cohorts(), calls().map(without_names), listings)
def test_what_is_joined_has_a_file_and_is_what_was_asked_for(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """The same columns, no parked or failed one, no delivery of another's target."""
    decision = decide(rows, call, listing)

    if isinstance(decision, Join):
        assert decision.export in same(rows, call)
        assert decision.export.state in SPENT
        assert decision.delivery is None or decision.delivery.target == call.target


@given(cohorts(), calls().map(without_names), listings)
def test_what_is_adopted_is_recent_and_was_looked_up(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """It is younger than the caller allows, and we have not written since."""
    decision = decide(rows, call, listing)

    if isinstance(decision, Join) and decision.is_adopted:
        export = decision.export
        assert listing is not None
        assert (NOW - export.began_at).total_seconds() < call.reuse_within
        assert export.sequence > rows.written
        assert not has_newer(rows, export.sequence, call.target)


@given(cohorts(), calls().map(without_names), listings)
def test_who_reuses_nothing_joins_only_what_was_requested_since(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """By the store's order, not by a clock."""
    call = attrs.evolve(call, reuse_within=0.0)
    decision = decide(rows, call, listing)

    if isinstance(decision, Join):
        assert decision.export.sequence > _began(rows, call)
    # What was attempted since, by a call that was killed, would have been joined.
    if isinstance(decision, Doubt):
        assert decision.export.sequence > _began(rows, call)
    assert not isinstance(decision, ReadList | Delivered)


@given(cohorts(), calls(), listings)
def test_no_older_export_comes_over_a_newer_one(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """Whatever run or occurrence it is of, unless it was requested since."""
    decision = decide(rows, call, listing)

    if isinstance(decision, Join) and has_newer(
        rows, decision.export.sequence, call.target
    ):
        assert decision.export.sequence > _began(rows, call)
    if isinstance(decision, Superseded):
        assert has_newer(rows, decision.export.sequence, call.target)
        assert call.occurrence is not None


@given(cohorts(), calls(), listings)
def test_a_doubt_is_of_an_attempt_that_nobody_works_on(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """And is told only to who wants to know."""
    decision = decide(rows, call, listing)

    if isinstance(decision, Doubt):
        assert decision.export.state is ExportState.ATTEMPTED
        assert not is_alive(decision.export.lease)
        assert "raise" == call.on_unknown


@given(cohorts(), calls(), listings)
def test_only_who_works_is_waited_for(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """A wait ends: its lease is another's, and it ends by itself."""
    decision = decide(rows, call, listing)

    if isinstance(decision, WaitForOther):
        assert is_alive(decision.export.lease)
        assert decision.export.state in {ExportState.ATTEMPTED, ExportState.QUEUED}


@given(cohorts(), calls(), listings)
def test_the_list_is_read_once_at_most(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """And only for what would be adopted."""
    decision = decide(rows, call, listing)

    if isinstance(decision, ReadList):
        assert listing is None
        assert isinstance(decide(rows, call, UNCHANGED), Join)


@given(cohorts(), calls(), listings)
def test_only_a_name_answers_from_a_record(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """An occurrence or a run; else nothing that was delivered is reused silently."""
    decision = decide(rows, call, listing)

    if isinstance(decision, Delivered):
        assert call.occurrence is not None or call.continues
        assert decision.delivery.saved is not None


@given(cohorts(), calls(), listings)
def test_what_is_requested_is_queued_or_new(
    rows: CohortRows, call: Call, listing: Listing | None
) -> None:
    """Nobody requests what another has begun."""
    decision = decide(rows, call, listing)

    if isinstance(decision, RequestNew) and decision.export is not None:
        assert decision.export.state is ExportState.QUEUED
        assert not is_alive(decision.export.lease)


# One row at a time.


def export(number: int = 1, **changes: object) -> ExportRow:
    """An export of ten minutes ago, spent."""
    row = ExportRow(
        id=f"e{number}",
        cohort_id="c1",
        state=ExportState.REQUESTED,
        sequence=number,
        request_id=f"r{number}",
        created_at=NOW - 10 * MINUTE,
        attempted_at=NOW - 10 * MINUTE,
        as_of=NOW - 10 * MINUTE,
    )

    return attrs.evolve(row, **changes)  # type: ignore[arg-type]


def delivery(number: int = 1, **changes: object) -> DeliveryRow:
    """A delivery of it to a.csv, begun."""
    row = DeliveryRow(
        id=f"d{number}",
        export_id="e1",
        sequence=1,
        target="host:/a.csv",
        format="csv",
        begun_at=NOW - 10 * MINUTE,
    )

    return attrs.evolve(row, **changes)  # type: ignore[arg-type]


def rows_of(*rows: ExportRow | DeliveryRow) -> CohortRows:
    """The rows of a cohort."""
    return CohortRows(
        exports={row.id: row for row in rows if isinstance(row, ExportRow)},
        deliveries={row.id: row for row in rows if isinstance(row, DeliveryRow)},
        sequence=9,
        at=NOW,
        is_alive=is_alive,
    )


CALL = Call(cohort_id="c1", since_sequence=9, target="host:/a.csv", format="csv")
ANSWERED = {"finished_at": NOW, "answered_at": NOW, "saved": {"size": 1}}


@pytest.mark.parametrize(
    ("seconds", "adopted"), [(-601, True), (-600, False), (0, False), (None, True)]
)
def test_an_edit_at_or_after_the_request_counts(
    seconds: int | None, adopted: bool
) -> None:
    """What the list does not tell counts as unchanged."""
    edited = None if seconds is None else NOW + timedelta(seconds=seconds)
    cohort = Cohort(
        id="c1", name="", size=1, published=True, archived=False, last_modified=edited
    )
    decision = decide(rows_of(export()), CALL, Listing(cohort=cohort))

    assert isinstance(decision, Join if adopted else RequestNew)


def test_another_target_was_delivered() -> None:
    """So it is not adopted for this one."""
    rows = rows_of(export(), delivery(target="host:/b.csv", **ANSWERED))

    assert RequestNew() == decide(rows, CALL)


def test_this_target_was_delivered_and_its_call_did_not_return() -> None:
    """The call's repetition gets it, from what is finished rather than begun."""
    finished = delivery(2, finished_at=NOW, saved={"size": 1})
    rows = rows_of(export(), delivery(1), finished, delivery(3))

    decision = decide(rows, CALL, UNCHANGED)

    assert Join(rows.exports["e1"], finished, is_adopted=True) == decision


def test_a_doubt_does_not_hide_what_was_left_before_it() -> None:
    """Who says that it may be spent still gets what surely was."""
    unknown = export(2, state=ExportState.ATTEMPTED, request_id=None)
    call = attrs.evolve(CALL, on_unknown="spend")

    decision = decide(rows_of(export(1), unknown), call, UNCHANGED)

    assert isinstance(decision, Join)
    assert "e1" == decision.export.id


def test_an_attempt_that_is_on_its_way_is_waited_for() -> None:
    """Also by a call that began after it, and reuses nothing."""
    underway = export(state=ExportState.ATTEMPTED, request_id=None, lease=LIVE)

    for reuse_within in (0.0, 3600.0):
        call = attrs.evolve(CALL, reuse_within=reuse_within)
        assert WaitForOther(underway) == decide(rows_of(underway), call)


def test_a_doubt_does_not_hide_an_export_of_the_same_occurrence() -> None:
    """The same name is the same export."""
    unknown = export(
        2, state=ExportState.ATTEMPTED, request_id=None, occurrence="monday"
    )
    call = attrs.evolve(CALL, on_unknown="spend", occurrence="monday")

    decision = decide(rows_of(export(1, occurrence="monday"), unknown), call)

    assert isinstance(decision, Join)


def test_a_doubt_that_is_too_old_is_none() -> None:
    """An hour later it would not be adopted either."""
    unknown = export(
        state=ExportState.ATTEMPTED, attempted_at=NOW - 61 * MINUTE, request_id=None
    )

    assert isinstance(decide(rows_of(unknown), CALL), RequestNew)


def test_an_occurrence_is_in_doubt_for_seven_days() -> None:
    """Whatever the age an export may have that is adopted."""
    unknown = export(
        state=ExportState.ATTEMPTED,
        attempted_at=NOW - timedelta(days=6),
        occurrence="monday",
        request_id=None,
    )
    call = attrs.evolve(CALL, occurrence="monday", reuse_within=0)

    assert isinstance(decide(rows_of(unknown), call), Doubt)


@pytest.mark.parametrize(("lease", "answer"), [(LIVE, WaitForOther), (DEAD, Doubt)])
def test_a_run_goes_on_with_its_attempt(lease: object, answer: type[object]) -> None:
    """As long as somebody works on it, it is waited for."""
    unknown = export(state=ExportState.ATTEMPTED, request_id=None, lease=lease)
    call = attrs.evolve(CALL, continues=frozenset({"run"}))

    assert isinstance(decide(rows_of(unknown, delivery(run="run")), call), answer)


def test_a_run_goes_on_with_its_export_for_seven_days() -> None:
    """Edited or written to: what the run requested is the run's."""
    old = export(attempted_at=NOW - timedelta(days=6, hours=23))
    rows = rows_of(old, delivery(run="run"))
    rows.written = 9
    call = attrs.evolve(CALL, continues=frozenset({"run"}), reuse_within=60)

    assert Join(old, rows.deliveries["d1"]) == decide(rows, call)


def test_a_run_does_not_go_on_with_what_is_gone() -> None:
    """Seven days later the service has no file, nor has a job that failed."""
    call = attrs.evolve(CALL, continues=frozenset({"run"}))

    for changes in (
        {"attempted_at": NOW - timedelta(days=7)},
        {"state": ExportState.FAILED},
    ):
        rows = rows_of(export(**changes), delivery(run="run"))
        assert RequestNew() == decide(rows, call)


def test_an_occurrence_is_answered_from_its_record() -> None:
    """For the target that was delivered; another one gets the same export."""
    rows = rows_of(export(occurrence="monday"), delivery(**ANSWERED))
    call = attrs.evolve(CALL, occurrence="monday")
    other = attrs.evolve(call, target="host:/b.csv")

    assert Delivered(rows.deliveries["d1"]) == decide(rows, call)
    assert Join(rows.exports["e1"]) == decide(rows, other)


def test_a_run_leaves_alone_what_it_delivered() -> None:
    """Even when the export is forgotten by now."""
    done = delivery(run="run", **ANSWERED)
    call = attrs.evolve(CALL, continues=frozenset({"run"}))

    assert Delivered(done, is_final=True) == decide(rows_of(done), call)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "3600", None])
def test_what_is_no_age_is_refused(seconds: object) -> None:
    """Zero is one."""
    assert 0 == checked_reuse(0)

    with pytest.raises(InvalidInputError, match="reuse_within"):
        checked_reuse(seconds)  # type: ignore[arg-type]


def test_what_is_no_choice_is_refused() -> None:
    """There are two."""
    assert "spend" == checked_on_unknown("spend")

    with pytest.raises(InvalidInputError, match="'raise' or 'spend'"):
        checked_on_unknown("ask")


@pytest.mark.parametrize("occurrence", ["", "x" * 201, 3])
def test_what_is_no_occurrence_is_refused(occurrence: object) -> None:
    """A text of up to 200 characters is one, and so is none."""
    assert checked_occurrence(None) is None
    assert "monday" == checked_occurrence("monday")

    with pytest.raises(InvalidInputError, match="occurrence"):
        checked_occurrence(occurrence)  # type: ignore[arg-type]


@given(cohorts(), st.integers(0, 9))
def test_no_file_is_renamed_over_a_newer_one(rows: CohortRows, replaces: int) -> None:
    """Unless its caller named it when the newer one was there; whatever the dates say."""
    for mine in rows.deliveries.values():
        newer = [
            each
            for each in rows.deliveries.values()
            if each.target == mine.target
            and each.sequence > max(mine.sequence, replaces)
            and (each.finished_at is not None or each.publisher)
        ]
        when = when_to_publish(rows, mine, replaces=replaces)
        assert (when is Publishing.NEVER) == bool(newer)


@given(cohorts())
def test_a_file_waits_while_that_of_another_export_is_renamed(rows: CohortRows) -> None:
    """It waits for nothing else: so no two files wait for each other."""
    for mine in rows.deliveries.values():
        if when_to_publish(rows, mine) is Publishing.LATER:
            assert any(
                each.lease is not None
                and each.lease.number == each.publisher
                and is_alive(each.lease)
                and each.finished_at is None
                and each.export_id != mine.export_id
                for each in rows.deliveries.values()
                if each.target == mine.target
            )


# -- Steps --------------------------------------------------------------------

STEP = attrs.evolve(CALL, delivery_id="d1", export_id="e1")


@given(cohorts(), calls(), st.sampled_from(["d1", "d2", "d3"]), listings)
def test_a_step_spends_nothing_again(
    rows: CohortRows, call: Call, name: str, listing: Listing | None
) -> None:
    """What an earlier step has requested is never requested by a later one."""
    call = attrs.evolve(call, delivery_id=name)
    begun = rows.deliveries.get(name)
    earlier = begun and rows.exports.get(begun.export_id)

    decision = decide(rows, call, listing)

    if begun is not None and begun.saved is not None:
        assert isinstance(decision, Delivered)
    elif earlier is not None and isinstance(decision, RequestNew):
        is_unsent = decision.export == earlier and earlier.state is ExportState.QUEUED
        is_asked_for = call.on_unknown == "spend" and decision.export != earlier
        assert is_unsent or (is_asked_for and earlier.state is ExportState.ATTEMPTED)
    elif isinstance(decision, ReadList) and earlier is not None:
        assert call.on_unknown == "spend"
        assert earlier.state is ExportState.ATTEMPTED


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (ExportState.QUEUED, RequestNew),
        (ExportState.ATTEMPTED, Doubt),
        (ExportState.REQUESTED, Join),
        (ExportState.READY, Join),
        (ExportState.GONE, Ended),
        (ExportState.FAILED, Ended),
        (ExportState.PARKED, Ended),
    ],
)
@pytest.mark.parametrize("has_delivery", [True, False])
def test_a_step_goes_on_with_its_export(
    state: ExportState, answer: type[object], *, has_delivery: bool
) -> None:
    """Whatever became of it, also when another call has taken its delivery over."""
    rows = rows_of(export(1, state=state), *([delivery(1)] if has_delivery else []))

    assert isinstance(decide(rows, STEP), answer)


@pytest.mark.parametrize(
    ("state", "answer"),
    [(ExportState.QUEUED, RequestNew), (ExportState.REQUESTED, Join)],
)
def test_a_step_that_spends_once_more_shares_that_one(
    state: ExportState, answer: type[RequestNew | Join]
) -> None:
    """With the steps to another target: one more is spent for an occurrence."""
    call = attrs.evolve(STEP, occurrence="monday", on_unknown="spend")
    lost = export(1, state=ExportState.ATTEMPTED, occurrence="monday")
    other = export(2, state=state, occurrence="monday")

    decision = decide(rows_of(lost, other, delivery(1)), call)

    assert isinstance(decision, answer)
    assert other == decision.export


def test_a_step_spends_once_more_and_no_third_time() -> None:
    """Whatever its record says."""
    call = attrs.evolve(STEP, on_unknown="spend")
    lost = export(1, state=ExportState.ATTEMPTED)

    assert RequestNew() == decide(rows_of(lost, delivery(1)), call)
    again = attrs.evolve(lost, is_again=True)
    assert Doubt(again) == decide(rows_of(again, delivery(1)), call)


@pytest.mark.parametrize("of", ["export", "delivery"])
def test_a_step_leaves_another_one_alone(of: str) -> None:
    """Its lease is alive."""
    rows = rows_of(
        export(1, lease=LIVE if of == "export" else DEAD),
        delivery(1, lease=LIVE if of == "delivery" else DEAD),
    )

    assert isinstance(decide(rows, STEP), WaitForOther)


def test_a_step_of_what_is_not_stored_any_more() -> None:
    """It is decided as any other call."""
    assert RequestNew() == decide(rows_of(), STEP)


def test_a_step_is_answered_by_another_calls_delivery() -> None:
    """Of the same export, to the same target."""
    saved = delivery(2, export_id="e1", saved={"size": 1}, finished_at=NOW)

    assert Delivered(saved) == decide(rows_of(export(1), saved), STEP)
