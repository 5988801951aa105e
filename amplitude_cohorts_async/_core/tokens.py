"""
The reference of one export, and the token that carries it to other processes.

A token holds no secrets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs

from ..errors import InvalidInputError
from ..models import Cohort, Region
from .ids import checked_id, checked_request_id
from .json_stream import strings_of

VERSION = 1

# Source: https://www.w3.org/TR/trace-context/
_TRACEPARENT = re.compile("[0-9a-f]{2}(-[0-9a-f]{32})(-[0-9a-f]{16})(-[0-9a-f]{2})")

# Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
FILE_LIFE = timedelta(days=7)
FILE_KEPT = FILE_LIFE - timedelta(minutes=5)
"""How long a file is sure to be there, by clocks that differ a little."""


@attrs.frozen(kw_only=True)
class ExportRef:
    """
    The reference of one requested export.

    Attributes:
        requested_at: Aware UTC by our clock; None when only the id is known.
        as_of: Aware UTC by the service's clock if its answer had one; the file holds no
            later change.
        region: None for a custom base URL.
        traceparent: The span in which it was requested, if that was traced.
    """

    request_id: str
    cohort_id: str | None = None
    properties: bool | tuple[str, ...] = False
    requested_at: datetime | None = None
    as_of: datetime | None = None
    region: Region | None = None
    traceparent: str | None = attrs.field(default=None, eq=False)


def to_token(ref: ExportRef) -> str:
    """Return *ref* as one line of JSON."""
    return json.dumps(
        {
            "version": VERSION,
            "request_id": ref.request_id,
            "cohort_id": ref.cohort_id,
            "properties": ref.properties,
            "requested_at": ref.requested_at and ref.requested_at.isoformat(),
            "as_of": ref.as_of and ref.as_of.isoformat(),
            "region": ref.region and ref.region.name,
            **({"traceparent": ref.traceparent} if ref.traceparent else {}),
        },
        separators=(",", ":"),
    )


def from_token(text: str) -> ExportRef:
    """
    Return the reference in a token; any other text is read as a request id.

    Raises `InvalidInputError` if it is neither.
    """
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        bare = text.strip() if isinstance(text, str) else text
        return ExportRef(request_id=checked_request_id(bare))

    try:
        fields = json.loads(text)
        version = fields["version"]
    except (ValueError, KeyError, RecursionError) as error:
        raise InvalidInputError(
            "this is not an export token: it is not the JSON that `job.token` gave; "
            "pass it on unchanged, or pass the request id"
        ) from error

    if version != VERSION:
        raise InvalidInputError(
            f"this export token has version {version!r}, and this release reads "
            f"version {VERSION}; use the release that made it, or the request id"
        )

    return _read_ref(fields)


def checked_traceparent(value: object) -> str | None:
    """Return the W3C header of a span, or None for whatever else."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def age_of(ref: ExportRef, *, now: datetime) -> float | None:
    """Return the seconds since an export was requested; None if unknown."""
    return (
        None if ref.requested_at is None else (now - ref.requested_at).total_seconds()
    )


def is_unchanged(cohort: Cohort, ref: ExportRef) -> bool:
    """
    Whether a cohort has not changed since an export was requested.

    Both times are the service's, in whole seconds: a change in the second of the
    request counts as later, and a missing time counts as a change.
    """
    if cohort.last_computed is None or ref.as_of is None:
        return False

    changed_at = max(cohort.last_computed, cohort.last_modified or cohort.last_computed)

    return changed_at < ref.as_of.replace(microsecond=0)


def has_file(ref: ExportRef, *, now: datetime) -> bool:
    """Whether the service still keeps the file of an export."""
    age = age_of(ref, now=now)

    return age is not None and age < FILE_KEPT.total_seconds()


def export_key(cohort_id: str, properties: bool | tuple[str, ...]) -> str:
    """Return a key of what is requested; equal requests have equal keys."""
    names = properties if isinstance(properties, bool) else sorted(properties)
    text = json.dumps([cohort_id, names])

    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read_ref(fields: Mapping[str, object]) -> ExportRef:
    properties = fields.get("properties", False)
    region = fields.get("region")
    cohort_id = fields.get("cohort_id")

    try:
        return ExportRef(
            request_id=checked_request_id(fields.get("request_id")),
            cohort_id=None if cohort_id is None else checked_id(cohort_id, "cohort id"),
            properties=properties
            if isinstance(properties, bool)
            else tuple(strings_of(properties)),
            requested_at=_read_time(fields.get("requested_at")),
            as_of=_read_time(fields.get("as_of")),
            region=None if region is None else Region[str(region)],
            traceparent=checked_traceparent(fields.get("traceparent")),
        )
    except (KeyError, ValueError) as error:
        raise InvalidInputError(
            f"this export token is damaged ({error}); pass the request id instead"
        ) from error


def _read_time(value: object) -> datetime | None:
    if value is None:
        return None

    time = datetime.fromisoformat(str(value))

    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone")

    return time
