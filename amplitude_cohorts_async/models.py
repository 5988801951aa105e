"""
The values a user holds: what the service told, and what we did.

Times are aware UTC. Ids are ``str``, even when they look like numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Final, NoReturn, Protocol

import attrs

from .errors import RemovalGuardError

__all__ = (
    "Cohort",
    "CohortSync",
    "ExportOutcome",
    "ExportPlan",
    "ExportStatus",
    "IdType",
    "Member",
    "MembershipDiff",
    "MembershipReport",
    "OperationReport",
    "PlannedExport",
    "Region",
    "Routes",
    "SavedExport",
    "SavedFile",
    "SyncReport",
    "UploadReport",
    "Usage",
)


class Region(Enum):
    """Where the project's data lives; keys work in their own region only."""

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
    """What an id names. Each endpoint has its own word for it; we translate."""

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
    params: Mapping[str, object] = attrs.field(factory=dict[str, object])
    extra: Mapping[str, object] = attrs.field(factory=dict[str, object])


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
    definition: Mapping[str, object] = attrs.field(
        factory=dict[str, object], repr=False
    )
    syncs: Sequence[CohortSync] = ()
    extra: Mapping[str, object] = attrs.field(factory=dict[str, object], repr=False)


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
        """Requests left; None when the plan has no limit."""
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


class _NoProperties(dict[str, str]):
    """
    An empty mapping that stays empty, so that all members may share it.

    A dict of its own for each member costs the collector a fifth of the time
    that reading a file takes, and 64 bytes. It is still a dict: JSON, pickle
    and `attrs.asdict()` know what to do.
    """

    def __setitem__(self, key: str, value: str, /) -> NoReturn:
        raise TypeError("a member without properties cannot be given any")

    def __ior__(self, other: object, /) -> NoReturn:  # type: ignore[misc]  # refuses
        raise TypeError("a member without properties cannot be given any")

    def setdefault(self, *_args: object) -> NoReturn:
        raise TypeError("a member without properties cannot be given any")

    def update(self, *_args: object, **_more: object) -> NoReturn:
        raise TypeError("a member without properties cannot be given any")


NO_PROPERTIES: Final[Mapping[str, str]] = _NoProperties()


# Not frozen: a frozen class sets attributes one call at a time, and two
# million members took 1.5 times as long. Nor is it meant to be changed.
@attrs.define
class Member:
    """
    One row of a cohort's file.

    Attributes:
        amplitude_id: The id Amplitude gave; None in files of groups.

        user_id: The id you gave; None for an anonymous user.

        group: The group's name, in files of group cohorts.

        properties: The property columns, by name, as text. An empty cell is
            an empty text: the file does not tell it from a missing value.
    """

    amplitude_id: str | None = None
    user_id: str | None = None
    group: str | None = None
    properties: Mapping[str, str] = NO_PROPERTIES


class SavedFile(Protocol):
    """The file of a `SavedExport`, which knows it again and reads it if need be."""

    @property
    def mtime_ns(self) -> int:
        """When it was written last."""
        ...

    @property
    def sha256(self) -> str:
        """See `SavedExport`."""
        ...

    @property
    def rows(self) -> int | None:
        """See `SavedExport`."""
        ...

    async def digest(self) -> str:
        """See `SavedExport`."""
        ...

    def is_intact(self) -> bool:
        """Whether the file is what was saved; blocks."""
        ...


@attrs.frozen(kw_only=True)
class SavedExport:
    """
    A file that is whole.

    Copying, comparing, pickling, or making a dict of one reads no file.

    Attributes:
        size: Bytes on disk.

        downloaded: Bytes on the wire.

        links: Links it took; zero when the service sent the file itself.

        token: The job it came from; see ``CohortsClient.resume_export()``.

        unchanged: Whether the cohort had not changed since an earlier export,
            so that none was spent.

        file: What `sha256` and `rows` are read from.
    """

    path: Path
    size: int
    downloaded: int
    links: int
    token: str
    unchanged: bool = False
    file: SavedFile = attrs.field(eq=False, repr=False)

    @property
    def sha256(self) -> str:
        """
        The digest of the bytes on disk, in hex.

        The file is read when this is asked for the first time, which takes most
        of a second for each GB: on an event loop, await `digest()` instead.

        Raises:
            StorageError: The file was changed or moved before that.
        """
        return self.file.sha256

    @property
    def rows(self) -> int | None:
        """
        The members in the file.

        More than a MiB of text is read when this is asked for the first time.
        None when the file was changed or moved before that, and where there is no
        way to count.
        """
        return self.file.rows

    async def digest(self) -> str:
        """Return `sha256` without blocking the event loop."""
        return await self.file.digest()


@attrs.frozen(kw_only=True)
class ExportOutcome:
    """
    How one of many exports ended.

    Attributes:
        saved: Its file; None when it failed.

        error: Why it failed; None when it did not. A ``token`` in it says
            that the export was spent and can go on.

        spent: Exports of the month it took: one, or none when it was resumed,
            or unchanged.
    """

    cohort_id: str
    saved: SavedExport | None = None
    error: Exception | None = None
    spent: int = 0


@attrs.frozen(kw_only=True)
class PlannedExport:
    """
    What would happen to one cohort.

    Attributes:
        starts_in: Seconds until its export would be requested; None when none
            would be.

        ends_in: Seconds until its file would be ready.

        skipped: Why no export would be spent; None when one would.
    """

    cohort_id: str
    name: str
    size: int | None
    starts_in: float | None = None
    ends_in: float | None = None
    skipped: str | None = None


@attrs.frozen(kw_only=True)
class ExportPlan:
    """
    What exporting some cohorts would take; nothing of it has happened.

    Attributes:
        exports: One entry for each cohort asked about, in order.

        usage: The month as it is now.

        needed: Exports that would be spent.

        left_after: Exports left of the month afterwards; None when the plan
            has no limit, negative when they do not suffice.

        ends_in: Seconds until the last file would be ready.

        unknown: Ids that no discoverable cohort has.
    """

    exports: Sequence[PlannedExport]
    usage: Usage
    needed: int
    left_after: int | None
    ends_in: float
    unknown: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class UploadReport:
    """
    What an upload did.

    Attributes:
        cohort_id: The cohort; None when it was only validated.

        total: Different ids sent.

        matched: Ids the service knew; None when it did not say.

        totals: What the service counted of the first request, at most 100,000
            ids; None when it did not say, or an earlier run sent it.

        invalid_sample: Some of the ids that the first request skipped: the
            service names a sample there, and all of them in later requests.

        skipped_ids: All ids that later requests skipped.

        batches: Requests that carried ids.

        adopted: Whether the answer to the creating request was lost and the
            cohort was found in the list.

        resumed: How many of the batches an earlier run had written. What
            they skipped is counted in `matched` and named nowhere.
    """

    cohort_id: str | None
    total: int
    matched: int | None
    totals: int | None = None
    invalid_sample: Sequence[str] = ()
    skipped_ids: Sequence[str] = ()
    batches: int = 1
    adopted: bool = False
    resumed: int = 0


@attrs.frozen(kw_only=True)
class OperationReport:
    """
    What the adds, or the removes, of a membership update did.

    Attributes:
        sent: Different ids sent.

        skipped_ids: All ids the service did not know, over all batches but
            those that an earlier run had written.

        batches: Requests that carried ids.

        resumed: How many of the batches an earlier run had written.
    """

    sent: int = 0
    skipped_ids: Sequence[str] = ()
    batches: int = 0
    resumed: int = 0


@attrs.frozen(kw_only=True)
class MembershipReport:
    """What a membership update did."""

    cohort_id: str
    added: OperationReport = attrs.field(factory=OperationReport)
    removed: OperationReport = attrs.field(factory=OperationReport)


@attrs.frozen(kw_only=True)
class MembershipDiff:
    """
    What makes one set of ids into another.

    Attributes:
        add: Ids that are wanted and not there.

        remove: Ids that are there and not wanted.

        kept: How many ids are wanted and there.

        unnameable: Members, of either side, without an id of the type compared.
    """

    add: Collection[str] = ()
    remove: Collection[str] = ()
    kept: int = 0
    unnameable: int = 0


@attrs.frozen(kw_only=True)
class SyncReport:
    """
    What a sync found, and did.

    Attributes:
        add: Ids that were wanted and missing.

        remove: Ids that were there and not wanted.

        kept: How many ids were there and wanted.

        unnameable: Members that have no id of the type synced by; they can
            be neither kept on purpose nor removed.

        remove_first: Whether the removals have to be sent first, because with
            all additions the cohort would overflow.

        applied: What was written; None for a dry run.
    """

    cohort_id: str
    add: Collection[str] = ()
    remove: Collection[str] = ()
    kept: int = 0
    unnameable: int = 0
    remove_first: bool = False
    applied: MembershipReport | None = None

    def check_removals(self, max_removed: float) -> None:
        """
        Make sure that no more than a share of the members is to be removed.

        Raises:
            RemovalGuardError: More are.
        """
        removed = len(self.remove)
        current = removed + self.kept

        if removed > max_removed * current:
            raise RemovalGuardError(
                f"this would remove {removed:,} of the {current:,} members of cohort "
                f"{self.cohort_id}, {removed / current:.0%}, and max_removed="
                f"{max_removed} allows {max_removed:.0%}; nothing was written. Look at "
                f"it with dry_run=True, and pass a larger max_removed if it is meant",
                removed=removed,
                current=current,
                max_removed=max_removed,
            )
