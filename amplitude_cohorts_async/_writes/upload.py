"""
Uploads ids: the first request creates or fills the cohort, the others add to it.

A creating request is sent once, so that there are never two cohorts. When its
answer is lost, the list shows whether the cohort exists.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TypeAlias

import attrs

from .._core.batching import MOST_MEMBERS, Batch
from .._core.id_sets import SeenIds
from .._core.journal import WriteProgress, attempt_line
from .._core.writes import (
    Entry,
    Upload,
    UploadAnswer,
    check_replacement,
    checked_share,
    find_created,
    upload_answer,
    upload_request,
)
from .._exports.app_jobs import AppJobs
from .._id_source import IdSource
from .._io.cancellation import finish_despite_cancel
from .._io.http.session import Session
from ..errors import (
    AmbiguousUploadError,
    CohortsError,
    InvalidInputError,
    LimiterUnavailableError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)
from ..models import Cohort, Routes, UploadReport
from .batches import Source, prescan, release
from .id_stream import buffered_head, check_resumable, ids_of
from .writer import Accepted, OnSkipped, Writer, open_writer

ListCohorts: TypeAlias = Callable[[], Awaitable[list[Cohort]]]

_LIST_DELAYS = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each request for the list: a new cohort may appear a little later."""

_REQUEST_LIFE = timedelta(minutes=15)
"""
The assumption that no request takes this long: a cohort that is not listed by then was
not created.
"""


async def upload_cohort(
    session: Session,
    jobs: AppJobs,
    spec: Upload,
    ids: IdSource,
    *,
    list_cohorts: ListCohorts,
    max_removed: float,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
) -> UploadReport:
    """Create a cohort of these ids, or fill one with them."""
    checked_share(max_removed)
    source_ids = ids_of(ids, amplitude=spec.takes_amplitude_ids)
    check_resumable(journal, source_ids)

    if spec.validate_only and journal is not None:
        raise InvalidInputError(
            "validating writes nothing that could be resumed; leave journal= out"
        )

    async with buffered_head(source_ids) as source_ids:
        seen = SeenIds(most=MOST_MEMBERS)
        source = await prescan(source_ids, seen)
        _check_source(spec, source)

        if source.prescan is not None:
            await release(seen)

        parameters = attrs.asdict(spec, filter=attrs.filters.exclude("routes"))
        parameters["id_type"] = spec.id_type.name

        async with open_writer(
            session, jobs, journal, "upload", parameters, on_skipped=on_skipped
        ) as writer:
            run = _UploadRun(
                spec, writer, session, writer.progress, list_cohorts, max_removed
            )
            report = await run.write(source)

        await release(seen)

    return report


@attrs.define
class _UploadRun:
    _spec: Upload
    _writer: Writer
    _session: Session
    _progress: WriteProgress
    _list_cohorts: ListCohorts
    _max_removed: float
    _totals: int | None = None
    _sample: list[str] = attrs.field(factory=list[str])

    async def write(self, source: Source) -> UploadReport:
        if self._must_be_validated(source):
            await self._validate(source)

        # A stream longer than one request brings at least its first batch.
        total = None if source.prescan is None else source.prescan.total

        with self._writer.partial_errors(self._report):
            async with aclosing(source.batches()) as batches:
                async for batch in batches:
                    if self._writer.is_written("upload", batch):
                        continue

                    if (cohort_id := self._progress.cohort_id) is None:
                        await self._write_first(batch, total or batch.count)
                    else:
                        await self._write_next(cohort_id, batch)

            await self._writer.finish()

        return self._report()

    def _must_be_validated(self, source: Source) -> bool:
        """Whether a refusal of a later request would leave a part of the cohort."""
        progress = self._progress

        return (
            not (self._spec.skip_invalid_ids or self._spec.validate_only)
            and source.prescan is not None
            and len(source.prescan.digests) > 1
            and progress.attempted_at is None
            and not progress.written
        )

    async def _validate(self, source: Source) -> None:
        """Raise `InvalidIdsError` if the service does not know all ids."""
        spec = attrs.evolve(self._spec, validate_only=True)

        async with aclosing(source.batches()) as batches:
            async for batch in batches:
                request = upload_request(spec, batch.pieces)
                upload_answer(spec, request, await self._session.send(request))

    async def _write_next(self, cohort_id: str, batch: Batch) -> None:
        entry = Entry(change="ADD", id_type=self._spec.id_type, batch=batch)
        await self._writer.write(
            cohort_id, self._spec.rest, [entry], operation="upload"
        )

    async def _write_first(self, batch: Batch, total: int) -> None:
        if self._spec.creates:
            answer = await self._create(batch)
        else:
            answer = await self._fill(batch, total)

        counts = answer.metadata
        self._totals = counts.totals
        self._sample += counts.invalid_ids_sample
        accepted = Accepted.of(
            "upload",
            batch,
            matched=counts.matched,
            skipped=list(counts.invalid_ids_sample),
        )
        await self._writer.record(answer.cohort_id, [accepted])

    async def _fill(self, batch: Batch, total: int) -> UploadAnswer:
        request = upload_request(self._spec, batch.pieces)

        if self._spec.replace is None or self._spec.validate_only:
            response = await self._session.send(request)
        else:
            await self._check_removals(self._spec.replace, total)
            response = await self._writer.send(self._spec.replace, request)

        return upload_answer(self._spec, request, response)

    async def _check_removals(self, cohort_id: str, total: int) -> None:
        if self._max_removed < 1:
            cohorts = await self._list_cohorts()
            cohort = next((item for item in cohorts if item.id == cohort_id), None)
            check_replacement(cohort_id, cohort, total, self._max_removed)

    async def _create(self, batch: Batch) -> UploadAnswer:
        lost_at = self._progress.attempted_at

        if lost_at is not None and (cohort := await self._find_after_crash(lost_at)):
            return self._adopt(cohort)

        request = upload_request(self._spec, batch.pieces)

        try:
            response = await self._session.send(request, before=self._record_attempt)
            return upload_answer(self._spec, request, response)
        except CohortsError as error:
            attempted_at = self._progress.attempted_at
            if attempted_at is not None and _may_have_happened(error):
                return self._adopt(await self._find(attempted_at, error))

            await self._record_refusal()
            raise

    async def _record_attempt(self) -> None:
        # While the slot is held, right before the bytes leave: a wait for a slot that
        # is cancelled leaves nothing in doubt.
        now = self._session.context.clock.utcnow()
        self._progress.attempted_at = now

        try:
            await self._writer.append(attempt_line(now))
        except asyncio.CancelledError:
            # It is recorded by now, and nothing will be sent.
            await finish_despite_cancel(self._record_refusal())
            raise

    async def _record_refusal(self) -> None:
        self._progress.attempted_at = None
        await self._writer.append(attempt_line(None))

    def _adopt(self, cohort: Cohort) -> UploadAnswer:
        self._progress.adopted = True

        return UploadAnswer(cohort_id=cohort.id)

    async def _find_after_crash(self, attempted_at: datetime) -> Cohort | None:
        age = self._session.context.clock.utcnow() - attempted_at

        try:
            return await self._find(attempted_at, None)
        except AmbiguousUploadError as error:
            if error.candidates or not self._spec.published or age < _REQUEST_LIFE:
                raise

            return None

    async def _find(self, attempted_at: datetime, cause: CohortsError | None) -> Cohort:
        doubt = _doubt(cause)

        if not self._spec.published:
            raise self._ambiguous(
                f"{doubt}, and a cohort with published=False is never listed", []
            ) from cause

        candidates: list[str] = []

        for seconds in _LIST_DELAYS:
            self._session.context.waits.tell(
                "the list of cohorts, to see whether the upload has made one",
                seconds,
            )
            await self._session.context.clock.sleep(seconds)

            try:
                cohorts = await self._list_cohorts()
            except CohortsError as error:
                cause = error
                continue

            certain, possible = find_created(
                cohorts, self._spec, attempted_at=attempted_at
            )
            candidates = [cohort.id for cohort in possible]

            if len(certain) == 1:
                return certain[0]

            if certain:
                break

        raise self._ambiguous(
            f"{doubt}, and the list shows {len(candidates)} cohorts of that name that "
            f"may be the one{': ' if candidates else ''}{', '.join(candidates)}",
            candidates,
        ) from cause

    def _ambiguous(self, reason: str, candidates: list[str]) -> AmbiguousUploadError:
        return AmbiguousUploadError(
            f"the answer to creating cohort {self._spec.name!r} {reason}; nothing was "
            f"sent again. Look for it in Amplitude: if it is there, upload with "
            f"replace= and its id and max_removed=1.0, otherwise upload again, without "
            f"the old journal if there was one",
            name=self._spec.name,
            candidates=candidates,
        )

    def _report(self) -> UploadReport:
        written = self._progress.written
        matched = [batch.matched for batch in written if batch.matched is not None]

        return UploadReport(
            cohort_id=self._progress.cohort_id,
            total=sum(batch.count for batch in written),
            matched=sum(matched) if len(matched) == len(written) else None,
            totals=self._totals,
            invalid_sample=self._sample,
            skipped_ids=self._writer.skipped.get(0, []),
            batches=len(written),
            adopted=self._progress.adopted,
            resumed=len(self._writer.earlier),
        )


def _check_source(spec: Upload, source: Source) -> None:
    if source.is_empty:
        raise InvalidInputError(
            "there are no ids, and Amplitude creates no empty cohorts; to empty an "
            "existing one use sync_membership(..., max_removed=1.0)"
        )

    several = source.prescan is None or len(source.prescan.digests) > 1

    if several and spec.routes is Routes.OPENAPI:
        raise InvalidInputError(
            "Routes.OPENAPI describes no membership endpoint, so at most 100,000 ids "
            "can be uploaded; use Routes.VENDOR"
        )


def _doubt(cause: CohortsError | None) -> str:
    if cause is None or isinstance(cause, TransportError | LimiterUnavailableError):
        return "was lost"

    # Without the advice at its end, which is for other requests.
    return f"leaves its result open ({str(cause).rpartition('; ')[0]})"


def _may_have_happened(error: CohortsError) -> bool:
    if isinstance(
        error, TransportError | UnexpectedResponseError | LimiterUnavailableError
    ):
        return error.may_have_happened

    return isinstance(error, ServerError)
