"""Which cohorts of a list are shown, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from ..models import Cohort

__all__ = ("CSV_COLUMNS", "SortKey", "chosen")

CSV_COLUMNS = (
    *("id", "name", "size", "type", "last_computed", "last_modified", "created_at"),
    *("published", "archived", "app_id", "owners", "description"),
)
"""What `list --csv` has of a cohort."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class SortKey(StrEnum):
    """What a list is sorted by."""

    NAME = "name"
    SIZE = "size"
    COMPUTED = "computed"


def chosen(
    cohorts: Sequence[Cohort],
    *,
    name: str | None,
    kind: str | None,
    sort: SortKey | None,
) -> list[Cohort]:
    """
    Return the cohorts that are asked for.

    Args:
        name: A text that their name holds, whatever its case; None for any.
        kind: Their type, whatever its case; None for any.
        sort: By name, or the largest or latest first; None for the list's order.
            What is not known comes last.
    """
    found = [
        cohort
        for cohort in cohorts
        if (name is None or name.casefold() in (cohort.name or "").casefold())
        and (kind is None or kind.casefold() == (cohort.type or "").casefold())
    ]

    match sort:
        case SortKey.NAME:
            found.sort(key=lambda each: (not each.name, (each.name or "").casefold()))
        case SortKey.SIZE:
            found.sort(key=lambda each: -1 if each.size is None else -each.size)
            found.sort(key=lambda each: each.size is None)
        case SortKey.COMPUTED:
            found.sort(key=lambda each: each.last_computed or _LONG_AGO, reverse=True)
        case None:
            pass

    return found
