"""
The fake vendor as a state machine: cohorts, jobs, links, quotas, and what
uploads and updates do to a cohort.

Nothing here waits, and nothing knows of HTTP. Not locked: its callers are.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import attrs

from .clock import Clock
from .cohorts import MANUAL, CohortRecord, ListedMembers, Members
from .faults import STEPS, Fault, FaultQueue
from .files import Columns
from .messages import IdKind, Operation, Refused, Update, Upload
from .object_store import JOB_SECONDS, Job, Link, LinkTable
from .options import KnownUsers, Options
from .quotas import RequestLog, RequestRecord, window_counters

__all__ = ("Service", "Uploaded", "results_json", "update", "upload")

_SAMPLE = 10


class Service:
    """The state behind the API."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.clock: Clock = options.clock
        self.log: RequestLog = RequestLog()
        self.cohorts: dict[str, CohortRecord] = {}
        self.jobs: dict[str, Job] = {}
        self.latest: dict[str, Job] = {}
        self.links: LinkTable = LinkTable(
            secret=f"{options.secret_key}/{options.seed}", seconds=options.link_seconds
        )
        self._writers: dict[CohortRecord, RequestRecord] = {}
        self.faults: dict[str, FaultQueue] = {step: FaultQueue() for step in STEPS}
        self._windows = window_counters(options.quotas)
        self._month = self._this_month()
        self._spent = options.quotas.used
        self._random = random.Random(options.seed)  # noqa: S311 - names, not secrets

    # -- Quotas ------------------------------------------------------------

    def admit(self) -> None:
        """Refuse a request beyond the number allowed at once."""
        limit = self.options.quotas.concurrent

        if limit is not None and self.log.in_flight > limit:
            raise Refused(
                429,
                "Too Many Requests: Exceeded concurrent limit with query of cost 1",
                rule="concurrency",
            )

    @property
    def spent(self) -> int:
        """The exports of this month."""
        if self._month != self._this_month():
            self._month, self._spent = self._this_month(), 0

        return self._spent

    def resets_at(self) -> datetime:
        """Return the first of next month."""
        year, month = self._this_month()
        years, month = divmod(month, 12)

        return datetime(year + years, month + 1, 1, tzinfo=UTC)

    def _admit_export(self, now: float) -> None:
        quotas = self.options.quotas
        # A list, because each counter has to be asked: asking moves it to now.
        answers = [counter.has_room(now) for counter in self._windows]
        has_room = all(answers)

        if has_room or quotas.refused_count:
            for counter in self._windows:
                counter.count_start(now)

        if not has_room:
            self._spent = self.spent + quotas.refused_spend
            raise Refused(
                429,
                "Too Many Requests: Exceeded rate limit with query of cost 1",
                rule="window",
            )

        if quotas.month is not None and self.spent >= quotas.month:
            raise Refused(
                self.options.assumptions.spent_month_status,
                f"Exceeded monthly limit of {quotas.month} cohort downloads",
                rule="month",
            )

    def _this_month(self) -> tuple[int, int]:
        today = self.clock.utcnow()

        return today.year, today.month

    # -- Exports -----------------------------------------------------------

    def find(self, cohort_id: str) -> CohortRecord:
        """Return a cohort."""
        if cohort := self.cohorts.get(cohort_id):
            return cohort

        raise Refused(404, f"Cohort not found: {cohort_id}")

    def request_export(
        self, cohort_id: str, keys: Sequence[str] | None, record: RequestRecord
    ) -> Job:
        """
        Start a job, and spend one of the month's exports.

        Args:
            keys: Properties to show; None for all of them.
            record: The request; windows count its arrival.
        """
        self._admit_export(record.at)
        cohort = self.find(cohort_id)

        if not cohort.published:
            raise Refused(404, f"Cohort is not discoverable: {cohort_id}")

        seconds = cohort.job_seconds
        seconds = self.options.job_seconds if seconds is None else seconds
        now = self.clock.now()
        job = Job(
            request_id=self.new_id(string.ascii_letters + string.digits, 6),
            cohort_id=cohort_id,
            app_id=cohort.app_id,
            members=_frozen(cohort.members),
            columns=self.columns(cohort, keys),
            requested_at=now,
            ready_at=now + seconds,
        )
        self._spent = self.spent + 1
        self.jobs[job.request_id] = self.latest[cohort_id] = job

        return job

    def find_job(self, request_id: str) -> Job:
        """Return a job that is known by now and not too old."""
        job = self.jobs.get(request_id)
        assumed = self.options.assumptions
        age = self.clock.now() - job.requested_at if job else 0.0

        if job is None or age < assumed.known_after:
            raise Refused(404, f"Request not found: {request_id}")

        if age > JOB_SECONDS:
            status = assumed.expired_job_status
            raise Refused(status, f"Request has expired: {request_id}")

        return job

    def check_ready(self, job: Job) -> None:
        """Refuse the file of a job that has none."""
        if job.outcome == "failed":
            raise Refused(404, f"Request failed, it has no file: {job.request_id}")

        now, assumed = self.clock.now(), self.options.assumptions

        if now < job.ready_at + assumed.file_delay:
            # Who was told that the job is done may ask.
            rule = "early file" if now < job.ready_at else ""
            raise Refused(
                assumed.early_file_status,
                f"File is not ready: {job.request_id}",
                rule=rule,
            )

    def is_sent_inline(self, job: Job, fault: Fault) -> bool:
        """
        Whether a file is sent by the API itself, not by the store.

        A fault that needs the store gets it, however small the cohort.
        """
        needs_store = fault.expired or bool(self.faults["store"])

        return not needs_store and len(job.members) < self.options.inline_below

    def issue_link(self, job: Job, *, expired: bool) -> Link:
        """Issue a link to the file of a job."""
        return self.links.issue(
            job, now=self.clock.now(), utcnow=self.clock.utcnow(), expired=expired
        )

    def columns(self, cohort: CohortRecord, keys: Sequence[str] | None) -> Columns:
        """Return the columns of a cohort's file."""
        header = self.options.assumptions.group_header

        return Columns(
            group_header=header if cohort.group else None,
            properties=tuple(cohort.properties if keys is None else keys),
        )

    # -- Cohorts -----------------------------------------------------------

    def add_cohort(
        self, cohort: CohortRecord, *, writer: RequestRecord | None = None
    ) -> None:
        """
        Add a cohort, or put it in the place of another.

        Args:
            writer: The request that makes it, if one does.
        """
        self.cohorts[cohort.id] = cohort

        if writer:
            self._writers[cohort] = writer

    def new_id(self, letters: str, length: int) -> str:
        """Return an id that is free."""
        while True:
            name = "".join(self._random.choices(letters, k=length))

            if name not in self.cohorts and name not in self.jobs:
                return name

    def open_for_writing(self, cohort_id: str, record: RequestRecord) -> CohortRecord:
        """
        Return a cohort to write to; refuse two writes at once.

        A write that arrived before the last one was answered ran beside it.
        """
        cohort = self.find(cohort_id)
        last = self._writers.get(cohort)

        if last and (last.ended is None or last.end_order > record.order):
            raise Refused(
                429,
                f"Too Many Requests: concurrent access to cohort {cohort_id}",
                rule="concurrent write",
            )

        if self.options.assumptions.manual_only and cohort.type != MANUAL:
            raise Refused(400, f"Cohort was not uploaded: {cohort_id}")

        self._writers[cohort] = record

        return cohort


def _frozen(members: Members) -> Members:
    return members.copy() if isinstance(members, ListedMembers) else members


@attrs.frozen(kw_only=True)
class Uploaded:
    """
    The result of an upload.

    Attributes:
        cohort: None when nothing was to be saved.
    """

    cohort: CohortRecord | None
    matched: int
    total: int
    invalid_sample: Sequence[str]


def upload(service: Service, body: Upload, record: RequestRecord) -> Uploaded:
    """Create a cohort from an upload, or replace the members of an existing one."""
    valid, invalid = _split_known(body.ids, service.options.known_users)
    sample = invalid[:_SAMPLE]
    _check_app(service, body)
    _check_upload(body, valid, sample)
    target = _target(service, body, record)

    if body.skip_save:
        return Uploaded(
            cohort=None, matched=len(valid), total=len(body.ids), invalid_sample=sample
        )

    members = ListedMembers()
    _apply(members, "ADD", body.id_kind, valid)
    _check_size(service, members)
    cohort = target or _create(service, body, record)
    _save(service, cohort, members)

    return Uploaded(
        cohort=cohort, matched=len(valid), total=len(body.ids), invalid_sample=sample
    )


def update(
    service: Service, body: Update, record: RequestRecord
) -> list[tuple[Operation, list[str]]]:
    """
    Add and remove members, in the order of the entries.

    Returns:
        Each entry, and its unknown ids.
    """
    cohort = service.open_for_writing(body.cohort_id, record)

    if body.group != cohort.group:
        group = cohort.group or "User"
        raise Refused(400, f"count_group must be {group}", rule="body")

    checked = [
        (entry, *_split_known(entry.ids, service.options.known_users))
        for entry in body.operations
    ]
    results = [(entry, invalid) for entry, _, invalid in checked]

    if not body.skip_invalid and any(invalid for _, invalid in results):
        raise _invalid_ids(body, results)

    members = _editable(cohort, service.options.quotas.members - _added(body))

    for entry, valid, _ in checked:
        _apply(members, entry.operation, entry.id_kind, valid)

    _check_size(service, members)
    _save(service, cohort, members)

    return results


def results_json(
    results: Sequence[tuple[Operation, list[str]]],
) -> list[dict[str, object]]:
    """Return the documented `memberships_result`."""
    return [
        {
            "skipped_ids": skipped,
            "id_type": entry.id_type,
            "operation": entry.operation,
        }
        for entry, skipped in results
    ]


def _split_known(ids: Sequence[str], known: KnownUsers) -> tuple[list[str], list[str]]:
    knows: Callable[[str], bool] = known if callable(known) else known.__contains__
    valid = [name for name in ids if knows(name)]

    if len(valid) == len(ids):
        return valid, []

    return valid, [name for name in ids if not knows(name)]


def _check_app(service: Service, body: Upload) -> None:
    app_id = service.options.app_id

    if body.app_id is not None and body.app_id != app_id:
        raise Refused(
            400, f"app_id {body.app_id} is not the project of this key, {app_id}"
        )


def _check_upload(body: Upload, valid: Sequence[str], sample: Sequence[str]) -> None:
    metadata = {
        "matched": len(valid),
        "totals": len(body.ids),
        "invalid_ids_sample": sample,
    }

    if not valid:
        raise Refused(400, "No valid ids", metadata=metadata)

    if sample and not body.skip_invalid:
        raise Refused(400, "Invalid ids", metadata=metadata)


def _target(
    service: Service, body: Upload, record: RequestRecord
) -> CohortRecord | None:
    if body.replaces is None:
        return None

    cohort = service.open_for_writing(body.replaces, record)

    if body.group != cohort.group:
        raise Refused(400, f"cg must be {cohort.group or 'User'}", rule="body")

    return cohort


def _create(service: Service, body: Upload, record: RequestRecord) -> CohortRecord:
    now = service.clock.utcnow()
    cohort = CohortRecord(
        id=service.new_id(string.digits + string.ascii_lowercase, 8),
        name=body.name,
        app_id=service.options.app_id,
        members=ListedMembers(),
        group=body.group,
        type=MANUAL,
        owners=(body.owner,) if body.owner else (),
        published=body.published,
        created_at=now,
        modified_at=now,
        computed_at=now,
    )
    service.add_cohort(cohort, writer=record)

    return cohort


def _added(body: Update) -> int:
    return sum(len(entry.ids) for entry in body.operations if entry.operation == "ADD")


def _editable(cohort: CohortRecord, limit: int) -> ListedMembers:
    """Return members that may be changed: a copy, if that may have to be undone."""
    members = cohort.members

    if not isinstance(members, ListedMembers):
        return ListedMembers(members.rows())

    return members if len(members) <= limit else members.copy()


def _apply(
    members: ListedMembers, operation: str, id_kind: IdKind, ids: Sequence[str]
) -> None:
    match operation, id_kind:
        case "ADD", "name":
            members.add_names(ids)
        case "ADD", _:
            members.add_ids(ids)
        case _, "name":
            members.remove_names(ids)
        case _:
            members.remove_ids(ids)


def _check_size(service: Service, members: ListedMembers) -> None:
    limit = service.options.quotas.members

    if len(members) > limit:
        raise Refused(400, f"{len(members)} members; a cohort has at most {limit}")


def _save(service: Service, cohort: CohortRecord, members: ListedMembers) -> None:
    cohort.members = members

    if service.options.assumptions.writes_move_times:
        cohort.modified_at = cohort.computed_at = service.clock.utcnow()


def _invalid_ids(
    body: Update, results: Sequence[tuple[Operation, list[str]]]
) -> Refused:
    return Refused(
        400,
        "Invalid ids",
        metadata={
            "cohort_id": body.cohort_id,
            "memberships_result": results_json(results),
        },
    )
