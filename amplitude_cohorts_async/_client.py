"""
The client: one method for each thing the service can do.
"""

from __future__ import annotations

import os
import random
from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import aiohttp

from ._core import requests
from ._core.ids import checked_id
from ._io.clock import SystemClock
from ._version import VERSION
from .errors import ConfigurationError, NotFoundError
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
from .protocols import Clock, EventHook, KeepsLimits, Limiter

# Imported here is what the signatures need, which is little beside aiohttp. The
# parts that do the work are half as much again: they are imported where they are
# used, and all of them, without keeping the loop, when a client is entered.
if TYPE_CHECKING:
    from ._core.writes import Membership
    from ._exports import Exports
    from ._io.session import Session
    from ._io.writes.ids import IdSource
    from ._io.writes.writing import OnSkipped
    from ._job import ExportJob
    from ._many import ExportBatch
    from .events import BytesReceived


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
        limits: Limits = DOCUMENTED,
        limiter: Limiter | None = None,
        allowances: Mapping[str, int] | None = None,
        routes: Routes = Routes.VENDOR,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        hook: EventHook | None = None,
        clock: Clock | None = None,
        polling: Polling = Polling(),  # noqa: B008 - a frozen value
        retrying: Retrying = Retrying(),  # noqa: B008 - a frozen value
        downloading: Downloading = Downloading(),  # noqa: B008 - a frozen value
        stall_timeout: float = 30.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """
        Check everything and connect to nothing.

        Args:
            region: Where the project's data lives; "us" or "eu".

            base_url: Asked instead of the region's own host.

            allow_http: Let the keys go over plain http to another machine.

            app_id: The project's number, for uploads.

            owner: The login email of a cohort's owner, for uploads.

            limits: What the project may do; see `limits`.

            limiter: Keeps them; None takes this process's own for the project.

            allowances: How many exports a month each named part of your system
                may spend; calls name theirs with ``allowance``.

            routes: Which description of the service its server follows.

            session: Carries the requests, for TLS settings or tracing; never
                closed by us. Its connector serves the store as well; its
                headers, cookies and middlewares do not.

            proxy: URL of a proxy for both Amplitude and its store.

            hook: Told of events as they happen; see `events`.

            clock: The time, for tests.

            polling: How a job is watched.

            retrying: How often a request is tried, and for how long.

            downloading: How a file is brought.

            stall_timeout: Seconds in which a file must bring a byte.

            chance: Returns numbers from 0 to 1, for tests.

        Raises:
            ConfigurationError: The client cannot work like this; the message says
                why, and what to change.
        """
        from ._config import checked_routes, checked_seconds, make_settings
        from ._core.redact import Redactor
        from ._io.wire.transport import Transport

        self._settings = make_settings(
            api_key,
            secret_key,
            region=region,
            base_url=base_url,
            allow_http=allow_http,
            app_id=app_id,
            owner=owner,
        )
        self._routes = checked_routes(routes)
        # Whoever keeps places for a request has to know how long it may take.
        self._limits = limiter.limits if isinstance(limiter, KeepsLimits) else limits
        self._limiter = limiter
        self._allowances = dict(allowances or {})
        self._clock = clock
        self._hook = hook
        self._polling = polling
        self._retrying = retrying
        self._chance = chance
        self._transport = Transport(
            origin=self._settings.origin,
            api_key=self._settings.api_key,
            secret_key=self._settings.secret_key,
            user_agent=f"amplitude-cohorts-async/{VERSION}",
            redactor=Redactor.of_keys(api_key, secret_key),
            session=session,
            proxy=proxy,
            answer_seconds=self._limits.deadline,
            stall_seconds=checked_seconds(stall_timeout, "stall_timeout"),
            connections=downloading.connections,
            fast=downloading.fast,
        )
        self._own_limiter: Limiter | None = None
        self._made: Session | None = None
        self._made_exports: Exports | None = None
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
        from ._config import from_environment

        keywords: dict[str, object] = {"api_key": "", "secret_key": ""}
        keywords |= from_environment(os.environ)
        url = os.environ.get("AMPLITUDE_LIMITER_URL")

        client = cls(**{**keywords, **overrides})  # type: ignore[arg-type]

        if url and client._limiter is None:
            from ._wiring import limiter_of_fleet

            client._own_limiter = limiter_of_fleet(url, client._limits)

        return client

    def __repr__(self) -> str:
        return f"<CohortsClient of {self._settings.origin}>"

    async def __aenter__(self) -> Self:
        from ._loading import prepare

        await prepare()

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
        Close the connections; calling it twice does no harm.
        """
        self._is_closed = True
        closing = self._transport if self._made is None else self._made
        await closing.aclose()

        if self._own_limiter is not None:
            await self._own_limiter.aclose()

    async def list_cohorts(self, *, include_sync_info: bool = False) -> list[Cohort]:
        """
        List all discoverable cohorts.

        Args:
            include_sync_info: Fill `Cohort.syncs`, too.
        """
        from ._core.responses import each_cohort
        from ._io.slices import collected

        request = requests.list_cohorts(include_sync_info=include_sync_info)
        response = await self._session.send(request)

        return await collected(each_cohort(request, response))

    async def get_cohort(self, cohort_id: str) -> Cohort:
        """
        Look up one cohort in the list; spends no export.

        Raises:
            NotFoundError: No discoverable cohort has this id.
        """
        checked_id(cohort_id, "cohort id")

        for cohort in await self.list_cohorts():
            if cohort.id == cohort_id:
                return cohort

        raise NotFoundError(
            f"no discoverable cohort has the id {cohort_id!r}; check the id, the "
            f"project and the region, and whether the cohort is published",
            status=404,
        )

    async def get_usage(self) -> Usage:
        """
        Tell how many of this month's exports are spent.
        """
        from ._core.responses import usage

        request = requests.usage(self._routes)
        response = await self._session.send(request)

        return usage(request, response)

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
        wanted = requests.checked_properties(properties)

        return await self._exports.request(cohort_id, wanted, allowance=allowance)

    def resume_export(self, request_id_or_token: str) -> ExportJob:
        """
        Take up an export that was requested before, here or elsewhere.

        Nothing is sent and no export is spent.

        Args:
            request_id_or_token: `ExportJob.token`, an error's ``token``, or
                the bare request id.
        """
        return self._exports.resume(request_id_or_token)

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

        If the same export is already running, anywhere the limiter reaches,
        this joins it and spends none. Whatever fails after the request
        raises an error with a ``token``: `resume_export()` goes on from it
        without a second export.

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
        import anyio.to_thread

        from ._job import checked_destination, checked_timeout

        checked_timeout(timeout)
        target = await anyio.to_thread.run_sync(checked_destination, to, format)
        wanted = requests.checked_properties(properties)
        exports = self._exports

        if if_changed_since is not None:
            listed = await exports.listed()
            saved = await exports.unchanged(
                if_changed_since,
                target,
                wanted,
                cohort=listed.get(cohort_id),
                progress=progress,
            )
            if saved is not None:
                return saved

        begun = await exports.begin(cohort_id, wanted, allowance=allowance)

        return await exports.finish(
            begun.job, target, timeout=timeout, progress=progress
        )

    def export_many(
        self,
        cohort_ids: Iterable[str],
        directory: str | os.PathLike[str],
        *,
        properties: bool | Sequence[str] = False,
        timeout: float = 1800.0,
        format: str = "csv",  # noqa: A002 - the word users know
        at_once: int = 8,
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

            format: "csv", "csv.gz" or "parquet".

            at_once: Exports that may be under way together.

            skip_unchanged: Ask the list first, once for all, and leave alone
                what did not change since its file was saved here.

            allowance: As for `request_export()`.

        Returns:
            An async iterator of `ExportOutcome`, in the order they end.
        """
        from ._io.disk.files import checked_format
        from ._job import checked_timeout
        from ._many import ExportBatch, ManyOptions

        options = ManyOptions(
            wanted=requests.checked_properties(properties),
            format=checked_format(format),
            timeout=checked_timeout(timeout),
            at_once=at_once,
            skip_unchanged=skip_unchanged,
            allowance=allowance,
        )

        return ExportBatch(self._exports, cohort_ids, Path(directory), options)

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
        from ._core.tokens import from_token
        from ._plan import Known, make_plan, starts_of

        wanted = requests.checked_properties(properties)
        ids = list(cohort_ids)
        known = Known(
            cohorts=await self._exports.listed(), usage=await self.get_usage()
        )
        starts = starts_of(len(ids), self._session.limiter, self._limits)
        earlier = {str(from_token(saved.token).cohort_id): saved for saved in since}

        return make_plan(
            ids, known, starts, wanted=wanted, since=earlier, job_seconds=job_seconds
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

            journal: A file that records each batch. If it exists, the upload goes
                on from there.

            on_skipped: Called with the ids that a request skipped; may be async.

        Raises:
            InvalidInputError: An id cannot be one, or there are no ids, or more
                than two million.

            InvalidIdsError: The service does not know some ids, and
                *skip_invalid_ids* is False.

            AmbiguousUploadError: The answer to the creating request was lost,
                and the list does not tell which cohort it made, if any.

            PartialUploadError: Some batches were written, then one failed.
        """
        from ._core.writes import Upload
        from ._uploads import upload_cohort

        spec = Upload(
            name=name,
            id_type=id_type,
            app_id=self._settings.app_id if app_id is None else app_id,
            owner=self._settings.owner if owner is None else owner,
            published=published,
            group=group,
            replace=replace,
            skip_invalid_ids=skip_invalid_ids,
            validate_only=validate_only,
            routes=self._routes,
        )

        return await upload_cohort(
            self._session,
            spec,
            ids,
            list_cohorts=self.list_cohorts,
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

            PartialUploadError: Some batches were written, then one failed.
        """
        from ._membership import update_membership

        return await update_membership(
            self._session,
            cohort_id,
            self._membership(id_type, count_group, skip_invalid_ids),
            add=add,
            remove=remove,
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

            PartialUploadError: Some batches were written, then one failed.
                Like every error after the export it carries its ``token``.
        """
        from ._sync import Sync, sync_membership

        sync = Sync(
            membership=self._membership(id_type, count_group),
            dry_run=dry_run,
            max_removed=max_removed,
            on_disk=on_disk,
        )

        return await sync_membership(
            self._session,
            cohort_id,
            ids,
            sync,
            request_export=self.request_export,
            current=current,
            journal=journal,
            on_skipped=on_skipped,
        )

    def _membership(
        self, id_type: IdType, count_group: str, skip_invalid_ids: bool = True
    ) -> Membership:
        from ._core.writes import Membership

        return Membership(
            id_type=id_type,
            count_group=count_group,
            skip_invalid_ids=skip_invalid_ids,
            routes=self._routes,
        )

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """
        Hold one of the five slots for a call of your own.

        For calls to the Dashboard REST API, which shares the slots.
        """
        async with self._session.limiter.slot("other"):
            yield

    @property
    def _session(self) -> Session:
        if self._is_closed:
            raise ConfigurationError("this client is closed; make another one")

        if self._made is None:
            self._made = self._make_session()

        return self._made

    @property
    def _exports(self) -> Exports:
        session = self._session

        if self._made_exports is None:
            from ._exports import Exports
            from ._wiring import make_budget

            self._made_exports = Exports(
                session,
                routes=self._routes,
                polling=self._polling,
                region=self._settings.region,
                list_cohorts=self.list_cohorts,
                budget=make_budget(
                    session,
                    routes=self._routes,
                    limits=self._limits,
                    allowances=self._allowances,
                ),
            )

        return self._made_exports

    def _make_session(self) -> Session:
        from ._io.session import Session
        from ._wiring import shared_limiter

        limiter = self._limiter or self._own_limiter

        return Session(
            transport=self._transport,
            limiter=shared_limiter(limiter, self._settings, self._limits, self._clock),
            clock=self._clock or SystemClock(),
            retrying=self._retrying,
            chance=self._chance,
            hook=self._hook,
            origin=self._settings.origin,
        )
