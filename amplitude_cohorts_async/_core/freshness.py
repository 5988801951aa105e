"""Whether a cohort is still what an earlier export of it holds."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta

from ..models import Cohort
from .tokens import FILE_LIFE, ExportRef


def is_unchanged(cohort: Cohort, ref: ExportRef) -> bool:
    """
    Whether a cohort did not change since an export was requested.

    Both times are the service's, in whole seconds: a change in the second of the
    request counts as one after it, and so does a time that is missing.
    """
    if cohort.last_computed is None or ref.as_of is None:
        return False

    changes = [cohort.last_computed]

    if cohort.last_modified is not None:
        changes.append(cohort.last_modified)

    return max(changes) < ref.as_of.replace(microsecond=0)


def has_file(ref: ExportRef, *, now: datetime) -> bool:
    """Whether the service still keeps the file of an export."""
    margin = timedelta(minutes=5)

    return ref.requested_at is not None and (
        now - ref.requested_at < FILE_LIFE - margin
    )


def export_key(cohort_id: str, properties: bool | tuple[str, ...]) -> str:
    """Return a name of what is asked for: the same for two exports of the same."""
    wanted = properties if isinstance(properties, bool) else sorted(properties)
    text = json.dumps([cohort_id, wanted])

    return hashlib.sha256(text.encode()).hexdigest()[:24]
