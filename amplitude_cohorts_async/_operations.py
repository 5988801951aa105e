"""
The composition root: builds the parts of a client, and runs its operations.

Importing it imports everything that calls need, which takes half as long as importing
aiohttp. `_client` therefore imports it at first use, in a thread if it can.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from weakref import WeakSet

import anyio.to_thread

from ._config import ClientConfig, proxy_secrets
from ._core import converter, responses
from ._core.ids import checked_id, checked_ids
from ._core.redact import Redactor
from ._core.requests import Endpoints, checked_properties
from ._core.retrying import NO_RETRIES
from ._core.tokens import from_token
from ._core.writes import Membership, Upload
from ._exports.downloader import Progress
from ._exports.job import ExportJob, checked_timeout
from ._exports.many import ExportBatch, ExportRun, ManyOptions
from ._exports.plan import make_plan
from ._exports.requester import ExportRequester
from ._io.cancellation import collect_cooperatively
from ._io.context import Context, SystemClock
from ._io.fast.connections import aiofastnet
from ._io.http.session import Session
from ._io.http.transport import Transport
from ._io.limits.base import Limiter
from ._io.limits.budget import Budget
from ._io.limits.registry import limiter_for
from ._io.sinks.target import checked_format, checked_target
from ._version import VERSION
from ._writes.id_stream import IdSource
from ._writes.membership import update_membership
from ._writes.sync import sync_membership
from ._writes.upload import upload_cohort
from ._writes.writer import OnSkipped
from .errors import NotFoundError
from .limits import Limits
from .models import (
    Cohort,
    ExportPlan,
    IdType,
    MembershipReport,
    Routes,
    SavedExport,
    SyncReport,
    UploadReport,
    Usage,
)
from .policies import Retrying


class Operations:
    """The operations of one client, and the parts that they share."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._routes = config.routes
        self._endpoints = Endpoints(config.routes)
        self.session = self._make_session()
        self._exports = ExportRequester(
            self.session,
            endpoints=self._endpoints,
            polling=config.polling,
            region=config.region if config.base_url is None else None,
            list_cohorts=self.list_cohorts,
            budget=self._make_budget(),
        )
        # Weak, so that a run lives as long as its iterator or its tasks.
        self._runs: WeakSet[ExportRun] = WeakSet()

    @staticmethod
    def prepare() -> None:
        """
        Import the rest of what calls need, and generate the converters of answers.

        Runs in a worker thread: with the imports of this module it takes 0.1 s, once
        in a process.
        """
        with suppress(ImportError):  # a private module of anyio, which may move
            import_module("anyio._backends._asyncio")

        # The extra's library, which takes a tenth of what aiohttp takes.
        aiofastnet()
        converter.generate()

    @staticmethod
    def limiter_of_url(url: str, limits: Limits) -> Limiter:
        """Return a `RedisLimiter`, or raise `MissingExtraError` without that extra."""
        from .contrib.redis import RedisLimiter  # noqa: PLC0415 - optional

        return RedisLimiter.from_url(url, limits=limits)

    async def aclose(self) -> None:
        """Stop the runs, wait for sent export requests, and close the connections."""
        await asyncio.gather(*(run.close_with_client() for run in list(self._runs)))
        await self.session.aclose()

    async def list_cohorts(self, *, include_sync_info: bool = False) -> list[Cohort]:
        """Return all discoverable cohorts."""
        request = self._endpoints.list_cohorts(include_sync_info=include_sync_info)
        response = await self.session.send(request)
        return await collect_cooperatively(responses.each_cohort(request, response))

    async def get_cohort(self, cohort_id: str) -> Cohort:
        """Return one cohort of the list."""
        checked_id(cohort_id, "cohort id")

        for cohort in await self.list_cohorts():
            if cohort.id == cohort_id:
                return cohort

        raise NotFoundError(
            f"no discoverable cohort has the id {cohort_id!r}; check the id, the "
            f"project and the region, and whether the cohort is published",
            status=404,
        )

    async def get_usage(self, *, retrying: Retrying | None = None) -> Usage:
        """Return the usage of the month."""
        request = self._endpoints.usage()
        response = await self.session.send(request, retrying=retrying)
        return responses.usage(request, response)

    async def request_export(
        self,
        cohort_id: str,
        *,
        properties: bool | Sequence[str] = False,
        allowance: str | None = None,
    ) -> ExportJob:
        """Request an export; spends one."""
        wanted = checked_properties(properties)
        return await self._exports.request(cohort_id, wanted, allowance=allowance)

    def resume_export(self, request_id_or_token: str) -> ExportJob:
        """Return the job of an export that was requested before."""
        return self._exports.resume(request_id_or_token)

    async def export(
        self,
        cohort_id: str,
        to: str | os.PathLike[str],
        *,
        properties: bool | Sequence[str],
        timeout: float,
        format: str | None,  # noqa: A002 - a public name
        if_changed_since: SavedExport | str | None,
        allowance: str | None,
        progress: Progress | None,
    ) -> SavedExport:
        """Join or request an export, and save its file."""
        checked_timeout(timeout)
        target = await anyio.to_thread.run_sync(checked_target, to, format)
        wanted = checked_properties(properties)

        if if_changed_since is not None:
            listed = await self._exports.listed()
            saved = await self._exports.unchanged(
                if_changed_since,
                target,
                wanted,
                cohort=listed.get(cohort_id),
                progress=progress,
            )
            if saved is not None:
                return saved

        started = await self._exports.start(cohort_id, wanted, allowance=allowance)
        return await started.job.download(
            to, format=format, timeout=timeout, progress=progress
        )

    def export_many(
        self,
        cohort_ids: Iterable[str],
        directory: str | os.PathLike[str],
        *,
        properties: bool | Sequence[str],
        timeout: float,
        format: str,  # noqa: A002 - a public name
        max_concurrency: int,
        skip_unchanged: bool,
        allowance: str | None,
    ) -> ExportBatch:
        """Return an iterator over the outcomes of many exports."""
        options = ManyOptions(
            wanted=checked_properties(properties),
            format=checked_format(format),
            timeout=checked_timeout(timeout),
            max_concurrency=max_concurrency,
            skip_unchanged=skip_unchanged,
            allowance=allowance,
        )

        run = ExportRun(self._exports, cohort_ids, Path(directory), options)
        self._runs.add(run)
        return ExportBatch(run)

    async def plan(
        self,
        cohort_ids: Iterable[str],
        *,
        properties: bool | Sequence[str],
        since: Iterable[SavedExport],
        job_seconds: float,
    ) -> ExportPlan:
        """Return the plan of exporting some cohorts."""
        wanted = checked_properties(properties)
        ids = checked_ids(cohort_ids, "cohort id")
        limiter = self.session.limiter

        return make_plan(
            ids,
            cohorts=await self._exports.listed(),
            usage=await self.get_usage(),
            starts=limiter.expected_starts(len(ids), limits=self._config.limits),
            wanted=wanted,
            since={str(from_token(saved.token).cohort_id): saved for saved in since},
            job_seconds=job_seconds,
        )

    async def upload_cohort(
        self,
        name: str,
        ids: IdSource,
        *,
        id_type: IdType,
        app_id: int | None,
        owner: str | None,
        published: bool,
        group: str | None,
        replace: str | None,
        skip_invalid_ids: bool,
        validate_only: bool,
        max_removed: float,
        journal: str | os.PathLike[str] | None,
        on_skipped: OnSkipped | None,
    ) -> UploadReport:
        """Create a cohort, or replace the members of one."""
        spec = Upload(
            name=name,
            id_type=id_type,
            app_id=self._config.app_id if app_id is None else app_id,
            owner=self._config.owner if owner is None else owner,
            published=published,
            group=group,
            replace=replace,
            skip_invalid_ids=skip_invalid_ids,
            validate_only=validate_only,
            routes=self._routes,
        )

        return await upload_cohort(
            self.session,
            spec,
            ids,
            list_cohorts=self.list_cohorts,
            max_removed=max_removed,
            journal=journal,
            on_skipped=on_skipped,
        )

    async def update_membership(
        self,
        cohort_id: str,
        *,
        add: IdSource,
        remove: IdSource,
        id_type: IdType,
        count_group: str,
        skip_invalid_ids: bool,
        journal: str | os.PathLike[str] | None,
        on_skipped: OnSkipped | None,
    ) -> MembershipReport:
        """Add ids to a cohort and remove others."""
        return await update_membership(
            self.session,
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
        id_type: IdType,
        current: IdSource | None,
        dry_run: bool,
        max_removed: float,
        count_group: str,
        on_disk: str | os.PathLike[str] | None,
        journal: str | os.PathLike[str] | None,
        on_skipped: OnSkipped | None,
    ) -> SyncReport:
        """Make a cohort's members equal to a set."""
        return await sync_membership(
            self.session,
            cohort_id,
            ids,
            self._membership(id_type, count_group),
            request_export=self.request_export,
            current=current,
            dry_run=dry_run,
            max_removed=max_removed,
            on_disk=on_disk,
            journal=journal,
            on_skipped=on_skipped,
        )

    def _membership(
        self, id_type: IdType, count_group: str, skip_invalid_ids: bool = True
    ) -> Membership:
        return Membership(
            id_type=id_type,
            count_group=count_group,
            skip_invalid_ids=skip_invalid_ids,
            routes=self._routes,
        )

    def _make_session(self) -> Session:
        config = self._config

        return Session(
            transport=_make_transport(config),
            limiter=_shared_limiter(config),
            context=Context(
                clock=config.clock or SystemClock(),
                rng=config.rng,
                retrying=config.retrying,
                file_mode=config.file_mode,
                hook=config.hook,
            ),
            origin=config.origin,
        )

    def _make_budget(self) -> Budget:
        limits = self._config.limits
        guards = limits.guard_month and self._routes is Routes.VENDOR

        # Without retries: an export can do without this number, and must not wait for it.
        return Budget(
            partial(self.get_usage, retrying=NO_RETRIES) if guards else _unknown_usage,
            clock=self.session.context.clock,
            counter=self.session.limiter.counter,
            reserve=limits.monthly_reserve,
            allowances=self._config.allowances,
        )


def _make_transport(config: ClientConfig) -> Transport:
    return Transport(
        origin=config.origin,
        api_key=config.api_key,
        secret_key=config.secret_key,
        user_agent=f"amplitude-cohorts-async/{VERSION}",
        redactor=Redactor.of_keys(
            config.api_key, config.secret_key, *proxy_secrets(config.proxy)
        ),
        session=config.session,
        proxy=config.proxy,
        answer_seconds=config.timeout,
        stall_seconds=config.stall_timeout,
        connections=config.downloading.max_connections,
        fast=config.downloading.fast,
    )


def _shared_limiter(config: ClientConfig) -> Limiter:
    if config.limiter is None:
        return limiter_for(config.app, config.limits, config.clock)

    config.limiter.bind(config.app)
    return config.limiter


async def _unknown_usage() -> Usage:
    return Usage(limit=None, used=0)
