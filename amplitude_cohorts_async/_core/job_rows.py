"""
What is kept of exports, deliveries, runs and writes: rows of JSON text, by key.

The rows of one cohort form a group, which a store changes as a whole, so that every
law about them is a function of values. `claims` has those laws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache, lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast, get_args

import attrs

from ..errors import JobStoreUnavailableError
from ..models import JobDelivery, JobRecord, Region
from .known_usage import KnownUsage
from .redact import shorten
from .tokens import FILE_LIFE, ExportRef, to_token

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

Wanted: TypeAlias = bool | tuple[str, ...]
"""The user properties of an export: none, all, or these."""

Rows: TypeAlias = MutableMapping[str, str]
"""The rows of one group, by key."""

IsAlive: TypeAlias = Callable[["Lease | None"], bool]
"""Whether a lease is held by a caller that may still be running."""

OnUnknown: TypeAlias = Literal["raise", "spend"]
"""What to do about an export that may have been spent, and whose id is not known."""

ON_UNKNOWN: tuple[str, ...] = get_args(OnUnknown)

DELIVERY_LIFE = timedelta(days=90)
_QUEUED_LIFE = timedelta(days=1)
_VERSION = 1
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_ORDER = "order:"


class ExportState(Enum):
    """
    How far an export is.

    QUEUED: nothing is spent. ATTEMPTED: its request may have been sent. REQUESTED:
    it is spent, and its id is known. READY: the service has its file. GONE: it has
    it no more. FAILED: it never will. PARKED: put aside by a person.
    """

    QUEUED = "queued"
    ATTEMPTED = "attempted"
    REQUESTED = "requested"
    READY = "ready"
    GONE = "gone"
    FAILED = "failed"
    PARKED = "parked"


SPENT = frozenset({ExportState.REQUESTED, ExportState.READY})
"""The states in which there is a file, or will be."""


@attrs.frozen(kw_only=True)
class Lease:
    """
    The right to go on with a row, until a moment of the store's clock.

    Attributes:
        owner: The process that holds it; empty in a store of several machines.
        number: Counts the holders of a row. A delivery is renewed only by the call
            whose number it has; a run has 1, an export the number of its `claims`.
    """

    owner: str
    number: int
    until: float

    def ended(self) -> Lease:
        """Return it as given up: its number is not given twice."""
        return attrs.evolve(self, until=0.0)


@attrs.frozen(kw_only=True)
class ExportRow:
    """
    One export.

    Attributes:
        sequence: The place of its attempt in the order of the cohort's events; 0
            before.
        requested_at: Aware UTC by our clock.
        as_of: Aware UTC by the service's clock; the file holds no later change.
        used: The month's usage at the attempt, if it was known.
        is_again: Whether it was attempted instead of one that may have been spent.
        label: Who asked, as free text.
        ticket: Its place in the limiter's order between two ticks.
        usage: The month's usage, as a step has read it for the next one.
        poll_at: When its next poll is due, if it is polled by ticks.
        traceparent: The span in which it was requested, if that was traced.
        revision: Counts the changes of this row.
    """

    id: str
    cohort_id: str
    properties: Wanted = False
    occurrence: str | None = None
    state: ExportState = ExportState.QUEUED
    sequence: int = 0
    request_id: str | None = None
    created_at: datetime
    attempted_at: datetime | None = None
    requested_at: datetime | None = None
    as_of: datetime | None = None
    region: Region | None = None
    used: int | None = None
    is_again: bool = False
    label: str | None = None
    ticket: str | None = None
    usage: KnownUsage = attrs.field(factory=KnownUsage)
    poll_at: datetime | None = None
    traceparent: str | None = None
    claims: int = 0
    lease: Lease | None = None
    revision: int = 0
    updated_at: datetime | None = None

    @property
    def began_at(self) -> datetime:
        """When it was attempted, or queued if it was not."""
        return self.attempted_at or self.created_at

    def ref(self) -> ExportRef:
        """Return the reference of a spent export."""
        return ExportRef(
            request_id=self.request_id or "",
            cohort_id=self.cohort_id,
            properties=self.properties,
            requested_at=self.requested_at,
            as_of=self.as_of,
            region=self.region,
            traceparent=self.traceparent,
        )


@attrs.frozen(kw_only=True)
class DeliveryRow:
    """
    The delivery of an export to one call.

    Attributes:
        sequence: That of its export.
        target: Host and path of the file, or an address; None for a stream.
        run: The `export_many()` it belongs to.
        finished_at: When the file got its name, or the stream was read to its end.
        answered_at: When the call returned its result.
        saved: The record of the saved file.
        received: Bytes received so far, at most a second ago.
        publisher: The number of the lease whose holder began to rename the file to its
            target; 0 if nobody did.
        is_adopted: Whether its call has taken up an export of an earlier one, and not
            seen a status of it yet: if there is no file, the call requests another.
    """

    id: str
    export_id: str
    sequence: int = 0
    target: str | None = None
    format: str | None = None
    run: str | None = None
    begun_at: datetime
    finished_at: datetime | None = None
    answered_at: datetime | None = None
    saved: Mapping[str, Any] | None = None
    received: int | None = None
    publisher: int = 0
    is_adopted: bool = False
    lease: Lease | None = None

    @property
    def next_number(self) -> int:
        """The number of its next lease."""
        return 1 + max(self.lease.number if self.lease else 0, self.publisher)


@attrs.frozen(kw_only=True)
class RunRow:
    """
    One `export_many()`, which is open until its iterator is exhausted.

    Attributes:
        open: The cohorts whose outcome may be missing.
    """

    id: str
    directory: str
    properties: Wanted = False
    format: str
    begun_at: datetime
    open: tuple[str, ...] = ()
    lease: Lease | None = None


@attrs.frozen(kw_only=True)
class Forgotten:
    """
    What is left of an export that was removed, so that no copy brings it back.

    Attributes:
        revision: That of the export; a later change was not known, and is kept.
        at: When it was removed; aware UTC by our clock.
    """

    revision: int = 0
    at: datetime


@attrs.frozen
class _Order:
    """
    The order of a cohort's events.

    Attributes:
        sequence: As in `CohortRows`.
        written: As in `CohortRows`.
        write: A name for that write, because another store may have given the same
            number to another one.
    """

    sequence: int = 0
    written: int = 0
    write: str = ""


def _is_given(lease: Lease | None) -> bool:
    return lease is not None


@attrs.define(kw_only=True)
class CohortRows:
    """
    The rows of one cohort of an app, by id.

    Attributes:
        sequence: The number of the last event of this cohort.
        written: The number of our last write to its members; 0 for none.
        forgotten: The exports that were removed though they may have been spent.
        at: When they are changed: aware UTC by our clock.
        now: The same moment by the store's clock, which counts seconds.
        is_alive: Whether a lease may be held by a running call. Rows that were only
            read tell of no lease that it has ended.
        as_read: The rows as they are stored, by key.
    """

    exports: dict[str, ExportRow] = attrs.field(factory=dict[str, ExportRow])
    deliveries: dict[str, DeliveryRow] = attrs.field(factory=dict[str, DeliveryRow])
    sequence: int = 0
    written: int = 0
    forgotten: dict[str, Forgotten] = attrs.field(factory=dict[str, Forgotten])
    at: datetime = attrs.field(default=_LONG_AGO, eq=False)
    now: float = attrs.field(default=0.0, eq=False)
    is_alive: IsAlive = attrs.field(default=_is_given, eq=False)
    as_read: dict[str, object] = attrs.field(factory=dict[str, object], repr=False)

    def next_sequence(self) -> int:
        """Return the number of a new event."""
        self.sequence += 1

        return self.sequence

    def update_export(self, export: ExportRow, **changes: object) -> ExportRow:
        """Store an export with some changes, and return it."""
        changes |= {"revision": export.revision + 1, "updated_at": self.at}
        changed = attrs.evolve(export, **changes)  # type: ignore[arg-type]
        self.exports[export.id] = changed

        return changed

    def update_delivery(self, delivery: DeliveryRow, **changes: object) -> DeliveryRow:
        """Store a delivery with some changes, and return it."""
        changed = attrs.evolve(delivery, **changes)  # type: ignore[arg-type]
        self.deliveries[delivery.id] = changed

        return changed

    def of_request(self, request_id: str) -> ExportRow | None:
        """Return the export with this id of the service's, if it is known."""
        found = (
            each for each in self.exports.values() if each.request_id == request_id
        )

        return next(found, None)

    def deliveries_of(self, export: ExportRow) -> list[DeliveryRow]:
        """Return the deliveries of an export."""
        return [
            each for each in self.deliveries.values() if each.export_id == export.id
        ]

    def is_left(self, delivery: DeliveryRow) -> bool:
        """Whether the file of its export is still to come to its target."""
        return delivery.finished_at is None and not any(
            # Another call may have brought the same file.
            each.saved is not None
            and (each.export_id, each.target, each.format)
            == (delivery.export_id, delivery.target, delivery.format)
            for each in self.deliveries.values()
        )

    def forget(self, export: ExportRow) -> None:
        """Remove an export and its deliveries."""
        del self.exports[export.id]
        if export.state is not ExportState.QUEUED:
            self.forgotten[export.id] = Forgotten(revision=export.revision, at=self.at)
        for delivery in self.deliveries_of(export):
            del self.deliveries[delivery.id]

    def prune(self) -> None:
        """Remove what is too old to be of use."""
        self.forgotten = {
            key: row
            for key, row in self.forgotten.items()
            if self.at - row.at < FILE_LIFE
        }
        self.exports = {
            key: row
            for key, row in self.exports.items()
            if self.is_alive(row.lease) or not _is_too_old(row, self.at)
        }
        last: dict[tuple[str | None, str | None], datetime | None] = {
            (row.target, row.format): row.finished_at
            for row in self._finished()
            if row.target is not None
        }
        self.deliveries = {
            key: row
            for key, row in self.deliveries.items()
            if row.export_id in self.exports
            # Of what the service has no more, the last of each target is of use.
            or (
                (
                    row.finished_at
                    and row.finished_at == last.get((row.target, row.format))
                )
                and self.at - row.finished_at < DELIVERY_LIFE
            )
        }

    def _finished(self) -> list[DeliveryRow]:
        """Return the deliveries that ended well, the last one last."""
        rows = (row for row in self.deliveries.values() if row.finished_at is not None)

        return sorted(rows, key=lambda row: (row.finished_at, row.sequence))


def job_record(rows: CohortRows, export: ExportRow) -> JobRecord:
    """Return an export as its users see it."""
    deliveries = sorted(rows.deliveries_of(export), key=lambda each: each.begun_at)
    is_left = any(rows.is_left(each) for each in deliveries) or not deliveries

    return JobRecord(
        id=export.id,
        cohort_id=export.cohort_id,
        properties=export.properties,
        state=export.state.value,
        is_open=is_left and export.state in SPENT | {ExportState.ATTEMPTED},
        request_id=export.request_id,
        requested_at=export.as_of or export.requested_at,
        token=export.request_id and to_token(export.ref()),
        deliveries=[
            JobDelivery(
                target=each.target,
                begun_at=each.begun_at,
                finished_at=each.finished_at,
                answered_at=each.answered_at,
                size=(each.saved or {}).get("size"),
                sha256=(each.saved or {}).get("sha256"),
                received=each.received,
                format=each.format,
            )
            for each in deliveries
        ],
        occurrence=export.occurrence,
        used=export.used,
        label=export.label,
        revision=export.revision,
        updated_at=export.updated_at,
        traceparent=export.traceparent,
    )


def read_cohort(rows: Rows) -> CohortRows:
    """Return the rows of a cohort, or raise `JobStoreUnavailableError`."""
    found = CohortRows()

    for key, text in rows.items():
        kind, _, name = key.partition(":")

        if kind == "export":
            row = found.exports[name] = _decoded(key, text, ExportRow)
            found.as_read[key] = row
        elif kind == "delivery":
            delivery = found.deliveries[name] = _decoded(key, text, DeliveryRow)
            found.as_read[key] = delivery
        elif kind == "forgotten":
            found.forgotten[name] = _decoded(key, text, Forgotten)
        elif key == _ORDER:
            order = _order_of(rows)
            found.sequence, found.written = order.sequence, order.written

    return found


def write_cohort(rows: Rows, cohort: CohortRows) -> None:
    """Change the rows to those of *cohort*."""
    order = attrs.evolve(_order_of(rows), sequence=cohort.sequence)

    if cohort.written != order.written:
        name = f"{cohort.written} at {cohort.at.isoformat()}"
        order = attrs.evolve(order, written=cohort.written, write=name)

    _replace(
        rows,
        {
            **{f"export:{key}": row for key, row in cohort.exports.items()},
            **{f"delivery:{key}": row for key, row in cohort.deliveries.items()},
            **{f"forgotten:{key}": row for key, row in cohort.forgotten.items()},
            **({_ORDER: order} if order.sequence else {}),
        },
        cohort.as_read,
    )


def read_runs(rows: Rows) -> dict[str, RunRow]:
    """Return the open runs by id, or raise `JobStoreUnavailableError`."""
    return {key: _decoded(key, text, RunRow) for key, text in rows.items()}


def write_runs(rows: Rows, runs: Mapping[str, RunRow]) -> None:
    """Change the rows to those of *runs*."""
    _replace(rows, runs, {})


def merged(one: Rows, other: Rows) -> dict[str, str]:
    """
    Return the rows of two copies of a group; of each row the one changed last.

    What was forgotten in one of them is in none.
    """
    both = {**one, **other}

    for key in one.keys() & other.keys():
        if key == _ORDER:
            both[key] = _encoded(_merged_order(one, other))
        elif _changes(one[key]) > _changes(other[key]):
            both[key] = one[key]

    for key, text in list(both.items()):
        kind, _, name = key.partition(":")
        if kind == "forgotten":
            _forget(both, name, _decoded(key, text, Forgotten))

    return both


def _forget(rows: Rows, export_id: str, forgotten: Forgotten) -> None:
    """Remove an export and its deliveries, as far as they were known."""
    key = f"export:{export_id}"

    if key in rows:
        if _decoded(key, rows[key], ExportRow).revision > forgotten.revision:
            return
        del rows[key]

    for key, text in list(rows.items()):
        if key.startswith("delivery:"):
            row = _decoded(key, text, DeliveryRow)
            if row.export_id == export_id and (
                row.finished_at is None or row.finished_at <= forgotten.at
            ):
                del rows[key]


def _merged_order(one: Rows, other: Rows) -> _Order:
    """
    Return the numbers of two copies of a group.

    Each copy counts by itself: a write that the other one does not know may be later
    than whatever only the other one has, and so it outdates that.
    """
    mine, others = _order_of(one), _order_of(other)
    sequence = max(mine.sequence, others.sequence)
    written = max(mine.written, others.written)

    if mine.write == others.write:
        return _Order(sequence, written, mine.write)

    numbered, others_numbered = _numbered(one), _numbered(other)
    outdated = {
        *(others_numbered - numbered if mine.written else ()),
        *(numbered - others_numbered if others.written else ()),
    }
    written = max(written, *(number + 1 for _, number in outdated), 0)
    names = sorted(filter(None, (mine.write, others.write)))

    if len(names) > 1:
        names = [sha256("\n".join(names).encode()).hexdigest()[:16]]

    return _Order(max(sequence, written), written, names[0])


def _order_of(rows: Rows) -> _Order:
    text = rows.get(_ORDER)

    return _Order() if text is None else _decoded(_ORDER, text, _Order)


def _numbered(rows: Rows) -> set[tuple[str, int]]:
    """Return the exports that have a place in the order, with their numbers."""
    exports = (
        _decoded(key, text, ExportRow)
        for key, text in rows.items()
        if key.startswith("export:")
    )

    return {(each.id, each.sequence) for each in exports if each.sequence}


def shifted(rows: Rows, seconds: float) -> dict[str, str]:
    """Return rows whose leases end so much later: as another clock counts."""
    return {key: _shifted(text, seconds) for key, text in rows.items()}


def _shifted(text: str, seconds: float) -> str:
    if '"lease"' not in text:
        return text

    document: dict[str, Any] = json.loads(text)
    lease: dict[str, float] | None = document["row"].get("lease")

    if lease is None:
        return text

    # Rounded, so that a row that goes to the other clock and back stays as it was.
    lease["until"] = round(lease["until"] + seconds, 2)

    return json.dumps(document)


def _replace(
    rows: Rows, new: Mapping[str, object], as_read: Mapping[str, object]
) -> None:
    # Only what differs is written.
    for key in rows.keys() - new.keys():
        del rows[key]

    for key, row in new.items():
        if as_read.get(key) is not row:
            text = rows.get(key)
            changes = _changes(text)
            if text != _encoded(row, changes):
                rows[key] = _encoded(row, changes + 1)


def _encoded(row: object, changes: int = 0) -> str:
    return json.dumps(
        {"v": _VERSION, "n": changes, "row": _converter().unstructure(row)}
    )


def _changes(text: str | None) -> int:
    return 0 if text is None else int(json.loads(text)["n"])


def _decoded(key: str, text: str, model: type[T]) -> T:
    try:
        return cast("T", _read(text, cast("Hashable", model)))
    except Exception as error:
        # It may be of an export that was spent: to go on would spend it again.
        raise _unreadable(key, shorten(str(error)) or type(error).__name__) from error


# Most rows of a group are the same as the last time: 400 callers of one export take
# 2 s with it, and 40 s without.
@lru_cache(maxsize=1024)
def _read(text: str, model: Hashable) -> object:
    document = json.loads(text)

    if document["v"] != _VERSION:
        raise ValueError(f"version {document['v']!r}")

    return _converter().structure(document["row"], cast("type[object]", model))


def _unreadable(key: str, reason: str) -> JobStoreUnavailableError:
    return JobStoreUnavailableError(
        f"the job store has a row {key!r} that this release cannot read ({reason}); "
        f"use the release that wrote it, or another store: nothing was sent"
    )


def _is_too_old(row: ExportRow, at: datetime) -> bool:
    if row.state is ExportState.QUEUED:
        # One whose steps are still made stays in the queue.
        return at - (row.updated_at or row.began_at) >= _QUEUED_LIFE

    return at - row.began_at >= FILE_LIFE


@cache
def _converter() -> Converter:
    from cattrs import Converter  # noqa: PLC0415 - slow to import

    converter = Converter(omit_if_default=True)
    converter.register_structure_hook(datetime, lambda text, _: _time(text))
    converter.register_unstructure_hook(datetime, datetime.isoformat)
    converter.register_structure_hook(
        Wanted, lambda value, _: value if isinstance(value, bool) else tuple(value)
    )
    converter.register_structure_hook(Region, lambda name, _: Region[name])
    converter.register_unstructure_hook(Region, lambda region: region.name)

    return converter


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)

    if time.tzinfo is None:
        raise ValueError("no time zone")

    return time
