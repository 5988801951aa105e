"""The plan of an `export_many()`, calculated without spending an export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from .._core.tokens import from_token, is_unchanged
from ..models import Cohort, ExportPlan, PlannedExport, SavedExport, Usage

if TYPE_CHECKING:
    from .._core.job_rows import Wanted


def make_plan(
    cohort_ids: Sequence[str],
    *,
    cohorts: Mapping[str, Cohort],
    usage: Usage,
    starts: Sequence[float],
    wanted: Wanted,
    since: Mapping[str, SavedExport],
    job_seconds: float,
) -> ExportPlan:
    """
    Return the plan, with one entry for each listed cohort.

    The *starts* are seconds until each of the next exports may start, at least one for
    each cohort; *since* has earlier exports by cohort.
    """
    next_start = iter(starts)
    exports = [
        _planned(
            cohorts[cohort_id], since.get(cohort_id), wanted, next_start, job_seconds
        )
        for cohort_id in cohort_ids
        if cohort_id in cohorts
    ]
    needed = sum(export.skipped is None for export in exports)

    return ExportPlan(
        exports=exports,
        usage=usage,
        needed=needed,
        left_after=None if usage.remaining is None else usage.remaining - needed,
        ends_in=max((export.ends_in or 0.0 for export in exports), default=0.0),
        unknown=[cohort_id for cohort_id in cohort_ids if cohort_id not in cohorts],
    )


def _planned(
    cohort: Cohort,
    earlier: SavedExport | None,
    wanted: Wanted,
    next_start: Iterator[float],
    job_seconds: float,
) -> PlannedExport:
    planned = PlannedExport(cohort_id=cohort.id, name=cohort.name, size=cohort.size)

    if earlier is not None:
        ref = from_token(earlier.token)
        if ref.properties == wanted and is_unchanged(cohort, ref):
            return attrs.evolve(planned, skipped="unchanged since it was saved")

    start = next(next_start)
    return attrs.evolve(planned, starts_in=start, ends_in=start + job_seconds)
