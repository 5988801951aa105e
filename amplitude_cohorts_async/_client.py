"""The client, with one method for each operation; `_operations` does the work."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

import aiohttp

from ._config import SECRETS, ClientConfig, agreed_limits, from_environment
from ._core.secret import hidden
from ._id_source import IdSource
from ._io.async_only import AsyncOnly, async_context
from ._store_urls import job_store_of_url, limiter_of_url
from .errors import ConfigurationError
from .limits import DOCUMENTED, Limits
from .models import (
    Cohort,
    ExportOutcome,
    ExportPlan,
    IdType,
    JobRecord,
    MembershipOperation,
    MembershipReport,
    Region,
    Routes,
    SavedExport,
    SyncReport,
    Tick,
    UploadReport,
    Usage,
)
from .policies import Downloading, Polling, Retrying

# Importing this module costs little beside aiohttp; `_operations`, which imports the
# rest of the library, costs half as much again. So it is imported where it is first
# used: in a thread, when a client is entered.
if TYPE_CHECKING:
    from ._core.job_rows import OnUnknown
    from ._exports.job import ExportJob
    from ._exports.many import ExportBatch
    from ._io.context import Clock
    from ._io.jobs.base import JobStore
    from ._io.limits.base import Limiter
    from ._io.sinks.destination import Destination
    from ._operations import Operations
    from ._writes.writer import OnSkipped
    from .events import BytesReceived, EventHook

T = TypeVar("T")


def is_open(client: CohortsClient) -> bool:
    """Whether a client has connections to close."""
    # Not there if the constructor refused an argument.
    built: Operations | None = getattr(client, "_built", None)

    return built is not None and built.session.transport.is_open


class CohortsClient(AsyncOnly):
    """
    Client of Amplitude's Behavioral Cohorts API for one project.

    An async context manager. All clients of a project in a process share one
    limiter, so their number does not matter.

    Source of limits and rules:
    https://amplitude.com/docs/apis/analytics/behavioral-cohorts
    """

    _usage = "async with CohortsClient(...) as client:"

    def __init__(
        self,
        api_key: str,
        secret_key: str,
        *,
        region: Region | str = Region.US,
        base_url: str | None = None,
        allow_http: bool = False,
        app_id: int | None = None,
        owner: str | None = None,
        limits: Limits | None = None,
        limiter: Limiter | None = None,
        jobs: JobStore | str | os.PathLike[str] | None = None,
        allowances: Mapping[str, int] | None = None,
        routes: Routes = Routes.VENDOR,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        file_mode: int | None = None,
        hook: EventHook | None = None,
        clock: Clock | None = None,
        polling: Polling = Polling(),  # noqa: B008 - a frozen value
        retrying: Retrying = Retrying(),  # noqa: B008 - a frozen value
        downloading: Downloading = Downloading(),  # noqa: B008 - a frozen value
        timeout: float = 30.0,
        stall_timeout: float = 30.0,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """
        Check all arguments, without connecting.

        Args:
            region: Where the project's data is stored: "us" or "eu".
            base_url: Server to use instead of the region's.
            allow_http: Whether the keys may be sent unencrypted to another machine.
            app_id: The project's number, for uploads.
            owner: The login email of a cohort's owner, for uploads.
            limits: See `limits`. None takes those that *limiter* states, or else
                the documented ones.
            limiter: Keeps the limits; None takes the one that all clients of the
                project in this process share.
            jobs: Keeps what was spent: a path (SQLite, which outlives the process), a
                URL, or a `jobs.JobStore`. None takes the limiter's own, or the one in
                memory that all clients of the project in this process share.
            allowances: The exports a month that each named part of your system may
                spend; calls select one with ``allowance``.
            routes: The description of the API that the server follows.
            session: Sends the requests, for TLS settings or tracing; the client
                does not close it. Its connector is also used for the object
                store; its headers, cookies and middlewares are not.
            proxy: URL of a proxy for both Amplitude and its object store; or "env" for
                those of HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, without one for the
                hosts of NO_PROXY, as these variables are now.
            file_mode: Permission bits of new files, as in 0o640; None leaves them
                to the umask. A file that is replaced keeps its own.
            hook: Called with each event; see `events`.
            clock: The source of time, for tests.
            polling: When a job is polled.
            retrying: How often and how long a request is retried.
            downloading: How a file is downloaded.
            timeout: Seconds that one HTTP request may take; four times as many
                for the list of cohorts and for writes, whose bodies are long.
            stall_timeout: Seconds that a download may receive nothing.
            rng: Returns numbers from 0 to 1, for tests.

        Raises:
            ConfigurationError: An argument cannot work; the message says why, and
                what to change.
        """
        # The locals of this frame are seen by who shows a traceback with them.
        api_key, secret_key = hidden(api_key), hidden(secret_key)
        base_url, proxy, jobs = hidden(base_url), hidden(proxy), hidden(jobs)
        self._config = _without_frames(
            ClientConfig,
            api_key=api_key,
            secret_key=secret_key,
            region=region,
            base_url=base_url,
            allow_http=allow_http,
            app_id=app_id,
            owner=owner,
            limits=agreed_limits(limits, limiter),
            limiter=limiter,
            jobs=jobs,
            allowances=dict(allowances or {}),
            routes=routes,
            session=session,
            proxy=proxy,
            file_mode=file_mode,
            hook=hook,
            clock=clock,
            polling=polling,
            retrying=retrying,
            downloading=downloading,
            timeout=timeout,
            stall_timeout=stall_timeout,
            rng=rng,
        )
        self._check_store_url()
        self._own_limiter: Limiter | None = None
        self._built: Operations | None = None
        self._is_closed = False

    @classmethod
    def from_env(cls, **overrides: object) -> Self:
        """
        Return a client that is configured by environment variables.

        Reads AMPLITUDE_API_KEY, AMPLITUDE_SECRET_KEY, AMPLITUDE_REGION,
        AMPLITUDE_BASE_URL, AMPLITUDE_APP_ID, AMPLITUDE_OWNER, AMPLITUDE_JOBS for a
        file or URL of the job store, and AMPLITUDE_LIMITER_URL for limits that processes
        share: those of a machine by a file, as in sqlite:////var/lib/cohorts/limits.db
        (four slashes before an absolute path), those of a fleet by a Redis, a
        Valkey or a Postgres, as in redis://host:6379 or postgresql://host/name.

        Args:
            overrides: Keywords of the constructor, and ``limiter_url``, which excludes
                ``limiter``; they precede the variables.
        """
        # Both may hold keys and passwords; see the constructor.
        overrides = {
            name: hidden(value) if name in SECRETS else value
            for name, value in overrides.items()
        }
        limiter_url = overrides.pop("limiter_url", None)
        url = limiter_url or hidden(os.environ.get("AMPLITUDE_LIMITER_URL"))
        keywords: dict[str, object] = {"api_key": "", "secret_key": ""}
        keywords |= from_environment(os.environ)
        keywords |= overrides
        own: Limiter | None = None

        if limiter_url and keywords.get("limiter") is not None:
            raise ConfigurationError("limiter= and limiter_url= exclude each other")

        if not isinstance(url, str | None):
            raise ConfigurationError(
                f"limiter_url is a {type(url).__name__}; pass a URL as a text"
            )

        if url and keywords.get("limiter") is None:
            # The limiter states the limits then; stating them twice is refused.
            limits = keywords.pop("limits", None)
            own = keywords["limiter"] = _without_frames(
                limiter_of_url,
                url,
                limits if isinstance(limits, Limits) else DOCUMENTED,
            )

        client = cls(**keywords)  # type: ignore[arg-type]
        client._own_limiter = own

        return client

    def __repr__(self) -> str:
        # Asked before there is a configuration, too: by a debugger, or a traceback.
        config: ClientConfig | None = vars(self).get("_config")

        return f"<CohortsClient of {config.origin if config else 'nothing yet'}>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a CohortsClient holds keys and connections, so it is neither pickled nor "
            "copied; create one in each process, as by CohortsClient.from_env()"
        )

    def __del__(
        self,
        _warn: Callable[..., None] = warnings.warn,
        _is_open: Callable[[CohortsClient], bool] = is_open,
    ) -> None:
        if _is_open(self):
            _warn(
                f"{self!r} was never closed: write `{self._usage}`, or await "
                f"`client.aclose()`",
                ResourceWarning,
                source=self,
            )

    async def __aenter__(self) -> Self:
        if f"{__package__}._operations" not in sys.modules:
            # Not anyio's threads: their first use imports anyio's backend on the
            # loop. A cancelled caller need not wait for the end of the imports.
            await asyncio.to_thread(lambda: _load_operations().prepare())

        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Stop all `export_many()`, and close the connections.

        Calling it twice does no harm.
        """
        self._is_closed = True

        if self._built is not None:
            await self._built.aclose()

        if self._own_limiter is not None:
            await self._own_limiter.aclose()

    async def list_cohorts(self, *, include_sync_info: bool = False) -> list[Cohort]:
        """
        Return all discoverable cohorts.

        Args:
            include_sync_info: Whether to fill `Cohort.syncs`.
        """
        return await self._operations.list_cohorts(include_sync_info=include_sync_info)

    async def get_cohort(self, cohort_id: str | Cohort) -> Cohort:
        """
        Return one cohort of the list; spends no export.

        Raises:
            NotFoundError: No discoverable cohort has this id.
        """
        return await self._operations.get_cohort(cohort_id)

    async def get_usage(self) -> Usage:
        """Return how many of this month's exports are spent."""
        return await self._operations.get_usage()

    async def request_export(
        self,
        cohort_id: str | Cohort,
        *,
        properties: bool | Sequence[str] = False,
        join: bool = False,
        reuse_within: float = 3600.0,
        on_unknown: OnUnknown = "raise",
        allowance: str | None = None,
    ) -> ExportJob:
        """
        Request the export of a cohort; spends one export of the monthly quota.

        Args:
            properties: False for ids only, True for all user properties, or the
                names of some. If requests keep timing out, leave them out: False
                asks for the least, fewer names for less.
            join: Whether to go on with an export that answers the call, as `export()`
                does, and spend none then.
            reuse_within: As for `export()`; only with *join*.
            on_unknown: As for `export()`; only with *join*.
            allowance: Which of the client's ``allowances`` the export counts
                against.

        Raises:
            MonthlyQuotaError: The monthly quota is exhausted; no export was spent.
            TransportError: Its ``may_have_happened`` says whether the export may
                have been spent.
            UnexpectedResponseError: The answer cannot be read; the export was
                probably spent.
        """
        return await self._operations.request_export(
            cohort_id,
            properties=properties,
            join=join,
            reuse_within=reuse_within,
            on_unknown=on_unknown,
            allowance=allowance,
        )

    def resume_export(self, request_id_or_token: str) -> ExportJob:
        """
        Return the job of an export that was requested before, in any process.

        Nothing is sent and no export is spent.

        Args:
            request_id_or_token: `ExportJob.token`, an error's ``token``, or the
                bare request id.
        """
        return self._operations.resume_export(request_id_or_token)

    async def export(
        self,
        cohort_id: str | Cohort,
        to: str | os.PathLike[str] | Destination,
        *,
        properties: bool | Sequence[str] = False,
        timeout: float = 1800.0,
        format: str | None = None,  # noqa: A002 - a public name
        if_changed_since: SavedExport | str | None = None,
        skip_unchanged: bool = False,
        reuse_within: float = 3600.0,
        occurrence: str | None = None,
        on_unknown: OnUnknown = "raise",
        manifest: bool = False,
        allowance: str | None = None,
        progress: Callable[[BytesReceived], None] | bool | None = None,
    ) -> SavedExport:
        """
        Export a cohort to a file; spends one export.

        After a cancellation, a time-out, an error or, with a durable job store, a
        killed process the same call goes on with the same export and spends none. So
        does any call for the same cohort and properties while that export is running
        or was delivered to nobody, unless the cohort was edited in Amplitude or
        written to by us since. `SavedExport.requested_at` says how old it is.

        Every error after the request has a ``token``, and a cancellation has it in a
        note: `resume_export()` goes on with it in any process.

        Args:
            to: See `ExportJob.download()`; checked before an export is spent.
            timeout: Seconds to wait for the job; the download has no time limit.
            skip_unchanged: Whether to spend none if, according to the list, the
                cohort did not change since it was last saved at this target.
            reuse_within: Seconds: how old an export may be that the call goes on
                with. 0 requests a new one.
            occurrence: A key of yours for one time of a repeated export, such as its
                date: for seven days the same key is the same export.
            on_unknown: What to do if an export may have been spent, and nobody knows
                its id: "raise", or "spend" another one.
            if_changed_since: An earlier export, or its token. If the cohort was
                neither computed nor changed since, that one is returned again as
                `SavedExport.unchanged`, and no export is spent.
            manifest: As for `ExportJob.download()`. An unchanged file keeps the one
                that it has.
            allowance: As for `request_export()`.
            progress: As for `ExportJob.download()`.

        Raises:
            AmbiguousExportError: An export may have been spent; nothing was sent.
            JobStoreUnavailableError: The store cannot be written; nothing was sent.
        """
        operations = self._operations

        name = f"cohort {_id_of(cohort_id)}"
        callback, bar = operations.callback_or_bar(progress, name)

        async with operations.displayed(bar):
            return await operations.export(
                cohort_id,
                to,
                properties=properties,
                timeout=timeout,
                format=format,
                if_changed_since=if_changed_since,
                skip_unchanged=skip_unchanged,
                reuse_within=reuse_within,
                occurrence=occurrence,
                on_unknown=on_unknown,
                manifest=manifest,
                allowance=allowance,
                progress=callback,
            )

    def export_many(
        self,
        cohort_ids: Iterable[str | Cohort],
        directory: str | os.PathLike[str],
        *,
        properties: bool | Sequence[str] = False,
        timeout: float = 1800.0,
        format: str = "csv",  # noqa: A002 - a public name
        max_concurrency: int = 8,
        skip_unchanged: bool = False,
        reuse_within: float = 3600.0,
        on_unknown: OnUnknown = "raise",
        allowance: str | None = None,
        progress: bool = False,
    ) -> ExportBatch:
        """
        Return an async iterator that exports many cohorts into a directory.

        Each cohort has its own `ExportOutcome`, with its file or its error; one
        failure does not stop the others. The same call goes on after an interruption:
        running exports are continued, saved ones are not exported again. If the
        client's job store does not outlive the process, one in a hidden file of the
        directory does.

        Args:
            directory: The folder for files such as ``<cohort id>.csv``.
            timeout: Seconds that each job may take.
            format: The suffix of the files, as in "csv.gz".
            max_concurrency: Exports that may run at the same time.
            skip_unchanged: Whether to skip cohorts that, according to the list,
                did not change since their file was saved here.
            reuse_within: As for `export()`; 0 also begins a new run.
            on_unknown: As for `export()`.
            allowance: As for `request_export()`.
            progress: Whether to draw a progress bar; see `ExportJob.download()`.
        """
        return self._operations.export_many(
            cohort_ids,
            directory,
            properties=properties,
            timeout=timeout,
            format=format,
            max_concurrency=max_concurrency,
            skip_unchanged=skip_unchanged,
            reuse_within=reuse_within,
            on_unknown=on_unknown,
            allowance=allowance,
            progress=progress,
        )

    async def jobs(self, *, open_only: bool = False) -> list[JobRecord]:
        """
        Return this app's exports of the last seven days in the job store.

        Args:
            open_only: Whether to leave out what is delivered, put aside or over.
        """
        return await self._operations.list_jobs(open_only=open_only)

    async def park_job(self, record: JobRecord) -> JobRecord:
        """
        Put a spent export aside, and return it.

        No call and no runner takes it up; ``resume_export(record.token)`` does.

        Raises:
            InvalidInputError: It is not spent, or not in the store.
        """
        return await self._operations.jobs.park(record)

    async def forget_job(self, record: JobRecord) -> None:
        """
        Remove an export from the job store.

        For one whose fate is unknown, and that was looked up: the next call requests
        it again.

        Raises:
            InvalidInputError: By the record it is queued, and it may be spent by now.
        """
        await self._operations.jobs.forget(record)

    async def tick(self, record: JobRecord) -> Tick:
        """
        Make the next step of an export, for an engine that sleeps in between.

        A step claims the export, requests it, polls it once, or brings its file. It
        sends at most one request, or downloads, and waits for nothing: what the limits
        would make it wait is in `Tick.due_in`, and its place in their order is kept.
        The record only names the export: a step reads the job store, and whoever else
        makes the same step, or an old one again, spends nothing.

        Args:
            record: `JobRecord.new()` for the first step, then that of the last tick.

        Raises:
            AmbiguousExportError: It may have been spent, and its id is not known.
            ConfigurationError: The client was given no job store, and its own one is
                forgotten with the process, where other processes may make steps.
            ExportError: It has no file, and never will.
            StorageError: The file could not be written.
            InvalidInputError: The record is of no export, or its target cannot be
                written.
            CohortsError: Any other error that no later step can mend.
        """
        return await self._operations.tick(record)

    def run_jobs(
        self, *, forever: bool = False, progress: bool = False
    ) -> AsyncIterator[ExportOutcome]:
        """
        Return an async iterator that delivers what was left to files of this host.

        Whoever was cancelled or killed left it: each export that is spent comes to the
        file it was meant for. None is spent. Several processes share the work.

        Args:
            forever: Whether to wait for more, as a service does. What an outage, or
                a folder that is away, has stopped is told, and tried again every five
                minutes; without it, what failed is left to the next call.
            progress: As for `export_many()`.
        """
        return self._operations.run_jobs(forever=forever, progress=progress)

    async def plan(
        self,
        cohort_ids: Iterable[str | Cohort],
        *,
        properties: bool | Sequence[str] = False,
        since: Iterable[SavedExport] = (),
        job_seconds: float = 45.0,
    ) -> ExportPlan:
        """
        Return what exporting some cohorts would take; spends no export.

        Sends one request for the list and one for the usage.

        Args:
            since: Earlier exports; cohorts that did not change since are skipped.
            job_seconds: Seconds that a job takes, which the vendor does not say; others
                have seen 30 to 60, for cohorts of any size.
        """
        return await self._operations.plan(
            cohort_ids, properties=properties, since=since, job_seconds=job_seconds
        )

    async def upload_cohort(
        self,
        name: str,
        ids: IdSource,
        *,
        id_type: IdType,
        app_id: int | None = None,
        owner: str | None = None,
        published: bool = True,
        group: str | None = None,
        replace: str | Cohort | None = None,
        skip_invalid_ids: bool = True,
        validate_only: bool = False,
        max_removed: float = 0.5,
        journal: str | os.PathLike[str] | None = None,
        on_skipped: OnSkipped | None = None,
        progress: bool = False,
    ) -> UploadReport:
        """
        Create a cohort of these ids, or replace the members of one.

        Takes up to two million ids: the first 100,000 create or replace the
        cohort, the rest are added to it. A cohort that is replaced has only the
        first 100,000 members until the rest are added.

        Args:
            ids: An iterable or async iterable, or the path of a file with one id
                a line. Repeated ids are sent once.
            app_id: The project's number; None takes the client's.
            owner: The login email of the owner; None takes the client's.
            published: Whether others can discover the cohort. One that cannot be
                discovered is not found again when an answer is lost.
            group: The kind of group that the ids name, as in "company"; None for
                users.
            replace: The id of the cohort to replace; None creates one.
            skip_invalid_ids: Whether to leave out ids that the service does not
                know; False fails the request instead.
            validate_only: Whether only to check which ids match.
            max_removed: The share of the members that *replace* may remove, 0 to
                1. The number of ids is compared with the size in the list, which
                takes one more request; 1.0 sends none.
            journal: A file that records each batch. If it exists, the upload goes
                on from there.
            on_skipped: Called with the ids that a request skipped; may be async. Of
                those in the first 100,000 ids the service names only a sample.
            progress: Whether to draw a progress bar; see `ExportJob.download()`.

        Raises:
            InvalidInputError: An id is invalid, or there are none, or more than
                two million.
            InvalidIdsError: The service does not know some ids, and
                *skip_invalid_ids* is False.
            RemovalGuardError: *replace* would remove more than *max_removed*, or
                the list does not show how many members there are.
            AmbiguousUploadError: The answer to the creating request was lost, and
                the list does not show which cohort it created, if any.
            PartialWriteError: Some batches were written, then one failed.
        """
        options = self._operations.upload_options(
            name=name,
            id_type=id_type,
            app_id=self._config.app_id if app_id is None else app_id,
            owner=self._config.owner if owner is None else owner,
            published=published,
            group=group,
            replace=replace,
            skip_invalid_ids=skip_invalid_ids,
            validate_only=validate_only,
            routes=self._config.routes,
        )
        bar = self._operations.progress_bar(progress, f"upload of {name}")

        async with self._operations.displayed(bar):
            return await self._operations.upload_cohort(
                options,
                ids,
                max_removed=max_removed,
                journal=journal,
                on_skipped=on_skipped,
            )

    async def update_membership(
        self,
        cohort_id: str | Cohort,
        *,
        add: IdSource = (),
        remove: IdSource = (),
        id_type: IdType = IdType.USER_ID,
        operations: Iterable[MembershipOperation] | None = None,
        count_group: str = "User",
        skip_invalid_ids: bool = True,
        journal: str | os.PathLike[str] | None = None,
        on_skipped: OnSkipped | None = None,
        progress: bool = False,
    ) -> MembershipReport:
        """
        Add up to two million ids to a cohort, and remove any number of others.

        All of it is one request, and so one step, while it fits into 100,000 ids.
        More is sent in several: in order, adds before removes. Arguments that are
        not listed are those of `upload_cohort()`; here *on_skipped* hears of every
        id that a request skipped.

        Args:
            operations: Instead of *add*, *remove* and *id_type*: any number of
                operations, each with a type of id of its own, sent in this order.
            count_group: What the cohort counts: "User", or the kind of group that
                the ids name. Must be the cohort's own. In a cohort of groups,
                `IdType.USER_ID` is a group's name and `IdType.AMPLITUDE_ID` its id.
            skip_invalid_ids: Whether to leave out ids that the service does not
                know. False fails the request that has some: all of the update, if
                it is one request; otherwise what was sent before stays.

        Raises:
            InvalidInputError: An id is invalid, or is both added and removed, or
                more than two million are added.
            PartialWriteError: Some batches were written, then one failed.
        """
        options = self._operations.membership_options(
            id_type=id_type,
            count_group=count_group,
            skip_invalid_ids=skip_invalid_ids,
            routes=self._config.routes,
        )
        bar = self._operations.progress_bar(progress, f"cohort {_id_of(cohort_id)}")

        async with self._operations.displayed(bar):
            return await self._operations.update_membership(
                cohort_id,
                options,
                add=add,
                remove=remove,
                operations=operations,
                journal=journal,
                on_skipped=on_skipped,
            )

    async def sync_membership(
        self,
        cohort_id: str | Cohort,
        ids: IdSource,
        *,
        id_type: IdType = IdType.USER_ID,
        current: IdSource | None = None,
        dry_run: bool = False,
        max_removed: float = 0.5,
        count_group: str = "User",
        on_disk: str | os.PathLike[str] | None = None,
        reuse_within: float = 3600.0,
        on_unknown: OnUnknown = "raise",
        journal: str | os.PathLike[str] | None = None,
        on_skipped: OnSkipped | None = None,
        progress: bool = False,
    ) -> SyncReport:
        """
        Make a cohort's members equal to *ids*, with as few changes as possible.

        Spends one export to read the members, unless *current* is given. Holds both
        sets in memory, an id and about 60 bytes each, unless *on_disk* is given.

        Args:
            current: The present members: ids, or a file that an export wrote; None
                exports the cohort.
            dry_run: Whether only to report what would be changed.
            max_removed: The share of the members that may be removed, 0 to 1.
            on_disk: A folder to compare in; the files ``entering.txt``,
                ``exiting.txt`` and ``existing.txt`` stay there.
            reuse_within: As for `export()`: a sync that failed before it wrote
                anything goes on with the same export.
            on_unknown: As for `export()`.
            journal: As for `upload_cohort()`; needs *current*.
            progress: As for `upload_cohort()`.

        Raises:
            RemovalGuardError: More than *max_removed* would be removed.
            PartialWriteError: Some batches were written, then one failed. Like
                every error after the export, it has the export's ``token``.
        """
        options = self._operations.membership_options(
            id_type=id_type, count_group=count_group, routes=self._config.routes
        )
        bar = self._operations.progress_bar(progress, f"cohort {_id_of(cohort_id)}")

        async with self._operations.displayed(bar):
            return await self._operations.sync_membership(
                cohort_id,
                options,
                ids,
                current=current,
                dry_run=dry_run,
                max_removed=max_removed,
                on_disk=on_disk,
                reuse_within=reuse_within,
                on_unknown=on_unknown,
                journal=journal,
                on_skipped=on_skipped,
            )

    @async_context("async with client.slot():")
    async def slot(self) -> AsyncGenerator[None]:
        """
        Hold one of the five slots, for a request of your own.

        The Dashboard REST API shares the slots.
        """
        async with self._operations.session.limiter.slot("other"):
            yield

    def _check_store_url(self) -> None:
        """Tell a wrong URL at once; the store is made with the other parts."""
        if isinstance(self._config.jobs, str):
            _without_frames(job_store_of_url, self._config.jobs)

    @property
    def _operations(self) -> Operations:
        if self._is_closed:
            raise ConfigurationError("this client is closed; create another one")

        if self._built is None:
            self._built = _load_operations()(self._config)

        if _is_running():
            self._built.session.transport.check_loop()

        return self._built


def renewed(client: CohortsClient) -> CohortsClient:
    """Return a client with the configuration of another one, for another loop."""
    other = client.__class__.__new__(client.__class__)
    vars(other).update(vars(client), _built=None)

    return other


def _id_of(cohort: str | Cohort) -> str:
    return cohort.id if isinstance(cohort, Cohort) else cohort


def _is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False

    return True


def _without_frames(
    make: Callable[..., T], *arguments: object, **keywords: object
) -> T:
    """Return what *make* returns; an error keeps no frame of it."""
    try:
        return make(*arguments, **keywords)
    except ConfigurationError as error:
        # The frames of the checks hold parts of URLs, which may be passwords; so does
        # what was raised before it.
        error.__context__ = None
        failed = error.with_traceback(None)

    raise failed


def _load_operations() -> type[Operations]:
    from ._operations import Operations  # noqa: PLC0415 - see the head

    return Operations


async def export_cohort(
    cohort_id: str | Cohort,
    to: str | os.PathLike[str] | Destination,
    *,
    properties: bool | Sequence[str] = False,
    timeout: float = 1800.0,
    format: str | None = None,  # noqa: A002 - a public name
    progress: Callable[[BytesReceived], None] | bool | None = None,
) -> SavedExport:
    """
    Export a cohort to a file, with the keys in the environment.

    See `CohortsClient.export()` and `CohortsClient.from_env()`.
    """
    async with CohortsClient.from_env() as client:
        return await client.export(
            cohort_id,
            to,
            properties=properties,
            timeout=timeout,
            format=format,
            progress=progress,
        )
