"""Rows of the store: written and read as they are, merged, kept as long as needed."""

from __future__ import annotations

import copy
import json
from datetime import timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.job_rows import (
    SPENT,
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
    Lease,
    RunRow,
    job_record,
    merged,
    read_cohort,
    read_runs,
    shifted,
    write_cohort,
    write_runs,
)
from amplitude_cohorts_async.errors import JobStoreUnavailableError
from amplitude_cohorts_async.models import Region
from support.rows import DEAD, NOW, cohorts, is_alive

DAY = timedelta(days=1)
EXPORT = ExportRow(
    id="e1",
    cohort_id="c1",
    properties=("plan", "city"),
    state=ExportState.READY,
    sequence=1,
    request_id="r1",
    created_at=NOW,
    as_of=NOW,
    region=Region.EU,
    lease=Lease(owner="me", number=1, until=1.5),
)
DELIVERY = DeliveryRow(
    id="d1", export_id="e1", target="host:/a.csv", format="csv", begun_at=NOW
)
RUN = RunRow(
    id="run",
    directory="host:/data",
    properties=("plan",),
    format="csv",
    begun_at=NOW,
    open=("c1", "c2"),
)


def written(cohort: CohortRows) -> dict[str, str]:
    """The rows as a new store has them."""
    rows: dict[str, str] = {}
    write_cohort(rows, cohort)

    return rows


def content(cohort: CohortRows) -> tuple[object, ...]:
    """What a cohort's rows say."""
    return cohort.exports, cohort.deliveries, cohort.sequence, cohort.written


@given(cohorts())
def test_rows_are_read_as_they_were_written(cohort: CohortRows) -> None:
    """In whatever state they are."""
    assert content(cohort) == content(read_cohort(written(cohort)))


@given(cohorts())
def test_what_did_not_change_is_not_written(cohort: CohortRows) -> None:
    """Neither what was read nor the same made anew."""
    rows = written(cohort)
    before = dict(rows)

    write_cohort(rows, read_cohort(rows))
    write_cohort(rows, copy.deepcopy(cohort))

    assert before == rows


@given(cohorts(), cohorts())
def test_only_what_differs_is_written(before: CohortRows, after: CohortRows) -> None:
    """And what is gone is removed."""
    rows = written(before)
    write_cohort(rows, after)

    assert content(after) == content(read_cohort(rows))


@given(cohorts())
def test_a_store_takes_text_only(cohort: CohortRows) -> None:
    """Of one line each."""
    rows = written(cohort)

    assert all("\n" not in text for text in rows.values())
    assert all(isinstance(json.loads(text)["n"], int) for text in rows.values())


def test_every_kind_of_value_comes_back() -> None:
    """Names of properties, a region, a time with its zone, a lease."""
    cohort = CohortRows(exports={"e1": EXPORT}, deliveries={"d1": DELIVERY})

    assert EXPORT == read_cohort(written(cohort)).exports["e1"]


def test_runs_are_read_as_they_were_written() -> None:
    """One that was not changed keeps its text."""
    rows: dict[str, str] = {}
    write_runs(rows, {"run": RUN})
    before = dict(rows)

    assert {"run": RUN} == read_runs(rows)
    write_runs(rows, read_runs(rows))
    assert before == rows


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"v": 1, "n": 0}',
        '{"v": 2, "n": 0, "row": {}}',
        '{"v": 1, "n": 0, "row": {"id": "e1"}}',
        '{"v": 1, "n": 0, "row": {"id": "e1", "cohort_id": "c1", "created_at": "2026-06-15T12:00:00"}}',
        '{"v": 1, "n": 0, "row": {"id": "e1", "cohort_id": "c1", "state": "new", "created_at": "2026-06-15T12:00:00+00:00"}}',
    ],
)
def test_a_row_that_cannot_be_read_stops_everything(text: str) -> None:
    """It may be of an export that was spent."""
    with pytest.raises(JobStoreUnavailableError, match=r"export:e1.*nothing was sent"):
        read_cohort({"export:e1": text})


def test_rows_of_another_kind_are_left_alone_when_read() -> None:
    """A later release may have more of them."""
    assert {} == read_cohort({"more:x": "?"}).exports


# Two copies of a group.


def changed(cohort: CohortRows, rows: dict[str, str], times: int) -> dict[str, str]:
    """The rows after so many changes of each export."""
    rows = dict(rows)

    for _ in range(times):
        cohort = read_cohort(rows)
        for export in list(cohort.exports.values()):
            cohort.update_export(export)
        cohort.next_sequence()
        write_cohort(rows, cohort)

    return rows


@given(cohorts(), st.integers(0, 2), st.integers(0, 2))
def test_of_two_copies_the_later_is_kept(
    cohort: CohortRows, one: int, other: int
) -> None:
    """Whichever side it is on."""
    rows = written(cohort)
    first, second = changed(cohort, rows, one), changed(cohort, rows, other)
    both = read_cohort(merged(first, second))

    assert content(both) == content(read_cohort(merged(second, first)))
    assert content(both) == content(read_cohort(first if one > other else second))


@given(cohorts())
def test_a_copy_adds_nothing_to_itself(cohort: CohortRows) -> None:
    """Nor does an empty one."""
    rows = written(cohort)

    assert rows.keys() == merged(rows, rows).keys()
    assert rows == merged(rows, {}) == merged({}, rows)
    assert content(cohort) == content(read_cohort(merged(rows, rows)))


@given(cohorts(), cohorts(), cohorts())
def test_no_row_is_lost_in_a_merge(
    one: CohortRows, other: CohortRows, third: CohortRows
) -> None:
    """In whatever order; the events' numbers are the later ones."""
    first, second, last = written(one), written(other), written(third)
    left = merged(merged(first, second), last)
    right = merged(first, merged(second, last))

    assert first.keys() | second.keys() | last.keys() == left.keys() == right.keys()
    numbers = max(each.sequence for each in (one, other, third))
    assert numbers == read_cohort(left).sequence == read_cohort(right).sequence


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """What is done to three stores, one after the other."""
    kinds = st.sampled_from(["export", "export", "write", "merge"])
    places = st.integers(0, 2)

    return draw(st.lists(st.tuples(kinds, places, places), max_size=12))


def went_on(rows: dict[str, str], kind: str, step: int) -> None:
    """Store an export, or a write, as the next event."""
    cohort = read_cohort(rows)
    cohort.at = NOW + timedelta(seconds=step)
    number = cohort.next_sequence()

    if kind == "write":
        cohort.written = number
    else:
        export = attrs.evolve(EXPORT, id=str(step), sequence=number)
        cohort.exports[export.id] = export

    write_cohort(rows, cohort)


@given(histories())
def test_a_write_outdates_what_was_requested_before_it_in_any_store(
    history: list[tuple[str, int, int]],
) -> None:
    """Though each counts its events by itself; two that met go on from there."""
    stores: list[dict[str, str]] = [{}, {}, {}]
    known: list[set[int]] = [set(), set(), set()]

    for step, (kind, place, other) in enumerate(history):
        if kind != "merge":
            went_on(stores[place], kind, step)
            if kind == "write":
                known[place].add(step)
        else:
            both = merged(stores[place], stores[other])
            stores[place], stores[other] = both, dict(both)
            known[place] = known[place] | known[other]
            known[other] = set(known[place])

        rows = read_cohort(stores[place])
        assert rows.written <= rows.sequence
        for export in rows.exports.values():
            assert export.sequence <= rows.sequence
            if int(export.id) < max(known[place], default=-1):
                assert export.sequence < rows.written


@given(histories(), st.booleans())
def test_what_is_requested_after_a_merge_is_not_outdated_by_the_next(
    history: list[tuple[str, int, int]], second: bool
) -> None:
    """Neither store has another write."""
    one: dict[str, str] = {}
    other: dict[str, str] = {}
    for step, (kind, place, _) in enumerate(history):
        if kind != "merge":
            went_on((one, other)[place % 2], kind, step)
    one = merged(one, other)
    other = dict(one)

    went_on(one, "export", 100)
    if second:
        went_on(other, "export", 101)
    rows = read_cohort(merged(one, other))

    for export_id in ["100", "101"] if second else ["100"]:
        assert rows.exports[export_id].sequence > rows.written


@given(cohorts(), cohorts())
def test_what_is_forgotten_in_one_copy_does_not_come_back(
    cohort: CohortRows, third: CohortRows
) -> None:
    """Nor its deliveries, in whatever order copies are merged."""
    before = written(cohort)
    after = read_cohort(before)
    after.at = NOW
    gone = [
        each
        for each in list(after.exports.values())[::2]
        if each.state is not ExportState.QUEUED
    ]
    for export in gone:
        after.forget(export)
    copies = dict(before)
    write_cohort(copies, after)

    for both in (
        merged(before, copies),
        merged(copies, before),
        merged(merged(copies, written(third)), before),
    ):
        rows = read_cohort(both)
        for export in gone:
            if third.exports.get(export.id) in {None, export}:
                assert export.id not in rows.exports
                assert [] == rows.deliveries_of(export)


def test_a_change_that_was_not_known_is_not_forgotten() -> None:
    """The id of what was spent became known elsewhere."""
    before = written(CohortRows(exports={"e1": EXPORT}, deliveries={"d1": DELIVERY}))
    forgotten, changed_ = read_cohort(before), read_cohort(before)
    forgotten.forget(EXPORT)
    changed_.update_export(EXPORT, request_id="r2")
    one, other = dict(before), dict(before)
    write_cohort(one, forgotten)
    write_cohort(other, changed_)

    for both in (merged(one, other), merged(other, one)):
        assert "r2" == read_cohort(both).exports["e1"].request_id


@pytest.mark.parametrize(
    ("age", "kept"), [(7 * DAY - timedelta(seconds=1), True), (7 * DAY, False)]
)
def test_what_was_forgotten_is_known_as_long_as_it_could_come_back(
    age: timedelta, kept: bool
) -> None:
    """The service's seven days; what was never sent needs no such row."""
    cohort = CohortRows(exports={"e1": EXPORT}, at=NOW - age)
    cohort.forget(EXPORT)
    cohort = read_cohort(written(cohort))
    assert ["e1"] == list(cohort.forgotten)

    cohort.at = NOW
    cohort.prune()
    assert kept == bool(cohort.forgotten)

    queued = attrs.evolve(EXPORT, state=ExportState.QUEUED)
    cohort = CohortRows(exports={"e1": queued})
    cohort.forget(queued)
    assert {} == cohort.forgotten


@given(cohorts(), st.sampled_from([-5.0, 0.25, 1e6]))
def test_another_clock_changes_the_leases_only(
    cohort: CohortRows, seconds: float
) -> None:
    """There and back it is the same."""
    rows = written(cohort)
    later = read_cohort(shifted(rows, seconds))

    assert rows == shifted(shifted(rows, seconds), -seconds)
    for key, export in cohort.exports.items():
        held = export.lease
        moved = held and attrs.evolve(held, until=held.until + seconds)
        assert attrs.evolve(export, lease=moved) == later.exports[key]


def test_a_row_that_only_speaks_of_a_lease_stays_as_it_is() -> None:
    """Its label may be any text."""
    rows = written(
        CohortRows(exports={"e1": attrs.evolve(EXPORT, lease=None, label="lease")})
    )

    assert rows == shifted(rows, 5)


# Kept as long as needed.


@given(cohorts())
def test_only_what_is_old_is_removed(cohort: CohortRows) -> None:
    """What is spent is kept as long as the service has its file."""
    before = dict(cohort.exports)
    cohort.prune()

    for key, export in before.items():
        is_recent = NOW - export.began_at < 7 * DAY
        if is_alive(export.lease) or (is_recent and export.state in SPENT):
            assert key in cohort.exports
        if not is_alive(export.lease) and not is_recent:
            assert key not in cohort.exports


@given(cohorts())
def test_a_delivery_is_kept_as_long_as_its_export(cohort: CohortRows) -> None:
    """And the last one of a target for ninety days."""
    finished = [each for each in cohort.deliveries.values() if each.finished_at]
    cohort.prune()

    for delivery in cohort.deliveries.values():
        assert delivery.export_id in cohort.exports or delivery in finished
    for export in cohort.exports.values():
        assert all(
            each.id in cohort.deliveries
            for each in finished
            if each.export_id == export.id
        )


@given(cohorts())
def test_pruning_again_removes_nothing_more(cohort: CohortRows) -> None:
    """At the same moment."""
    cohort.prune()
    before = content(copy.deepcopy(cohort))
    cohort.prune()

    assert before == content(cohort)


@pytest.mark.parametrize(
    ("age", "kept"), [(DAY - timedelta(seconds=1), True), (DAY, False)]
)
def test_what_was_never_sent_is_kept_a_day(age: timedelta, kept: bool) -> None:
    """Nothing was spent on it."""
    queued = attrs.evolve(
        EXPORT, state=ExportState.QUEUED, lease=None, created_at=NOW - age
    )
    cohort = CohortRows(exports={"e1": queued}, at=NOW, is_alive=is_alive)
    cohort.prune()

    assert kept == bool(cohort.exports)


@pytest.mark.parametrize(
    ("age", "kept"), [(89 * DAY, True), (90 * DAY, False), (8 * DAY, True)]
)
def test_the_last_delivery_of_a_target_is_kept(age: timedelta, kept: bool) -> None:
    """Of older ones without an export nothing is needed, nor of what was begun only."""
    last = attrs.evolve(DELIVERY, id="d2", export_id="gone", finished_at=NOW - age)
    older = attrs.evolve(last, id="d1", finished_at=NOW - age - DAY)
    begun = attrs.evolve(last, id="d3", finished_at=None)
    stream = attrs.evolve(last, id="d4", target=None)
    cohort = CohortRows(
        deliveries={each.id: each for each in (older, last, begun, stream)},
        at=NOW,
    )
    cohort.prune()

    assert (["d2"] if kept else []) == list(cohort.deliveries)


# What is asked of a cohort's rows.


def test_an_export_is_found_by_its_request() -> None:
    """One that is not known is none."""
    cohort = CohortRows(exports={"e1": EXPORT})

    assert EXPORT == cohort.of_request("r1")
    assert cohort.of_request("r2") is None


def test_rows_that_were_only_read_know_of_no_lease_that_has_ended() -> None:
    """Whoever has not been told the time must not take a row over."""
    assert CohortRows().is_alive(DEAD)
    assert not CohortRows().is_alive(None)


def test_what_is_forgotten_takes_its_deliveries_along() -> None:
    """Those of others stay."""
    other = attrs.evolve(DELIVERY, id="d2", export_id="e2")
    cohort = CohortRows(
        exports={"e1": EXPORT}, deliveries={"d1": DELIVERY, "d2": other}
    )
    cohort.forget(EXPORT)

    assert ({}, {"d2": other}) == (cohort.exports, cohort.deliveries)


@given(cohorts())
def test_a_change_counts(cohort: CohortRows) -> None:
    """And is stored."""
    for export in list(cohort.exports.values()):
        row = cohort.update_export(export, state=ExportState.GONE)
        assert row == cohort.exports[export.id]
        assert (export.revision + 1, NOW) == (row.revision, row.updated_at)


def test_a_delivery_is_stored_with_its_changes() -> None:
    """New or known."""
    cohort = CohortRows()
    cohort.update_delivery(DELIVERY)
    row = cohort.update_delivery(DELIVERY, finished_at=NOW)

    assert {"d1": attrs.evolve(DELIVERY, finished_at=NOW)} == {"d1": row}
    assert {"d1": row} == cohort.deliveries


@given(cohorts())
def test_a_record_says_what_the_rows_say(cohort: CohortRows) -> None:
    """What is open is spent, or may be, and was not delivered."""
    for export in cohort.exports.values():
        record = job_record(cohort, export)
        assert len(cohort.deliveries_of(export)) == len(record.deliveries)
        assert (record.token is None) == (export.request_id is None)
        if record.is_open:
            assert export.state in SPENT | {ExportState.ATTEMPTED}
