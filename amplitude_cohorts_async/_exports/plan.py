"""What exporting some cohorts would take, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from .._core.tokens import from_token, is_unchanged
from ..models import Cohort, ExportPlan, PlannedExport, SavedExport, Usage
from .requester import Wanted


@attrs.frozen(kw_only=True)
class Known:
    """What the service told when a plan was asked for."""

    cohorts: Mapping[str, Cohort]
    usage: Usage


def make_plan(
    cohort_ids: Sequence[str],
    known: Known,
    starts: Sequence[float],
    *,
    wanted: Wanted,
    since: Mapping[str, SavedExport],
    job_seconds: float,
) -> ExportPlan:
    """
    Lay out one entry for each cohort.

    Args:
        starts: In how many seconds each of the next exports may start; as many
            as there are cohorts, or more.

        since: Earlier exports by cohort, which unchanged cohorts keep.

        job_seconds: How long a job takes from its request to its file.
    """
    listed = [known.cohorts[each] for each in cohort_ids if each in known.cohorts]
    places = iter(starts)
    exports = [
        _planned(cohort, since.get(cohort.id), wanted, places, job_seconds)
        for cohort in listed
    ]
    needed = sum(export.skipped is None for export in exports)
    remaining = known.usage.remaining

    return ExportPlan(
        exports=exports,
        usage=known.usage,
        needed=needed,
        left_after=None if remaining is None else remaining - needed,
        ends_in=max((export.ends_in or 0.0 for export in exports), default=0.0),
        unknown=[each for each in cohort_ids if each not in known.cohorts],
    )


def _planned(
    cohort: Cohort,
    earlier: SavedExport | None,
    wanted: Wanted,
    places: Iterator[float],
    job_seconds: float,
) -> PlannedExport:
    planned = PlannedExport(cohort_id=cohort.id, name=cohort.name, size=cohort.size)

    if earlier is not None:
        ticket = from_token(earlier.token)
        if ticket.properties == wanted and is_unchanged(cohort, ticket):
            return attrs.evolve(planned, skipped="unchanged since it was saved")

    start = next(places)

    return attrs.evolve(planned, starts_in=start, ends_in=start + job_seconds)
