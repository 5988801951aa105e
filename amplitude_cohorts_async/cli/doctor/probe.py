"""What `doctor --probe` finds out about a service, in answers without ids and links."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

import attrs

from ... import CohortsClient, ExportJob
from ...errors import ApiError, CohortsError, NotFoundError
from ...models import Cohort
from ...types import Clock
from .probe_calls import Seen, Wire

__all__ = ("MOST_EXPORTS", "Probe", "ProbeTarget")

MOST_EXPORTS: Final = 2
"""What a probe spends at most."""

_UPLOAD = "/api/3/cohorts/upload"
_STATUS = "/api/5/cohorts/request-status/{}"
_FILE = "/api/5/cohorts/request/{}/file"

_LOOKS = 12
_JOB_SECONDS = 900.0
_UNTRIED = "not tried"
_NO_JOB = "amplitude-cohorts-probe"


@attrs.frozen(kw_only=True)
class ProbeTarget:
    """
    Where the probe's cohort is made.

    Attributes:
        ids: User ids that the project has; with two, a write is looked at, too.
    """

    app_id: int
    owner: str
    name: str
    ids: Sequence[str] = attrs.field(repr=False)

    @property
    def most_exports(self) -> int:
        """What the probe spends at most."""
        return MOST_EXPORTS if len(self.ids) > 1 else 1


@attrs.define
class Probe:
    """
    One probe of one service.

    Attributes:
        pause: Seconds between two looks.
        answers: By question, in the order in which they were found.
        spent: Exports.
    """

    client: CohortsClient
    wire: Wire
    target: ProbeTarget
    clock: Clock
    pause: float
    answers: dict[str, str] = attrs.field(factory=dict[str, str])
    spent: int = 0

    async def run(self) -> Mapping[str, str]:
        """Ask everything; an error ends it, and is an answer."""
        try:
            await self._run()
        except CohortsError as error:
            status = f" {error.status}" if isinstance(error, ApiError) else ""
            self.answers["ended early by"] = f"{type(error).__name__}{status}"

        return self.answers

    async def _run(self) -> None:
        await self._validation()
        cohort_id = await self._made_cohort()
        before = await self._listed(cohort_id)
        await self._unknown_job()
        job = await self._request(cohort_id)
        await self._followed(job)
        await self._delivered(job)
        await self._compare_times(cohort_id, before, "an export moves")

        if len(self.target.ids) > 1:
            await self._write(cohort_id, self.target.ids[1])

    # -- Uploads -----------------------------------------------------------

    async def _validation(self) -> None:
        seen = await self._upload(skip_save=True)
        cohort_id = seen.document.get("cohortId", _UNTRIED)
        named = {None: "null", _UNTRIED: "missing"}.get(
            cohort_id if isinstance(cohort_id, str | None) else "", "an id"
        )
        self._note("validation (skip_save) answers", f"{seen.status}: {seen.keys}")
        self._note("cohortId of a validation", named)

    async def _made_cohort(self) -> str:
        seen = await self._upload(skip_save=False)
        self._note("upload answers", f"{seen.status}: {seen.keys}")
        cohort_id = seen.document.get("cohortId")

        if not isinstance(cohort_id, str):
            raise NotFoundError("the upload names no cohort", status=seen.status)

        return cohort_id

    async def _upload(self, *, skip_save: bool) -> Seen:
        body = {
            "name": self.target.name,
            "app_id": self.target.app_id,
            "id_type": "BY_USER_ID",
            "ids": [self.target.ids[0]],
            "owner": self.target.owner,
            "published": True,
            **({"skip_save": True} if skip_save else {}),
        }

        async with self.client.slot():
            return await self.wire.post(_UPLOAD, body)

    async def _listed(self, cohort_id: str) -> Cohort | None:
        cohort: Cohort | None = None

        async def look() -> bool:
            """Whether the list has it."""
            nonlocal cohort
            with suppress(NotFoundError):
                cohort = await self.client.get_cohort(cohort_id)
            return cohort is not None

        self._note("a new cohort is in the list", await self._until(look))

        async def has_size() -> bool:
            """Whether the list has its size."""
            nonlocal cohort
            if cohort is None or cohort.size is None:
                await look()
            return cohort is not None and cohort.size is not None

        if cohort is not None:
            self._note("the list has its size", await self._until(has_size))

        return cohort

    # -- An export ---------------------------------------------------------

    async def _unknown_job(self) -> None:
        seen = await self._get(_STATUS.format(_NO_JOB))
        self._note("status of a job that nobody made", str(seen.status))

    async def _request(self, cohort_id: str) -> ExportJob:
        used = (await self.client.get_usage()).used
        job = await self._spend(cohort_id)
        seen = await self._get(_STATUS.format(job.request_id))
        self._note("status right after the request", self._status_text(seen))
        self._note("Content-Type of a status", seen.content_type)
        self._note("header names of a status", seen.header_names)
        early = await self._get(_FILE.format(job.request_id))
        self._note("file before the job is done", str(early.status))

        async def has_moved() -> bool:
            """Whether the usage counts the export."""
            return (await self.client.get_usage()).used > used

        self._note("the month's usage moves", await self._until(has_moved))

        return job

    async def _spend(self, cohort_id: str) -> ExportJob:
        if self.spent >= MOST_EXPORTS:
            raise AssertionError("a probe spends two exports at most")

        self.spent += 1

        return await self.client.request_export(cohort_id)

    async def _followed(self, job: ExportJob) -> None:
        started, words, seen = self.clock.now(), dict[str, None](), None

        while seen is None or seen.status != 200:  # noqa: PLR2004 - not done
            if self.clock.now() - started > _JOB_SECONDS:
                break
            if seen is not None:
                await self.clock.sleep(self.pause)
            seen = await self._get(_STATUS.format(job.request_id))
            words[self._status_text(seen)] = None
            if "fail" in seen.word.lower():
                break

        self._note("status of a job, in turn", ", then ".join(words))

    async def _delivered(self, job: ExportJob) -> None:
        seen = await self._get(_FILE.format(job.request_id))
        self._note("file right after the job is done", str(seen.status))

        async def is_there() -> bool:
            """Whether the file is there."""
            nonlocal seen
            if seen.status not in {200, 302}:
                seen = await self._get(_FILE.format(job.request_id))
            return seen.status in {200, 302}

        self._note("the file is there", await self._until(is_there))
        self._note("the file comes", "by a link" if seen.link else "inline")
        self._note("Content-Type of the file's answer", seen.content_type)
        self._note("header names of the file's answer", seen.header_names)

        if seen.link is not None:
            await self._linked(job, seen.link)

        # Read to its end, the export is no longer open in the record.
        await self._members(job)

    async def _linked(self, job: ExportJob, link: str) -> None:
        one = await self.wire.fetch(link)
        self._note("the store answers", f"{one.status} {one.content_type}")
        self._note("Content-Encoding of the object", one.encoding)
        self._note("header names of the object", one.header_names)
        again = await self._get(_FILE.format(job.request_id))

        if again.link is not None:
            other = await self.wire.fetch(again.link)
            has_tag = one.etag is not None
            same = "yes" if one.etag == other.etag else "no"
            self._note("a second link has the same ETag", same if has_tag else "none")

    async def _members(self, job: ExportJob) -> set[str | None]:
        async with job.members() as stream:
            return {member.user_id async for member in stream}

    # -- A write -----------------------------------------------------------

    async def _write(self, cohort_id: str, user_id: str) -> None:
        before = await self.client.get_cohort(cohort_id)
        # The list tells seconds.
        await self.clock.sleep(max(self.pause, 2.0))
        await self.client.update_membership(cohort_id, add=[user_id])
        await self._compare_times(cohort_id, before, "a write moves")
        members = await self._members(await self._spend(cohort_id))
        self._note(
            "an export right after a write has it",
            "yes" if user_id in members else "no",
        )

    async def _compare_times(
        self, cohort_id: str, before: Cohort | None, what: str
    ) -> None:
        if before is None:
            return

        now = await self.client.get_cohort(cohort_id)
        self._note(
            f"{what} lastComputed", _moved(before.last_computed, now.last_computed)
        )
        self._note(f"{what} lastMod", _moved(before.last_modified, now.last_modified))

    # -- Parts -------------------------------------------------------------

    async def _get(self, path: str) -> Seen:
        async with self.client.slot():
            return await self.wire.get(path)

    async def _until(self, is_so: Callable[[], Awaitable[bool]]) -> str:
        started = self.clock.now()

        for _ in range(_LOOKS):
            if await is_so():
                seconds = self.clock.now() - started
                return "at once" if seconds < self.pause else f"after {seconds:.0f} s"
            await self.clock.sleep(self.pause)

        return f"not within {self.clock.now() - started:.0f} s"

    @staticmethod
    def _status_text(seen: Seen) -> str:
        return f"{seen.status} {seen.word}"

    def _note(self, question: str, answer: str) -> None:
        self.answers[question] = answer


def _moved(before: datetime | None, after: datetime | None) -> str:
    return "no" if before == after else "yes"
