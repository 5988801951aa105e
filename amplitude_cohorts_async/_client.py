"""The client: one method for each thing the service can do."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import aiohttp

from ._config import ClientConfig, agreed_limits, from_environment, make_settings
from .errors import ConfigurationError
from .limits import DOCUMENTED, Limits
from .models import (
    Cohort,
    ExportPlan,
    IdType,
    MembershipReport,
    Region,
    Routes,
    SavedExport,
    SyncReport,
    UploadReport,
    Usage,
)
from .policies import Downloading, Polling, Retrying

# What the signatures name is little beside aiohttp; what does the work is half as
# much again. `_operations` imports all of it, and is imported where it is first
# used: in a thread, when a client is entered.
if TYPE_CHECKING:
    from ._exports.job import ExportJob
    from ._exports.many import ExportBatch
    from ._io.context import Clock
    from ._io.limits.base import Limiter
    from ._operations import Operations
    from ._writes.id_stream import IdSource
    from ._writes.writer import OnSkipped
    from .events import BytesReceived, EventHook


class CohortsClient:
    """
    Amplitude's Behavioral Cohorts API for one project.

    An async context manager. All clients of a project in a process share one
    limiter, so make as many as you like.
    """

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
        Check everything and connect to nothing.

        Args:
            region: Where the project's data lives; "us" or "eu".

            base_url: Asked instead of the region's own host.

            allow_http: Let the keys go over plain http to another machine.

            app_id: The project's number, for uploads.

            owner: The login email of a cohort's owner, for uploads.

            limits: What the project may do; see `limits`. None takes what the
                service documents, or the limits that *limiter* states.

            limiter: Keeps them; None takes this process's own for the project.

            allowances: How many exports a month each named part of your system
                may spend; calls name theirs with ``allowance``.

            routes: Which description of the service its server follows.

            session: Carries the requests, for TLS settings or tracing; never
                closed by us. Its connector serves the store as well; its
                headers, cookies and middlewares do not.

            proxy: URL of a proxy for both Amplitude and its store.

            file_mode: Permission bits of new files, as in 0o640; None for what
                the umask leaves. A file that is replaced keeps its own.

            hook: Told of events as they happen; see `events`.

            clock: The time, for tests.

            polling: How a job is watched.

            retrying: How often a request is tried, and for how long.

            downloading: How a file is brought.

            timeout: Seconds that one HTTP request may take; four times as many
                for the list of cohorts and for writes, whose bodies are long.

            stall_timeout: Seconds in which a file must bring a byte.

            rng: Returns numbers from 0 to 1, for tests.

        Raises:
            ConfigurationError: The client cannot work like this; the message says
                why, and what to change.
        """
        self._config = ClientConfig(
            settings=make_settings(
                api_key,
                secret_key,
                region=region,
                base_url=base_url,
                allow_http=allow_http,
                app_id=app_id,
                owner=owner,
            ),
            limits=agreed_limits(limits, limiter),
            limiter=limiter,
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
        self._own_limiter: Limiter | None = None
        self._built: Operations | None = None
        self._is_closed = False

    @classmethod
    def from_env(cls, **overrides: object) -> Self:
        """
        Build a client from the environment.

        Reads AMPLITUDE_API_KEY, AMPLITUDE_SECRET_KEY, AMPLITUDE_REGION,
        AMPLITUDE_BASE_URL, AMPLITUDE_APP_ID and AMPLITUDE_OWNER, and
        AMPLITUDE_LIMITER_URL for a Redis or Valkey that a fleet shares.

        Args:
            overrides: Keywords of the constructor; they win.
        """
        url = os.environ.get("AMPLITUDE_LIMITER_URL")
        keywords: dict[str, object] = {"api_key": "", "secret_key": ""}
        keywords |= from_environment(os.environ)
        keywords |= overrides
        own: Limiter | None = None

        if url and keywords.get("limiter") is None:
            # Its limits are the limiter's then, and stated once.
            limits = keywords.pop("limits", None)
            own = keywords["limiter"] = _limiter_of_url(url, limits)

        client = cls(**keywords)  # type: ignore[arg-type]
        client._own_limiter = own

        return client

    def __repr__(self) -> str:
        return f"<CohortsClient of {self._config.settings.origin}>"

    async def __aenter__(self) -> Self:
        if f"{__package__}._operations" not in sys.modules:
            # Not anyio's way: the first use of that imports its backend, on the
            # loop. A caller that is cancelled does not wait for the end of it.
            await asyncio.to_thread(_prepare)

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
        Stop what `export_many()` started, and close the connections.

        Calling it twice does no harm.
        """
        self._is_closed = True

        if self._built is not None:
            await self._built.aclose()

        if self._own_limiter is not None:
            await self._own_limiter.aclose()

    async def list_cohorts(self, *, include_sync_info: bool = False) -> list[Cohort]:
        """
        List all discoverable cohorts.

        Args:
            include_sync_info: Fill `Cohort.syncs`, too.
        """
        return await self._operations.list_cohorts(include_sync_info=include_sync_info)

    async def get_cohort(self, cohort_id: str) -> Cohort:
        """
        Look up one cohort in the list; spends no export.

        Raises:
            NotFoundError: No discoverable cohort has this id.
        """
        return await self._operations.get_cohort(cohort_id)

    async def get_usage(self) -> Usage:
        """Tell how many of this month's exports are spent."""
        return await self._operations.get_usage()

    async def request_export(
        self,
        cohort_id: str,
        *,
        properties: bool | Sequence[str] = False,
        allowance: str | None = None,
    ) -> ExportJob:
        """
        Request the export of a cohort. This spends one of the month's.

        Args:
            properties: False for ids only, True for all user properties, or
                the names of those wanted. All of them can be too much for the
                service: ask for fewer if the request keeps timing out.

            allowance: Which of the client's ``allowances`` the export counts
                against.

        Raises:
            MonthlyQuotaError: The month has no room for it; nothing was sent.

            TransportError: Its ``may_have_happened`` tells whether the export
                may have been spent all the same.

            UnexpectedResponseError: Nobody can read what was made; the export
                is probably spent.
        """
        return await self._operations.request_export(
            cohort_id,
            properties=properties,
            allowance=allowance,
        )

    def resume_export(self, request_id_or_token: str) -> ExportJob:
        """
        Take up an export that was requested before, here or elsewhere.

        Nothing is sent and no export is spent.

        Args:
            request_id_or_token: `ExportJob.token`, an error's ``token``, or
                the bare request id.
        """
        return self._operations.resume_export(request_id_or_token)

    async def export(
        self,
        cohort_id: str,
        to: str | os.PathLike[str],
        *,
        properties: bool | Sequence[str] = False,
        timeout: float = 1800.0,
        format: str | None = None,  # noqa: A002 - the word users know
        if_changed_since: SavedExport | str | None = None,
        allowance: str | None = None,
        progress: Callable[[BytesReceived], None] | None = None,
    ) -> SavedExport:
        """
        Request a cohort, wait for it and save it; spends one export.

        If the same export is running, or was left undelivered in the last half
        hour, anywhere the limiter reaches, this joins it and spends none.
        Whatever fails after the request raises an error with a ``token``:
        `resume_export()` goes on from it without a second export. A
        cancellation has the token in a note.

        Args:
            to: See `ExportJob.download()`; checked before anything is spent.

            timeout: Seconds to wait for the job; the download itself takes as
                long as it takes.

            if_changed_since: An earlier export, or its token. When the list
                says that the cohort was neither computed nor changed since,
                it is returned again as `SavedExport.unchanged`, and no export
                is spent.

            allowance: As for `request_export()`.
        """
        return await self._operations.export(
            cohort_id,
            to,
            properties=properties,
            timeout=timeout,
            format=format,
            if_changed_since=if_changed_since,
            allowance=allowance,
            progress=progress,
        )

    def export_many(
        self,
        cohort_ids: Iterable[str],
        directory: str | os.PathLike[str],
        *,
        properties: bool | Sequence[str] = False,
        timeout: float = 1800.0,
        format: str = "csv",  # noqa: A002 - the word users know
        max_concurrency: int = 8,
        skip_unchanged: bool = False,
        allowance: str | None = None,
    ) -> ExportBatch:
        """
        Export many cohorts into a directory, as the limits allow.

        One failure stops nobody: each cohort has an outcome of its own, with
        its file or its error. A run that dies is taken up by calling this
        again: what was requested goes on, what was saved is not exported
        twice. The directory keeps a record of that, in a hidden file.

        Args:
            directory: Where ``<cohort id>.csv`` and so on go.

            timeout: Seconds that each job may take.

            format: Of the files, by its suffix, as in "csv.gz".

            max_concurrency: Exports that may be under way together.

            skip_unchanged: Ask the list first, once for all, and leave alone
                what did not change since its file was saved here.

            allowance: As for `request_export()`.

        Returns:
            An async iterator of `ExportOutcome`, in the order they end.
        """
        return self._operations.export_many(
            cohort_ids,
            directory,
            properties=properties,
            timeout=timeout,
            format=format,
            max_concurrency=max_concurrency,
            skip_unchanged=skip_unchanged,
            allowance=allowance,
        )

    async def plan(
        self,
        cohort_ids: Iterable[str],
        *,
        properties: bool | Sequence[str] = False,
        since: Iterable[SavedExport] = (),
        job_seconds: float = 45.0,
    ) -> ExportPlan:
        """
        Tell what exporting some cohorts would take; nothing is spent.

        Costs one call for the list and one for the usage.

        Args:
            since: Earlier exports; cohorts that did not change are skipped.

            job_seconds: How long a job takes; 30 to 60 seconds are common,
                whatever the size.
        """
        return await self._operations.plan(
            cohort_ids,
            properties=properties,
            since=since,
            job_seconds=job_seconds,
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
        replace: str | None = None,
        skip_invalid_ids: bool = True,
        validate_only: bool = False,
        max_removed: float = 0.5,
        journal: str | os.PathLike[str] | None = None,
        on_skipped: OnSkipped | None = None,
    ) -> UploadReport:
        """
        Make a cohort of these ids, or fill one with them.

        Any number up to two million: the first 100,000 make or fill the
        cohort, the rest are added to it. A cohort that is replaced holds only
        the first 100,000 until the rest has followed.

        Args:
            ids: Any iterable or async iterable, or the path of a file with
                one id a line. Repeated ids are sent once.

            app_id: The project's number; None takes the client's.

            owner: The login email of the owner; None takes the client's.

            published: Whether others can discover the cohort. One that nobody
                can discover is not found again when an answer is lost.

            group: The kind of group that the ids name, as in "company"; None
                for users.

            replace: The id of an existing cohort to refill; None makes a new one.

            skip_invalid_ids: True leaves out ids that the service does not know;
                False makes a request that has some fail.

            validate_only: Ask which ids match, and save nothing.

            max_removed: The share of the members that *replace* may remove. The
                number of ids is compared with the size in the list, which is one
                more request; 1.0 allows everything, and asks nothing.

            journal: A file that records each batch. If it exists, the upload goes
                on from there.

            on_skipped: Called with the ids that a request skipped; may be async.

        Raises:
            InvalidInputError: An id cannot be one, or there are no ids, or more
                than two million.

            InvalidIdsError: The service does not know some ids, and
                *skip_invalid_ids* is False.

            RemovalGuardError: *replace* would remove more than *max_removed*, or
                the list does not show how many members there are.

            AmbiguousUploadError: The answer to the creating request was lost,
                and the list does not tell which cohort it made, if any.

            PartialWriteError: Some batches were written, then one failed.
        """
        return await self._operations.upload_cohort(
            name,
            ids,
            id_type=id_type,
            app_id=app_id,
            owner=owner,
            published=published,
            group=group,
            replace=replace,
            skip_invalid_ids=skip_invalid_ids,
            validate_only=validate_only,
            max_removed=max_removed,
            journal=journal,
            on_skipped=on_skipped,
        )

    async def update_membership(
        self,
        cohort_id: str,
        *,
        add: IdSource = (),
        remove: IdSource = (),
        id_type: IdType = IdType.USER_ID,
        count_group: str = "User",
        skip_invalid_ids: bool = True,
        journal: str | os.PathLike[str] | None = None,
        on_skipped: OnSkipped | None = None,
    ) -> MembershipReport:
        """
        Add ids to a cohort and remove others from it, any number of each.

        Args:
            count_group: What the cohort counts: "User", or the name of a
                group; then ids are of groups.

            skip_invalid_ids: As for `upload_cohort()`, and so are the other
                arguments.

        Raises:
            InvalidInputError: An id cannot be one, or is both added and removed.

            PartialWriteError: Some batches were written, then one failed.
        """
        return await self._operations.update_membership(
            cohort_id,
            add=add,
            remove=remove,
            id_type=id_type,
            count_group=count_group,
            skip_invalid_ids=skip_invalid_ids,
            journal=journal,
            on_skipped=on_skipped,
        )

    async def sync_membership(
        self,
        cohort_id: str,
        ids: IdSource,
        *,
        id_type: IdType = IdType.USER_ID,
        current: IdSource | None = None,
        dry_run: bool = False,
        max_removed: float = 0.5,
        count_group: str = "User",
        on_disk: str | os.PathLike[str] | None = None,
        journal: str | os.PathLike[str] | None = None,
        on_skipped: OnSkipped | None = None,
    ) -> SyncReport:
        """
        Make a cohort's members equal to *ids*, with as few changes as possible.

        Spends one export to learn the members, unless *current* tells them.
        Both sets are held in memory, about 60 bytes an id and the id itself,
        unless *on_disk* names a folder.

        Args:
            current: The members it has now: ids, or a file that an export wrote;
                None exports the cohort.

            dry_run: Tell what would be done, and write nothing.

            max_removed: The share of the members that may be removed.

            on_disk: A folder to compare in; the files ``entering.txt``,
                ``exiting.txt`` and ``existing.txt`` stay there.

            journal: As for `upload_cohort()`; needs *current*.

        Raises:
            RemovalGuardError: More than *max_removed* would go.

            PartialWriteError: Some batches were written, then one failed.
                Like every error after the export it carries its ``token``.
        """
        return await self._operations.sync_membership(
            cohort_id,
            ids,
            id_type=id_type,
            current=current,
            dry_run=dry_run,
            max_removed=max_removed,
            count_group=count_group,
            on_disk=on_disk,
            journal=journal,
            on_skipped=on_skipped,
        )

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """
        Hold one of the five slots for a call of your own.

        For calls to the Dashboard REST API, which shares the slots.
        """
        async with self._operations.session.limiter.slot("other"):
            yield

    @property
    def _operations(self) -> Operations:
        if self._is_closed:
            raise ConfigurationError("this client is closed; make another one")

        if self._built is None:
            from ._operations import Operations  # noqa: PLC0415 - see the head

            self._built = Operations(self._config)

        return self._built


def _prepare() -> None:
    from . import _operations  # noqa: PLC0415 - see the head

    _operations.prepare()


def _limiter_of_url(url: str, limits: object) -> Limiter:
    from . import _operations  # noqa: PLC0415 - see the head

    return _operations.limiter_of_url(
        url, limits if isinstance(limits, Limits) else DOCUMENTED
    )


async def export_cohort(
    cohort_id: str,
    to: str | os.PathLike[str],
    *,
    properties: bool | Sequence[str] = False,
    timeout: float = 1800.0,
    format: str | None = None,  # noqa: A002 - the word users know
) -> SavedExport:
    """
    Export a cohort to a file, with keys from the environment.

    See `CohortsClient.export()` and `CohortsClient.from_env()`.
    """
    async with CohortsClient.from_env() as client:
        return await client.export(
            cohort_id, to, properties=properties, timeout=timeout, format=format
        )
