"""Rows of a job store, as hypothesis draws them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
from hypothesis import strategies as st

from amplitude_cohorts_async._core.claims import Call, Listing
from amplitude_cohorts_async._core.job_rows import (
    CohortRows,
    DeliveryRow,
    ExportRow,
    ExportState,
    Lease,
    Wanted,
)
from amplitude_cohorts_async.models import Region

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
TARGETS = [None, "host:/a.csv", "host:/b.csv"]
WANTED: list[Wanted] = [False, True, ("plan", "city")]
OCCURRENCES = [None, None, None, "monday"]
LIVE = Lease(owner="me", number=1, until=100.0)
DEAD = Lease(owner="them", number=1, until=0.0)
HOURS = [0.0, 0.5, 0.99, 1.0, 2.0, 30.0, 7 * 24.0, 91 * 24.0]

ages = st.sampled_from(HOURS).map(lambda hours: timedelta(hours=hours))
leases = st.sampled_from([None, LIVE, DEAD])


def is_alive(lease: Lease | None) -> bool:
    """Whether a lease has not ended."""
    return lease is not None and lease.until > 50.0


@st.composite
def exports(draw: st.DrawFn, number: int) -> ExportRow:
    """An export, consistent in itself."""
    state = draw(st.sampled_from(ExportState))
    began = NOW - draw(ages)
    odd = draw(st.booleans())
    is_queued = state is ExportState.QUEUED
    is_known = state not in {ExportState.QUEUED, ExportState.ATTEMPTED}

    return ExportRow(
        id=f"e{number}",
        cohort_id="c1",
        properties=draw(st.sampled_from(WANTED[:2])),
        occurrence=draw(st.sampled_from(OCCURRENCES)),
        state=state,
        sequence=0 if is_queued else 2 * number,
        created_at=began,
        attempted_at=None if is_queued else began,
        request_id=f"r{number}" if is_known else None,
        requested_at=began if is_known else None,
        as_of=began if is_known and odd else None,
        region=Region.EU if odd else None,
        used=7 if odd else None,
        label='"näme" \n' if odd else None,
        claims=int(odd),
        lease=draw(leases),
        revision=int(odd),
        updated_at=NOW if odd else None,
    )


@st.composite
def deliveries(draw: st.DrawFn, number: int, export: ExportRow) -> DeliveryRow:
    """A delivery of an export."""
    finished = draw(st.sampled_from([None, export.began_at]))
    saved = (
        {"size": 3, "sha256": "0" * 64} if finished and draw(st.booleans()) else None
    )

    return DeliveryRow(
        id=f"d{number}",
        export_id=export.id,
        sequence=export.sequence,
        target=draw(st.sampled_from(TARGETS)),
        format="csv",
        run=draw(st.sampled_from([None, None, "run"])),
        begun_at=export.began_at,
        received=10**12 if finished else None,
        finished_at=finished,
        answered_at=finished and draw(st.sampled_from([None, finished])),
        saved=saved,
        publisher=draw(st.sampled_from([0, 1])),
        lease=draw(leases),
    )


@st.composite
def cohorts(draw: st.DrawFn) -> CohortRows:
    """The rows of a cohort with a history."""
    rows = CohortRows(at=NOW, is_alive=is_alive)
    number = 0

    for count in range(1, draw(st.integers(0, 4)) + 1):
        export = rows.exports[f"e{count}"] = draw(exports(count))
        for _ in range(draw(st.integers(0, 2))):
            number += 1
            rows.deliveries[f"d{number}"] = draw(deliveries(number, export))

    rows.sequence = 2 * len(rows.exports) + 1
    rows.written = draw(st.sampled_from([0, 0, *range(1, rows.sequence + 1, 2)]))

    return rows


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A call for that cohort."""
    return Call(
        cohort_id="c1",
        properties=draw(st.sampled_from(WANTED[:2])),
        occurrence=draw(st.sampled_from(OCCURRENCES)),
        since_sequence=draw(st.sampled_from([None, 0, 2, 4, 9])),
        target=draw(st.sampled_from(TARGETS)),
        format="csv",
        reuse_within=draw(st.sampled_from([0.0, 3600.0, 86_400.0])),
        on_unknown=draw(st.sampled_from(["raise", "spend"])),  # type: ignore[arg-type]
        continues=draw(st.sampled_from([frozenset(), frozenset({"run"})])),
    )


def without_names(call: Call) -> Call:
    """A call without occurrence or run."""
    return attrs.evolve(call, occurrence=None, continues=frozenset())


UNCHANGED = Listing()
