"""The manifest beside a saved file: what it is, for whoever gets it later."""

from __future__ import annotations

import json
from datetime import datetime
from urllib.parse import quote

import attrs

from .tokens import ExportRef

_VERSION = 1
SUFFIX = ".manifest.json"


@attrs.frozen(kw_only=True)
class DeliveredFile:
    """
    A file as it was delivered.

    Attributes:
        rows: Its members; None if they cannot be counted.
        etag: The store's tag of the object, if it proves something.
    """

    name: str
    format: str
    size: int
    sha256: str
    rows: int | None
    etag: str | None
    downloaded_at: datetime


def to_manifest(ref: ExportRef, file: DeliveredFile, *, library: str) -> bytes:
    """Return the manifest of a file as JSON; it holds no secrets, and no link."""
    facts = {
        "manifest_version": _VERSION,
        "library": library,
        "request_id": ref.request_id,
        "cohort_id": ref.cohort_id,
        "properties": ref.properties,
        "requested_at": _text_of(requested_at(ref)),
        **attrs.asdict(file),
        "downloaded_at": _text_of(file.downloaded_at),
    }

    return json.dumps(facts, indent=2).encode() + b"\n"


def to_metadata(ref: ExportRef) -> dict[str, str]:
    """
    Return what is kept with an object of an export, under names that all clouds take.

    Their values are quoted as in a URL: the service writes them.
    """
    facts = {"requestid": ref.request_id, "cohortid": ref.cohort_id}

    return {name: quote(value, safe="") for name, value in facts.items() if value}


def requested_at(ref: ExportRef) -> datetime | None:
    """Return when an export was requested, by the service's clock if it said so."""
    return ref.as_of or ref.requested_at


def _text_of(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
