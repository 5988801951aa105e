"""
A cohort, and how the vendor's list shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from .ledger import RequestRecord
from .members import Members

__all__ = ("MANUAL", "CohortRecord", "listed", "listed_by_openapi")

MANUAL = "manual_upload"


@attrs.define(kw_only=True, eq=False)
class CohortRecord:
    """
    A cohort.

    Attributes:
        properties: Names of the user properties that its members have.

        computed_at: None when it never was.

        overrides: Keys of the list's object that are not to follow the rest.

        job_seconds: How long its exports take; None for the emulator's own.

        writer: The last request that wrote to it.
    """

    id: str
    name: str
    app_id: int
    members: Members = attrs.field(repr=False)
    group: str | None = None
    type: str = "redshift"
    description: str | None = None
    owners: Sequence[str] = ()
    published: bool = True
    archived: bool = False
    properties: Sequence[str] = ()
    created_at: datetime
    modified_at: datetime
    computed_at: datetime | None
    syncs: Sequence[Mapping[str, object]] = ()
    overrides: Mapping[str, object] = attrs.field(factory=dict[str, object])
    job_seconds: float | None = None
    writer: RequestRecord | None = None


def listed(cohort: CohortRecord, *, sync_info: bool = False) -> dict[str, object]:
    """
    Return the vendor's COHORT_OBJECT, with the extra keys seen live.

    https://amplitude.com/docs/apis/analytics/behavioral-cohorts
    """
    computed = cohort.computed_at is not None
    value: dict[str, object] = {
        "appId": cohort.app_id,
        "archived": cohort.archived,
        "definition": _definition(cohort),
        "description": cohort.description,
        "finished": computed,
        "id": cohort.id,
        "name": cohort.name,
        "owners": list(cohort.owners),
        "viewers": [],
        "published": cohort.published,
        "size": len(cohort.members) if computed else None,
        "type": cohort.type,
        "lastMod": _epoch(cohort.modified_at),
        "createdAt": _epoch(cohort.created_at),
        "lastComputed": _epoch(cohort.computed_at),
        "hidden": False,
        "metadata": None,
        "view_count": None,
        "popularity": None,
        "last_viewed": None,
        "chart_id": None,
        "edit_id": None,
        "is_predictive": False,
        "is_official_content": False,
        "location_id": None,
        "shortcut_ids": [],
        "per_app_metadata": None,
        "cohort_definition_type": None,
        "cohort_output_type": "UNIQUES",
        "is_generated_content": False,
    }

    if sync_info:
        value["syncMetadata"] = list(cohort.syncs)

    return value | dict(cohort.overrides)


def listed_by_openapi(cohort: CohortRecord) -> dict[str, object]:
    """
    Return a cohort in the shape of the third-party OpenAPI description.
    """
    computed = cohort.computed_at

    return {
        "id": cohort.id,
        "name": cohort.name,
        "description": cohort.description or "",
        "size": len(cohort.members),
        "lastComputed": computed and computed.isoformat().replace("+00:00", "Z"),
        "archived": cohort.archived,
        "owner": next(iter(cohort.owners), ""),
        "appId": cohort.app_id,
    } | dict(cohort.overrides)


def _epoch(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _definition(cohort: CohortRecord) -> dict[str, object]:
    clauses = [] if cohort.type == MANUAL else [_CLAUSE]

    return {
        "version": 3,
        "countGroup": {"name": cohort.group or "User", "is_computed": False},
        "cohortType": "UNIQUES",
        "andClauses": clauses,
        "referenceFrameTimeParams": {},
    }


_NO_GROUPS: list[str] = []
_CLAUSE: Mapping[str, object] = {
    "negated": False,
    "orClauses": [
        {
            "type": "event",
            "time_type": "rolling",
            "time_value": 30,
            "offset": 0,
            "interval": 1,
            "type_value": "_active",
            "operator": ">=",
            "operator_value": 1,
            "group_by": _NO_GROUPS,
            "metric": None,
        }
    ],
}
