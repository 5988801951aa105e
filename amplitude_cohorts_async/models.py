"""
The values a user holds: what the service told, and what we did.

Times are aware UTC. Ids are ``str``, even when they look like numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path

import attrs

__all__ = (
    "Cohort",
    "CohortSync",
    "ExportStatus",
    "IdType",
    "Member",
    "MembershipDiff",
    "MembershipReport",
    "OperationReport",
    "Region",
    "Routes",
    "SavedExport",
    "SyncReport",
    "UploadReport",
    "Usage",
)


class Region(Enum):
    """
    Where the project's data lives; keys work in their own region only.
    """

    US = "https://amplitude.com"
    EU = "https://analytics.eu.amplitude.com"


class Routes(Enum):
    """
    Which description of the service its server follows.

    Attributes:
        VENDOR: Amplitude's own reference page.

        OPENAPI: A third-party OpenAPI description that differs from it, for
            gateways and mocks made from that document.
    """

    VENDOR = "vendor"
    OPENAPI = "openapi"


class IdType(Enum):
    """
    What an id names. Each endpoint has its own word for it; we translate.
    """

    USER_ID = "user"
    AMPLITUDE_ID = "amplitude"


@attrs.frozen(kw_only=True)
class CohortSync:
    """
    One sync of a cohort to a destination.

    Attributes:
        extra: Keys the service sent that have no attribute here.
    """

    target: str
    frequency: str | None = None
    last_successful: datetime | None = None
    last_failure: datetime | None = None
    params: Mapping[str, object] = attrs.field(factory=dict)
    extra: Mapping[str, object] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Cohort:
    """
    A cohort as the list tells it. Only discoverable cohorts are listed.

    Attributes:
        size: Members when last computed; None when it never was.

        last_modified: When somebody last changed the definition.

        definition: The service's internal form, as sent.

        syncs: Filled by ``list_cohorts(include_sync_info=True)``; one-time
            and disabled syncs are left out by the service.

        extra: Keys the service sent that have no attribute here.
    """

    id: str
    name: str
    app_id: int | None = None
    description: str | None = None
    size: int | None = None
    type: str | None = None
    archived: bool = False
    published: bool | None = None
    finished: bool | None = None
    hidden: bool = False
    owners: Sequence[str] = ()
    viewers: Sequence[str] = ()
    created_at: datetime | None = None
    last_modified: datetime | None = None
    last_computed: datetime | None = None
    last_viewed: datetime | None = None
    view_count: int | None = None
    popularity: int | None = None
    is_predictive: bool | None = None
    is_official_content: bool | None = None
    chart_id: str | None = None
    edit_id: str | None = None
    location_id: str | None = None
    shortcut_ids: Sequence[str] = ()
    metadata: Sequence[str] | None = None
    definition: Mapping[str, object] = attrs.field(factory=dict, repr=False)
    syncs: Sequence[CohortSync] = ()
    extra: Mapping[str, object] = attrs.field(factory=dict, repr=False)


@attrs.frozen(kw_only=True)
class Usage:
    """
    This month's export requests.

    Attributes:
        limit: Requests a month; None when the plan has no limit.

        used: Requests spent.

        resets_at: The first of next month, aware UTC, if the service says.
    """

    limit: int | None = None
    used: int
    resets_at: datetime | None = None

    @property
    def remaining(self) -> int | None:
        """
        Requests left; None when the plan has no limit.
        """
        return None if self.limit is None else max(0, self.limit - self.used)


@attrs.frozen(kw_only=True)
class ExportStatus:
    """
    How a job is.

    Attributes:
        done: Whether the file is ready.

        word: What the service called it, as in "JOB INPROGRESS".
    """

    done: bool
    word: str


@attrs.define(eq=True, order=False)
class Member:
    """
    One row of a cohort's file.

    Attributes:
        amplitude_id: The id Amplitude gave; None in files of groups.

        user_id: The id you gave; None for an anonymous user.

        group: The group's name, in files of group cohorts.

        properties: The property columns, by name, as text.
    """

    amplitude_id: str | None = None
    user_id: str | None = None
    group: str | None = None
    properties: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class SavedExport:
    """
    A file that is whole.

    Attributes:
        size: Bytes on disk.

        sha256: Of the bytes on disk, in hex.

        rows: Members in the file, where they were counted.

        downloaded: Bytes on the wire.

        links: Links it took; zero when the service sent the file itself.

        token: The job it came from; see ``CohortsClient.resume_export()``.
    """

    path: Path
    size: int
    sha256: str
    downloaded: int
    links: int
    token: str
    rows: int | None = None


@attrs.frozen(kw_only=True)
class UploadReport:
    """
    What an upload did.

    Attributes:
        cohort_id: The cohort; None when it was only validated.

        total: Distinct ids sent.

        matched: Ids the service knew.

        invalid_sample: Some of the ids it did not know; see `skipped_ids`.

        skipped_ids: Ids that later batches reported one by one.

        batches: Requests that carried ids.
    """

    cohort_id: str | None
    total: int
    matched: int
    invalid_sample: Sequence[str] = ()
    skipped_ids: Sequence[str] = ()
    batches: int = 1


@attrs.frozen(kw_only=True)
class OperationReport:
    """
    What the adds, or the removes, of a membership update did.

    Attributes:
        sent: Distinct ids sent.

        skipped_ids: All ids the service did not know, over all batches.

        batches: Requests that carried ids.
    """

    sent: int = 0
    skipped_ids: Sequence[str] = ()
    batches: int = 0


@attrs.frozen(kw_only=True)
class MembershipReport:
    """
    What a membership update did.
    """

    cohort_id: str
    added: OperationReport = attrs.field(factory=OperationReport)
    removed: OperationReport = attrs.field(factory=OperationReport)


@attrs.frozen(kw_only=True)
class MembershipDiff:
    """
    What makes one set of ids into another.
    """

    add: Sequence[str] = ()
    remove: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class SyncReport:
    """
    What a sync found, and did.

    Attributes:
        add: Ids that were wanted and missing.

        remove: Ids that were there and not wanted.

        kept: Ids that were there and wanted.

        unnameable: Members that have no id of the type synced by; they can
            be neither kept on purpose nor removed.

        applied: What was written; None for a dry run.
    """

    cohort_id: str
    add: Sequence[str] = ()
    remove: Sequence[str] = ()
    kept: int = 0
    unnameable: int = 0
    applied: MembershipReport | None = None
