"""
Values the client takes and returns: the service's data, and reports of what was done.

Times are aware UTC. Ids are ``str``, even when they look like numbers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Protocol, Self
from uuid import uuid4

import attrs

from ._html import table
from ._id_source import IdSource
from ._locations import address_of, checked_location
from .errors import CohortsError, InvalidInputError, RemovalGuardError

__all__ = (
    "Cohort",
    "CohortSync",
    "ExportOutcome",
    "ExportPlan",
    "ExportStatus",
    "IdType",
    "JobDelivery",
    "JobRecord",
    "Member",
    "MembershipDiff",
    "MembershipOperation",
    "MembershipReport",
    "OperationReport",
    "PlannedExport",
    "Region",
    "Routes",
    "SavedExport",
    "SavedFile",
    "SyncReport",
    "Tick",
    "UploadReport",
    "Usage",
)


_RECORD_VERSION = 1
_NO_RECORD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_SEED = 20
"""Digits of a record's name that are random, without an occurrence."""


class Region(Enum):
    """Where a project's data is stored; keys are valid in their own region only."""

    US = "https://amplitude.com"
    EU = "https://analytics.eu.amplitude.com"


class Routes(Enum):
    """
    The description of the service that the server implements.

    Attributes:
        VENDOR: Amplitude's reference page,
            https://amplitude.com/docs/apis/analytics/behavioral-cohorts .
        OPENAPI: A third-party OpenAPI description that differs from it, for
            gateways and mocks generated from that document.
    """

    VENDOR = "vendor"
    OPENAPI = "openapi"


class IdType(Enum):
    """
    The type of an id; the client spells it as each endpoint does.

    Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts, "Memberships
    request JSON".

    Attributes:
        USER_ID: Your id of a user; in a cohort that counts groups, a group's name.
        AMPLITUDE_ID: Amplitude's id of a user; in a cohort that counts groups, a
            group's id.
    """

    USER_ID = "user"
    AMPLITUDE_ID = "amplitude"


@attrs.frozen(kw_only=True)
class CohortSync:
    """
    One sync of a cohort to a destination.

    Attributes:
        extra: As for `Cohort`.
    """

    target: str | None = None
    frequency: str | None = None
    last_successful: datetime | None = None
    last_failure: datetime | None = None
    params: Mapping[str, object] = attrs.field(factory=dict[str, object])
    extra: Mapping[str, object] = attrs.field(factory=dict[str, object])


@attrs.frozen(kw_only=True)
class Cohort:
    """
    A cohort in the list, which has discoverable cohorts only.

    Attributes:
        size: Number of members when last computed; None if it never was.
        last_modified: When it was last modified.
        definition: The service's internal form, as sent.
        syncs: Filled by ``list_cohorts(include_sync_info=True)``; the service omits
            one-time and disabled syncs.
        extra: Keys of the answer that have no attribute here, and values that their
            attribute cannot hold; it keeps its default then.
    """

    id: str
    name: str | None = None
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

    def __repr__(self) -> str:
        """Return what a person tells cohorts apart by; all else is in attributes."""
        return f"Cohort(id={self.id!r}, name={self.name!r}, size={self.size!r})"

    def _repr_html_(self) -> str:
        return table(
            (
                ("id", self.id),
                ("name", self.name),
                ("members", self.size),
                ("type", self.type),
                ("owners", ", ".join(self.owners)),
                ("last computed", self.last_computed),
                ("last modified", self.last_modified),
            ),
            caption="Cohort",
        )


@attrs.frozen(kw_only=True)
class Usage:
    """
    This month's export requests.

    Attributes:
        limit: Requests a month; None if the plan has no limit.
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

    def _repr_html_(self) -> str:
        limited = self.limit is not None
        return table(
            (
                ("used", self.used),
                ("limit", self.limit if limited else "none"),
                ("remaining", self.remaining if limited else "no limit"),
                ("resets at", self.resets_at),
            ),
            caption="Exports of this month",
        )


@attrs.frozen(kw_only=True)
class ExportStatus:
    """
    Status of an export job.

    Attributes:
        done: Whether the file is ready.
        word: The status as the service spells it, as in "JOB INPROGRESS"; or "not known
            yet", for a job that was requested in the last five minutes and that it does
            not know.
    """

    done: bool
    word: str


class _NoProperties(dict[str, str]):
    """
    An immutable empty mapping, which all members without properties share.

    A dict for each member costs 64 bytes, and the garbage collector a fifth of the
    time that reading a file takes. It is a dict so that JSON, pickle and
    `attrs.asdict()` accept it.
    """

    def setdefault(self, *_args: object) -> NoReturn:
        raise TypeError("a member without properties cannot be given any")

    def update(self, *_args: object, **_more: object) -> NoReturn:
        raise TypeError("a member without properties cannot be given any")

    __setitem__ = __ior__ = update


NO_PROPERTIES: Final[Mapping[str, str]] = _NoProperties()


# Not frozen, though not meant to be changed: a frozen class sets each attribute by
# a call, and two million members took 1.5 times as long.
@attrs.define
class Member:
    """
    One row of a cohort's file.

    Attributes:
        amplitude_id: Amplitude's id; None in files of groups.
        user_id: Your id; None for an anonymous user.
        group: The group's name, in files of group cohorts.
        properties: The property columns, by name, as text. An empty cell is an
            empty text, because the file has no other form of a missing value.
    """

    amplitude_id: str | None = None
    user_id: str | None = None
    group: str | None = None
    properties: Mapping[str, str] = NO_PROPERTIES


class SavedFile(Protocol):
    """The file of a `SavedExport`: detects changes, and is read on demand."""

    @property
    def mtime_ns(self) -> int:
        """The time of its last change, in nanoseconds."""
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
        """Whether the file is unchanged since it was saved; blocks."""
        ...

    def known(self) -> Mapping[str, object]:
        """Return its path, time, digest and rows, as far as they are known."""
        ...


@attrs.frozen(kw_only=True)
class SavedExport:
    """
    A complete file.

    Copying, comparing, pickling or converting it to a dict does not read the file.

    Attributes:
        size: Bytes on disk.
        downloaded: Bytes received by this call; less than the file where an earlier
            one had left a part of it.
        links: Number of links used; 0 if the service sent the file itself.
        token: The job of the file; see ``CohortsClient.resume_export()``.
        unchanged: Whether the cohort had not changed since an earlier export, so
            that none was spent.
        requested_at: When its export was requested, aware UTC by the service's
            clock; None if unknown.
        spent: Exports that the call spent: 1, or 0.
        location: The address of the object, if it went to one: then `path` is no
            file of this machine.
        file: The source of `sha256` and `rows`.
    """

    path: Path
    size: int
    downloaded: int
    links: int
    token: str
    unchanged: bool = False
    requested_at: datetime | None = None
    spent: int = 0
    location: str | None = None
    file: SavedFile = attrs.field(eq=False, repr=False)

    def __repr__(self) -> str:
        """Return where it is and what it holds, as far as known without reading it."""
        shown = {
            "path": str(self.path) if self.location is None else None,
            "location": self.location,
            "size": self.size,
            "rows": self.file.known().get("rows"),
            "request_id": self._request_id,
            "unchanged": self.unchanged or None,
        }
        facts = [
            f"{name}={value!r}" for name, value in shown.items() if value is not None
        ]

        return f"SavedExport({', '.join(facts)})"

    @property
    def _request_id(self) -> str | None:
        try:
            return str(json.loads(self.token)["request_id"])
        except (ValueError, KeyError, TypeError):
            return None  # made by hand, as in a test

    @property
    def sha256(self) -> str:
        """
        The SHA-256 digest of the bytes on disk, in hex.

        The first access reads the file, which takes most of a second for each GB:
        on an event loop, await `digest()` instead.

        Raises:
            StorageError: The file was changed or moved before that.
        """
        return self.file.sha256

    @property
    def rows(self) -> int | None:
        """
        The number of members in the file.

        If the text is longer than a MiB, the first access reads the file. None if
        it was changed or moved before that, or cannot be counted.
        """
        return self.file.rows

    async def digest(self) -> str:
        """Return `sha256` without blocking the event loop."""
        return await self.file.digest()


@attrs.frozen(kw_only=True)
class ExportOutcome:
    """
    The result of one of many exports.

    Attributes:
        saved: Its file; None if it failed.
        error: Why it failed, or None. If it has a ``token``, the export was spent
            and can be resumed.
        spent: Exports spent: 1, or 0 if it was resumed or unchanged.
    """

    cohort_id: str
    saved: SavedExport | None = None
    error: Exception | None = None
    spent: int = 0


@attrs.frozen(kw_only=True)
class JobDelivery:
    """
    Where an export goes, or went.

    Attributes:
        target: Host and absolute path of the file, as in "worker1:/data/a.csv"; None
            for a stream.
        begun_at: When a call began it; aware UTC.
        finished_at: When the file got its name, or the stream was read to its end.
        answered_at: When the call returned.
        size: Bytes of the file; None if unknown.
        sha256: Digest of the file; None if it was never computed.
        received: Bytes received so far, recorded once a second; None before.
        format: Of the file, as "csv"; None for a stream.
    """

    target: str | None
    begun_at: datetime
    finished_at: datetime | None = None
    answered_at: datetime | None = None
    size: int | None = None
    sha256: str | None = None
    received: int | None = None
    format: str | None = None


@attrs.frozen(kw_only=True)
class JobRecord:
    """
    An export as the job store has it, for seven days.

    Attributes:
        id: The store's own id.
        state: "queued" (nothing is spent), "attempted" (its request may have been
            sent), "requested", "ready" (there is a file), "gone", "failed" or "parked".
        is_open: Whether something is left to do: it is spent, or may be spent
            ("attempted"), is not parked, and was not delivered everywhere.
            `run_jobs()` or the same call finishes it, unless it is "attempted": see
            `AmbiguousExportError`.
        request_id: The service's id; None before it is known.
        requested_at: By the service's clock; aware UTC.
        token: For ``CohortsClient.resume_export()``; None before the id is known.
        deliveries: Where it goes, in the order they were begun.
        occurrence: The key that the caller gave.
        used: The month's usage before the request, if it was known.
        label: Who asked, as free text.
        revision: Counts the changes of this record.
        updated_at: When it was changed last; aware UTC.
        to: The target that `new()` was given, a text if it is an address; None for a
            record of the store's.
        format: The format that `new()` was given.
        on_unknown: As for ``CohortsClient.export()``.
        delivery_id: Names the delivery to that target.
        traceparent: The span in which it was requested, if that was traced.
    """

    id: str
    cohort_id: str
    properties: bool | Sequence[str] = False
    state: str
    is_open: bool
    request_id: str | None = None
    requested_at: datetime | None = None
    token: str | None = None
    deliveries: Sequence[JobDelivery] = ()
    occurrence: str | None = None
    used: int | None = None
    label: str | None = None
    revision: int = 0
    updated_at: datetime | None = None
    to: Path | str | None = None
    format: str | None = None
    on_unknown: Literal["raise", "spend"] = "raise"
    delivery_id: str | None = None
    traceparent: str | None = None

    @classmethod
    def new(
        cls,
        cohort_id: str | Cohort,
        to: str | Path,
        *,
        properties: bool | Sequence[str] = False,
        occurrence: str | None = None,
        on_unknown: Literal["raise", "spend"] = "raise",
        format: str | None = None,  # noqa: A002 - a public name
    ) -> Self:
        """
        Describe an export for ``CohortsClient.tick()``; sends and stores nothing.

        Args:
            to: The target. A relative path is made absolute here: whoever makes the
                steps, it is the file of that name below the present folder. An
                address, as in "s3://bucket/members.csv", is the same everywhere.
            properties: As for ``CohortsClient.export()``.
            occurrence: Names one time of a repeated export, such as its date. Two
                records with the same cohort, properties, occurrence and target are
                the same export; without it each record is a call of its own.
            on_unknown: What to do about an export that may have been spent.
            format: Needed when the name of the target does not end in it.

        Raises:
            InvalidInputError: An argument is of another type, or *to* is relative and
                there is no present folder.
        """
        _check_as_text(properties, occurrence)
        path = _checked_to(to)
        wanted = properties if isinstance(properties, bool) else tuple(properties)
        cohort = cohort_id.id if isinstance(cohort_id, Cohort) else cohort_id
        record = cls(
            id="",
            cohort_id=cohort,
            properties=wanted,
            state="queued",
            is_open=True,
            occurrence=occurrence,
            to=path,
            format=format,
            on_unknown=on_unknown,
        )
        seed = uuid4().hex[:_SEED] if occurrence is None else ""

        return attrs.evolve(record, delivery_id=_name_of(record, seed))

    @property
    def key(self) -> str:
        """
        A name for the export and its target: of a workflow, a lock, a message.

        The same for equal records of `new()` with an occurrence, in every process.
        """
        return f"cohort-{self.cohort_id}-{self.delivery_id or self.id}"

    def to_json(self) -> str:
        """
        Return what `from_json()` needs: what names the export, and no secrets.

        Also what a step has spent, with which the next one mends a job store that was
        away just then.
        """
        return json.dumps(
            {
                "version": _RECORD_VERSION,
                "id": self.id,
                "cohort_id": self.cohort_id,
                "properties": self.properties,
                "occurrence": self.occurrence,
                "to": None if self.to is None else str(self.to),
                "format": self.format,
                "on_unknown": self.on_unknown,
                "delivery_id": self.delivery_id,
                "state": self.state,
                "token": self.token,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """
        Return the record that `to_json()` gave, for ``CohortsClient.tick()``.

        Raises:
            InvalidInputError: It is another text.
        """
        try:
            fields = json.loads(text)
            wanted, to = fields.pop("properties"), fields.pop("to")
            return cls(
                is_open=True,
                properties=wanted if isinstance(wanted, bool) else tuple(wanted),
                to=None if to is None else _kept_to(to),
                **_checked_texts(fields),
            )
        except _NO_RECORD as error:
            raise InvalidInputError(
                f"this is no record of a job that `to_json()` gave ({error}); make one "
                f"with JobRecord.new()"
            ) from error


def _check_as_text(properties: object, occurrence: object) -> None:
    # As text it would be a list of letters.
    if isinstance(properties, str) or not isinstance(properties, bool | Sequence):
        raise InvalidInputError(
            f"properties must be True, False or a list of names, got {properties!r}"
        )
    if not isinstance(occurrence, str | None):
        raise InvalidInputError(
            f"occurrence is a text, such as a date's isoformat(), got {occurrence!r}"
        )


def _checked_to(to: str | Path) -> Path | str:
    address = address_of(to if isinstance(to, Path) else str(to))

    return _absolute(to) if address is None else str(checked_location(address))


def _absolute(to: str | Path) -> Path:
    try:
        return Path(to).absolute()
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"{str(to)!r} is relative, and the present folder is gone; pass an absolute "
            f"path"
        ) from error


def _kept_to(to: str) -> Path | str:
    return Path(to) if address_of(to) is None else str(checked_location(to))


def _checked_texts(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.pop("version") != _RECORD_VERSION:
        raise ValueError("another version")

    for name, value in fields.items():
        is_needed = name in {"id", "cohort_id", "state", "on_unknown"}

        if not isinstance(value, str if is_needed else str | None):
            raise TypeError(f"{name} is no text")
        if value is not None:
            # A surrogate by itself is no text that can be stored.
            value.encode()

    return fields


def has_own_name(record: JobRecord) -> bool:
    """Whether a record has the name that `new()` gave to what it describes."""
    name = record.delivery_id or ""
    seed = name[:_SEED] if record.occurrence is None else ""

    return name == _name_of(record, seed)


def _name_of(record: JobRecord, seed: str) -> str:
    fields = [
        record.cohort_id,
        record.properties,
        record.occurrence,
        str(record.to),
        record.format,
    ]
    digest = sha256(json.dumps([seed, *fields]).encode()).hexdigest()

    return (seed + digest)[:32]


@attrs.frozen(kw_only=True)
class Tick:
    """
    One step of an export, made by ``CohortsClient.tick()``.

    Attributes:
        record: The export as it is now; pass it to the next tick.
        due_in: Seconds until the next tick is due; None when it is done.
        done: Whether the file is at its target.
        saved: The file, when it is done.
        last_error: What went wrong in this step, if a later one can mend it.
    """

    record: JobRecord
    due_in: float | None
    done: bool = False
    saved: SavedExport | None = None
    last_error: CohortsError | None = None


@attrs.frozen(kw_only=True)
class PlannedExport:
    """
    The plan for one cohort.

    Attributes:
        starts_in: Seconds until its export would be requested; None if none would
            be.
        ends_in: Seconds until its file would be ready.
        skipped: Why no export would be spent; None if one would be.
    """

    cohort_id: str
    name: str | None
    size: int | None
    starts_in: float | None = None
    ends_in: float | None = None
    skipped: str | None = None


@attrs.frozen(kw_only=True)
class ExportPlan:
    """
    What an export of some cohorts would take; nothing is requested yet.

    Attributes:
        exports: One entry for each cohort, in the order given.
        usage: The current month's usage.
        needed: Exports that would be spent.
        left_after: Exports left of the month afterwards; None if the plan has no
            limit, negative if too few are left.
        ends_in: Seconds until the last file would be ready.
        unknown: Ids that no discoverable cohort has.
    """

    exports: Sequence[PlannedExport]
    usage: Usage
    needed: int
    left_after: int | None
    ends_in: float
    unknown: Sequence[str] = ()

    def _repr_html_(self) -> str:
        rows = [
            (
                export.cohort_id,
                export.name,
                export.size,
                _whole_seconds(export.starts_in),
                _whole_seconds(export.ends_in),
                export.skipped,
            )
            for export in self.exports
        ]
        rows.extend(
            (unknown, None, None, None, None, "unknown") for unknown in self.unknown
        )
        left = "no limit" if self.left_after is None else f"{self.left_after:,}"
        return table(
            rows,
            head=("cohort", "name", "members", "starts in", "ready in", "skipped"),
            caption=f"Exports needed: {self.needed:,}; left of the month: {left}; "
            f"ready in {_whole_seconds(self.ends_in)}",
        )


def _whole_seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:,.0f} s"


@attrs.frozen
class MembershipOperation:
    """
    One operation of an update: ids that are added to a cohort, or removed from it.

    Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts, "Memberships
    request JSON".

    Attributes:
        change: "ADD" or "REMOVE".
        ids: As for ``CohortsClient.upload_cohort()``.
        id_type: What the ids are; see `IdType`.
    """

    change: Literal["ADD", "REMOVE"]
    ids: IdSource = attrs.field(repr=False)
    id_type: IdType = IdType.USER_ID

    def __attrs_post_init__(self) -> None:
        if self.change not in {"ADD", "REMOVE"}:
            raise InvalidInputError(
                f'a membership is changed by "ADD" or "REMOVE", not by {self.change!r}'
            )


@attrs.frozen(kw_only=True)
class UploadReport:
    """
    The result of an upload.

    Attributes:
        cohort_id: The cohort; None if the ids were only validated.
        total: Different ids sent.
        matched: Ids the service knew; None if it did not say.
        totals: The service's count for the first request, at most 100,000 ids;
            None if it did not say, or an earlier run sent it.
        invalid_sample: Some of the ids that the first request skipped: the service
            names a sample there, and all of them in later requests.
        skipped_ids: All ids that later requests skipped.
        batches: Requests with ids.
        adopted: Whether the answer to the first request was lost and the cohort was
            found in the list.
        resumed: Batches that an earlier run had written. The ids they skipped are
            counted in `matched` and not named.
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
    The result of one operation of a membership update, or of all that add or remove.

    Attributes:
        sent: Different ids sent.
        skipped_ids: All ids the service did not know, without those of batches that
            an earlier run had written.
        batches: Requests with ids of this operation; one request may have several
            operations.
        resumed: Batches that an earlier run had written.
    """

    sent: int = 0
    skipped_ids: Sequence[str] = ()
    batches: int = 0
    resumed: int = 0


@attrs.frozen(kw_only=True)
class MembershipReport:
    """
    The result of a membership update.

    Attributes:
        added: All additions together.
        removed: All removals together.
        operations: One report for each of ``operations=``, in their order; empty
            when ``add=`` and ``remove=`` were given.
    """

    cohort_id: str
    added: OperationReport = attrs.field(factory=OperationReport)
    removed: OperationReport = attrs.field(factory=OperationReport)
    operations: Sequence[OperationReport] = ()


@attrs.frozen(kw_only=True)
class MembershipDiff:
    """
    The difference between two sets of ids.

    Attributes:
        add: Ids in the second set only.
        remove: Ids in the first set only.
        kept: Number of ids in both.
        unnameable: Members of either set without an id of the type compared.
        unnameable_before: Those of the first set.
        unnameable_after: Those of the second set.
    """

    add: Collection[str] = ()
    remove: Collection[str] = ()
    kept: int = 0
    unnameable: int = 0
    unnameable_before: int = 0
    unnameable_after: int = 0


@attrs.frozen(kw_only=True)
class SyncReport:
    """
    The result of a sync.

    Attributes:
        add: Wanted ids that were missing.
        remove: Unwanted ids that were in the cohort.
        kept: Number of wanted ids that were in the cohort.
        unnameable: Members without an id of the type synced, which can be neither
            compared nor removed.
        remove_first: Whether the removals have to be sent first, because the cohort
            would be too large with all additions.
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
        """Raise `RemovalGuardError` if more than a share of the members is removed."""
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
