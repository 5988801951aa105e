"""A job as text: what another process needs to go on with it. No secrets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs

from ..errors import InvalidInputError
from ..models import Cohort, Region
from .ids import checked_id, checked_request_id
from .json_stream import strings_of

VERSION = 1

FILE_LIFE = timedelta(days=7)
"""
How long a job's file can be had.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""


@attrs.frozen(kw_only=True)
class ExportRef:
    """
    One export that was requested.

    Attributes:
        requested_at: When, aware UTC and by our clock; None when only the id
            is known.

        as_of: When, by the service's clock where its answer had one: what changed
            later is not in the file.

        region: Where; None for a base URL of the caller's own.
    """

    request_id: str
    cohort_id: str | None = None
    properties: bool | tuple[str, ...] = False
    requested_at: datetime | None = None
    as_of: datetime | None = None
    region: Region | None = None


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
        },
        separators=(",", ":"),
    )


def from_token(text: str) -> ExportRef:
    """
    Return what a token holds; any other text is a bare request id.

    Raises:
        InvalidInputError: It is neither.
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

    return _ref(fields)


def age_of(ref: ExportRef, *, now: datetime) -> float | None:
    """Return how many seconds ago an export was requested; None if unknown."""
    if ref.requested_at is None:
        return None

    return (now - ref.requested_at).total_seconds()


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


def _ref(fields: Mapping[str, object]) -> ExportRef:
    try:
        properties = fields.get("properties", False)
        requested_at = fields.get("requested_at")
        as_of = fields.get("as_of")
        region = fields.get("region")
        cohort_id = fields.get("cohort_id")

        return ExportRef(
            request_id=checked_request_id(fields.get("request_id")),
            cohort_id=None if cohort_id is None else checked_id(cohort_id, "cohort id"),
            properties=properties
            if isinstance(properties, bool)
            else tuple(strings_of(properties)),
            requested_at=None if requested_at is None else _moment(requested_at),
            as_of=None if as_of is None else _moment(as_of),
            region=None if region is None else Region[str(region)],
        )
    except (KeyError, ValueError) as error:
        raise InvalidInputError(
            f"this export token is damaged ({error}); pass the request id instead"
        ) from error


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(str(value))

    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")

    return moment
