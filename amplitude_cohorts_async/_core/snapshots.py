"""
Whether a cohort is still what an earlier export of it holds.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta

from ..models import Cohort
from .tokens import FILE_LIFE, Ticket


def is_unchanged(cohort: Cohort, ticket: Ticket) -> bool:
    """
    Tell whether nothing happened to a cohort since an export was requested.

    Both times are the service's: it tells them in whole seconds, and a change
    in the second of the request counts as one after it. What it does not tell
    counts as a change.
    """
    if cohort.last_computed is None or ticket.as_of is None:
        return False

    changes = [cohort.last_computed]

    if cohort.last_modified is not None:
        changes.append(cohort.last_modified)

    return max(changes) < ticket.as_of.replace(microsecond=0)


def has_file(ticket: Ticket, *, now: datetime) -> bool:
    """
    Tell whether the service still keeps the file of an export.
    """
    margin = timedelta(minutes=5)

    return ticket.requested_at is not None and (
        now - ticket.requested_at < FILE_LIFE - margin
    )


def export_key(cohort_id: str, properties: bool | tuple[str, ...]) -> str:
    """
    Name what an export asks for; two that ask for the same have one name.
    """
    wanted = properties if isinstance(properties, bool) else sorted(properties)
    told = json.dumps([cohort_id, wanted])

    return hashlib.sha256(told.encode()).hexdigest()[:24]
