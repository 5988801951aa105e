"""What the operators have in common: the steps of an export, and waits that defer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import attrs

from ... import CohortsClient
from ...destinations import ObjectDestination
from ...errors import (
    AmbiguousExportError,
    AmbiguousUploadError,
    CohortsError,
    ConfigurationError,
    ExportError,
    InvalidInputError,
    JobStoreUnavailableError,
    MissingExtraError,
    PartialWriteError,
    QuotaWaitError,
    RateLimitedError,
)
from ...jobs import LONGEST_OCCURRENCE, JobRecord
from ...models import SavedExport
from ._sdk import (
    AirflowFailException,
    BaseOperator,
    Context,
    TaskDeferralTimeout,
    conf,
)
from .hook import AmplitudeCohortsHook
from .triggers import FILE_LIFE, CohortExportTrigger

__all__ = ("CohortsOperator", "failed", "ids_from", "occurrence_of")

T = TypeVar("T")

_TOKEN = "amplitude_cohorts_export"  # noqa: S105 - no secret, and the name of a key

_LONGEST_WAIT = 5.0
"""Seconds that a write waits for the limits before its task is deferred."""

_NOT_MENDED = (
    AmbiguousExportError,
    AmbiguousUploadError,
    ConfigurationError,
    ExportError,
    InvalidInputError,
    MissingExtraError,
)
"""What another try of the same task would end with as well."""


def ids_from(ids: str | Sequence[str]) -> Path | Sequence[str]:
    """Return ids, or the path that a text is."""
    return Path(ids) if isinstance(ids, str) else ids


def occurrence_of(context: Context) -> str:
    """
    Return what names the export of a task: its dag, run, task and map index.

    So a retry and a task that was cleared find it. It is ``dag/run/task[3]``, or the
    SHA-256 of that if it is too long for an occurrence.
    """
    task = context["ti"]
    # Only the id of a run may contain a slash, and only that a bracket.
    name = f"{task.dag_id}/{task.run_id}/{task.task_id}"
    if task.map_index is not None and task.map_index >= 0:
        name += f"[{task.map_index}]"

    # The ids of Airflow may have 250 characters each.
    if len(name) > LONGEST_OCCURRENCE:
        return sha256(name.encode()).hexdigest()
    return name


class CohortsOperator(BaseOperator):
    """What exports, uploads and syncs have in common."""

    conn_id: str

    def go_on(self, context: Context) -> dict[str, object]:
        """Do what is left, and defer where that has to wait; return the result."""
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, object]:
        """Begin."""
        return self.go_on(context)

    def resume(self, context: Context, event: object = None) -> dict[str, object]:
        """Go on after a wait: what was done before is found again."""
        if isinstance(event, Mapping) and event.get("error"):
            self.log.info("while it waited: %s", event["error"])

        return self.go_on(context)

    def resume_execution(
        self,
        next_method: str,
        next_kwargs: dict[str, object] | None,
        context: Context,
    ) -> object:
        """Go on after a wait, and tell what a timeout means."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout as error:
            raise TaskDeferralTimeout(
                "the job of the export still runs; the next try goes on with it"
            ) from error

    def wait(
        self,
        seconds: float,
        *,
        token: str | None = None,
        timeout: float | None = None,
    ) -> NoReturn:
        """Defer, so that no worker is held meanwhile."""
        seconds = max(seconds, _shortest_wait())
        due_at = datetime.now(UTC) + timedelta(seconds=seconds)
        trigger = CohortExportTrigger(
            conn_id=self.conn_id, due_at=due_at.isoformat(), token=token
        )
        limit = None if timeout is None else timedelta(seconds=seconds + timeout)

        self.defer(trigger=trigger, method_name="resume", timeout=limit)

    def record(
        self,
        cohort_id: str,
        path: str | Path,
        occurrence: str,
        on_unknown: Literal["raise", "spend"],
        *,
        properties: bool | Sequence[str] = False,
        format: str | None = None,  # noqa: A002 - as everywhere
    ) -> JobRecord:
        """Return the record of an export; a mistake fails the task at once."""
        is_address = "://" in str(path)
        if not is_address and not Path(path).is_absolute():
            raise AirflowFailException(
                f"{path} is not absolute, and each worker has a folder of its own"
            )

        try:
            return JobRecord.new(
                cohort_id,
                path,
                properties=properties,
                format=format,
                occurrence=occurrence,
                on_unknown=on_unknown,
            )
        except InvalidInputError as error:
            raise failed(error) from error

    def export_file(
        self,
        context: Context,
        record: JobRecord,
        timeout: float,
        *,
        may_overwrite: bool = False,
    ) -> dict[str, object]:
        """
        Return what is known of an export's file once it is there; defer until then.

        Args:
            timeout: Seconds to wait for the job.
            may_overwrite: Whether a file at the target may be replaced, since it can only
                be of this export.
        """
        store = context["task_state_store"]
        token = _token_of(store.get(_TOKEN), record)

        while True:
            try:
                client = AmplitudeCohortsHook(self.conn_id).client(needs_job_store=True)
                step = asyncio.run(self._steps(client, record, token, may_overwrite))
            except _NOT_MENDED as error:
                raise failed(error) from error

            if step.token is not None and step.token != token:
                store.set(
                    _TOKEN,
                    {"token": step.token, "key": record.key},
                    retention=FILE_LIFE,
                )
                token = step.token
            if step.saved is not None:
                return step.saved
            if step.due_in > 0:
                self.wait(step.due_in, token=token, timeout=timeout if token else None)

    def write(self, call: Callable[[CohortsClient], Awaitable[T]]) -> T:
        """
        Return what a write returns; defer where the limits let it wait for long.

        It has a journal, with which the task goes on after the wait.
        """
        try:
            client = AmplitudeCohortsHook(self.conn_id).client(
                longest_wait=_LONGEST_WAIT
            )
            return asyncio.run(_call_and_close(client, call))
        except _NOT_MENDED as error:
            raise failed(error) from error
        except CohortsError as error:
            seconds = _refused_for(error)
            if seconds is not None:
                self.wait(seconds)
            raise

    async def _steps(
        self,
        client: CohortsClient,
        record: JobRecord,
        token: str | None,
        may_overwrite: bool,
    ) -> _StepResult:
        """Make steps until one is not due yet, or has something to be kept."""
        async with client:
            try:
                if token is not None and not await _is_in_job_store(
                    client, record, token
                ):
                    if not may_overwrite:
                        await _check_free(record)
                    return await _step_by_token(client, record, token)
            except JobStoreUnavailableError as error:
                self.log.warning("it goes on later: %s", error)
                return _StepResult(token, due_in=1.0)

            while True:
                tick = await client.tick(record)
                if tick.last_error is not None:
                    self.log.warning("it goes on later: %s", tick.last_error)
                if tick.saved is not None:
                    return _StepResult(
                        tick.saved.token, saved=await _result_of(tick.saved)
                    )
                if tick.due_in or tick.record.token != token:
                    return _StepResult(tick.record.token, due_in=tick.due_in or 0.0)

                record = tick.record


def _shortest_wait() -> float:
    """
    Return for how many seconds a task is deferred at least.

    Airflow (3.3) sees that a process has ended at its next heartbeat. If the deferred
    task runs again by then, that end is taken for its own, and the task for lost.
    """
    interval: int = conf.getint("workers", "min_heartbeat_interval", fallback=5)
    return 2.0 * interval


def failed(error: CohortsError) -> AirflowFailException:
    """Return the error that Airflow tries no task again after."""
    return AirflowFailException(f"{type(error).__name__}: {error}")


@attrs.frozen
class _StepResult:
    """
    What is known of an export after a step.

    Attributes:
        token: The export's, once it is spent.
        due_in: Seconds until the next step, if there is one.
        saved: The result of the task, once its file is there.
    """

    token: str | None
    due_in: float = 0.0
    saved: dict[str, object] | None = None


def _refused_for(error: CohortsError) -> float | None:
    """Return for how long the limits or the service refuse a write, if they do."""
    reason = error.__cause__ if isinstance(error, PartialWriteError) else error

    if isinstance(reason, QuotaWaitError):
        return reason.seconds
    if isinstance(reason, RateLimitedError):
        # The limiter knows of it by then, and for how long.
        return reason.retry_after or _LONGEST_WAIT

    return None


async def _call_and_close(
    client: CohortsClient, call: Callable[[CohortsClient], Awaitable[T]]
) -> T:
    async with client:
        return await call(client)


def _token_of(kept: object, record: JobRecord) -> str | None:
    """Return the token that was kept, if it is of the same export and target."""
    if not isinstance(kept, Mapping) or kept.get("key") != record.key:
        return None

    token = kept.get("token")
    return token if isinstance(token, str) else None


async def _is_in_job_store(
    client: CohortsClient, record: JobRecord, token: str
) -> bool:
    """
    Whether the job store still has an export; a step would spend another one.

    A store that knows it by its token alone does not have its occurrence.
    """
    return any(
        (each.token, each.occurrence) == (token, record.occurrence)
        for each in await client.jobs()
    )


async def _check_free(record: JobRecord) -> None:
    """Raise if there is a file at the target, which may be newer than the export's."""
    if isinstance(record.to, str):
        is_taken = await ObjectDestination.at(record.to).tag() is not None
    else:
        is_taken = record.to is not None and await asyncio.to_thread(record.to.exists)

    if is_taken:
        raise AirflowFailException(
            f"{record.to} exists and may be newer than this task's export, which the job "
            f"store does not have: move the file and clear the task, or give the task "
            f"another path or occurrence, which spends a new export"
        )


async def _step_by_token(
    client: CohortsClient, record: JobRecord, token: str
) -> _StepResult:
    """Make a step of an export that is only in Airflow's own state."""
    job = client.resume_export(token)

    if not (await job.poll()).done:
        return _StepResult(token, due_in=1.0)

    saved = await job.download(str(record.to), format=record.format)
    return _StepResult(token, saved=await _result_of(saved))


async def _result_of(saved: SavedExport) -> dict[str, object]:
    requested_at = saved.requested_at

    return {
        "path": saved.location or str(saved.path),
        "size": saved.size,
        "sha256": await saved.digest(),
        "rows": await asyncio.to_thread(lambda: saved.rows),
        "token": saved.token,
        "requested_at": None if requested_at is None else requested_at.isoformat(),
    }
