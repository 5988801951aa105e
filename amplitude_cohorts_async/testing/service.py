"""
The fake vendor as a state machine: cohorts, jobs, links, quotas.

Nothing here waits, and nothing knows of HTTP. Not locked: its callers are.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from datetime import UTC, datetime

from .answers import Refused
from .clock import Clock
from .cohorts import MANUAL, CohortRecord
from .csvfiles import Columns
from .faults import STEPS, Fault, FaultQueue
from .jobs import JOB_SECONDS, Job
from .ledger import Ledger, RequestRecord
from .links import Link, LinkBook
from .members import ListedMembers, Members
from .options import Options
from .quotas import counters

__all__ = ("Service",)


class Service:
    """
    What stands behind the API.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.clock: Clock = options.clock
        self.ledger: Ledger = Ledger()
        self.cohorts: dict[str, CohortRecord] = {}
        self.jobs: dict[str, Job] = {}
        self.latest: dict[str, Job] = {}
        self.links: LinkBook = LinkBook(
            secret=f"{options.secret_key}/{options.seed}", seconds=options.link_seconds
        )
        self.faults: dict[str, FaultQueue] = {step: FaultQueue() for step in STEPS}
        self._windows = counters(options.quotas)
        self._month = self._this_month()
        self._spent = options.quotas.used
        self._random = random.Random(options.seed)  # noqa: S311 - names, not secrets

    # -- Quotas ------------------------------------------------------------

    def admit(self) -> None:
        """
        Refuse a request beyond the number allowed at once.
        """
        limit = self.options.quotas.concurrent

        if limit is not None and self.ledger.in_flight > limit:
            raise Refused(
                429,
                "Too Many Requests: Exceeded concurrent limit with query of cost 1",
                rule="concurrency",
            )

    @property
    def spent(self) -> int:
        """
        Count the exports of this month.
        """
        if self._month != self._this_month():
            self._month, self._spent = self._this_month(), 0

        return self._spent

    def resets_at(self) -> datetime:
        """
        Return the first of next month.
        """
        year, month = self._this_month()
        years, month = divmod(month, 12)

        return datetime(year + years, month + 1, 1, tzinfo=UTC)

    def _admit_export(self, now: float) -> None:
        quotas = self.options.quotas
        rooms = [counter.room(now) for counter in self._windows]
        room = all(rooms)

        if room or quotas.refused_count:
            for counter in self._windows:
                counter.take(now)

        if not room:
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
        """
        Return a cohort.
        """
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
        """
        Return a job that is known and not too old.
        """
        job = self.jobs.get(request_id)

        if job is None:
            raise Refused(404, f"Request not found: {request_id}")

        if self.clock.now() - job.requested_at > JOB_SECONDS:
            status = self.options.assumptions.expired_job_status
            raise Refused(status, f"Request has expired: {request_id}")

        return job

    def check_ready(self, job: Job) -> None:
        """
        Refuse the file of a job that has none.
        """
        if job.fate == "failed":
            raise Refused(404, f"Request failed, it has no file: {job.request_id}")

        if self.clock.now() < job.ready_at:
            status = self.options.assumptions.early_file_status
            raise Refused(
                status, f"File is not ready: {job.request_id}", rule="early file"
            )

    def goes_inline(self, job: Job, fault: Fault) -> bool:
        """
        Tell whether a file is sent by the API itself.

        A fault that needs the store gets it, however small the cohort.
        """
        needs_store = fault.expired or bool(self.faults["store"])

        return not needs_store and len(job.members) < self.options.inline_below

    def issue_link(self, job: Job, *, expired: bool) -> Link:
        """
        Hand out a link to the file of a job.
        """
        return self.links.issue(
            job, now=self.clock.now(), utcnow=self.clock.utcnow(), expired=expired
        )

    def columns(self, cohort: CohortRecord, keys: Sequence[str] | None) -> Columns:
        """
        Return what a file of a cohort shows.
        """
        header = self.options.assumptions.group_header

        return Columns(
            group_header=header if cohort.group else None,
            properties=tuple(cohort.properties if keys is None else keys),
        )

    # -- Cohorts -----------------------------------------------------------

    def new_id(self, letters: str, length: int) -> str:
        """
        Return an id nobody has.
        """
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
        last = cohort.writer

        if last and (last.ended is None or last.end_order > record.order):
            raise Refused(
                429,
                f"Too Many Requests: concurrent access to cohort {cohort_id}",
                rule="concurrent write",
            )

        if self.options.assumptions.manual_only and cohort.type != MANUAL:
            raise Refused(400, f"Cohort was not uploaded: {cohort_id}")

        cohort.writer = record

        return cohort


def _frozen(members: Members) -> Members:
    return members.copy() if isinstance(members, ListedMembers) else members
