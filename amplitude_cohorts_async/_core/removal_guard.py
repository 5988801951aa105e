"""
The guard against a list that came out too short and would empty a cohort.
"""

from __future__ import annotations

from ..errors import InvalidInputError, RemovalGuardError
from ..models import Cohort


def checked_share(max_removed: object) -> float:
    """
    Return the share of the members that may be removed.

    Raises:
        InvalidInputError: It is no number from 0 to 1.
    """
    if not isinstance(max_removed, int | float) or not 0 <= max_removed <= 1:
        raise InvalidInputError(
            f"max_removed must be a share from 0.0 to 1.0, got {max_removed!r}"
        )

    return max_removed


def check_replacement(
    cohort_id: str, cohort: Cohort | None, new: int, max_removed: float
) -> None:
    """
    Make sure that a replacement removes no more than a share of the members.

    Only counts are compared: who the members are would cost an export.

    Args:
        cohort: The cohort as the list shows it; None if it does not.

        new: How many ids are going to replace the members, or at least are.

    Raises:
        RemovalGuardError: It would, or the list does not show the size.
    """
    current = None if cohort is None else cohort.size

    if current is None:
        why = "is not in the list" if cohort is None else "has no size in the list"
        raise RemovalGuardError(
            f"cohort {cohort_id} {why}, so it is unknown how many members replacing it "
            f"would remove; nothing was written. Pass max_removed=1.0 to replace it all "
            f"the same",
            removed=None,
            current=None,
            max_removed=max_removed,
        )

    removed = current - new

    if removed > max_removed * current:
        raise RemovalGuardError(
            f"this would replace the {current:,} members of cohort {cohort_id} by "
            f"{new:,} ids, so at least {removed:,}, {removed / current:.0%}, would go, "
            f"and max_removed={max_removed} allows {max_removed:.0%}; only the counts "
            f"were compared, and nothing was written. Pass a larger max_removed if it "
            f"is meant, or change single members with update_membership()",
            removed=removed,
            current=current,
            max_removed=max_removed,
        )
