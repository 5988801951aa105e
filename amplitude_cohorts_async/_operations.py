"""
The composition root: builds the parts of a client, and runs its operations.

Importing it imports everything that calls need, which takes half as long as importing
aiohttp. `_client` therefore imports it at first use, in a thread if it can.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from socket import gethostname
from weakref import WeakSet

import anyio.to_thread
import attrs

from ._config import ClientConfig
from ._core import converter, responses
from ._core.claims import Call, checked_occurrence, checked_on_unknown, checked_reuse
from ._core.ids import cohort_id_of, distinct_cohort_ids
from ._core.job_rows import OnUnknown
from ._core.redact import Redactor
from ._core.requests import Endpoints, checked_properties
from ._core.retrying import NO_RETRIES
from ._core.tokens import from_token
from ._core.writes import Membership, Upload
from ._exports.app_jobs import AppJobs, target_name
from ._exports.downloader import checked_progress
from ._exports.job import ExportJob
from ._exports.many import ExportBatch, ExportRun, ManyOptions
from ._exports.plan import make_plan
from ._exports.requester import ExportRequester
from ._exports.runner import JobRunner
from ._exports.spent_export import checked_timeout
from ._exports.ticker import Ticker
from ._io.cancellation import collect_cooperatively
from ._io.context import Context, SystemClock
from ._io.fast.connections import aiofastnet
from ._io.http.session import Session
from ._io.http.transport import Transport
from ._io.jobs.base import JobStore
from ._io.jobs.registry import memory_store_for
from ._io.jobs.sqlite import SqliteJobStore
from ._io.limits.base import Limiter
from ._io.limits.budget import Budget
from ._io.limits.registry import limiter_for
from ._io.progress import (
    Progress,
    callback_or_bar,
    displayed,
    displayed_outcomes,
    progress_bar,
)
from ._io.sinks.destination import Destination
from ._io.sinks.target import Target, checked_format, checked_target
from ._locations import address_of
from ._store_urls import job_store_of_url
from ._version import VERSION
from ._writes.membership import update_membership
from ._writes.sync import sync_membership
from ._writes.upload import upload_cohort
from .errors import ConfigurationError, InvalidInputError, NotFoundError
from .events import PartlyUnreadable, UsageRead
from .models import (
    Cohort,
    ExportOutcome,
    ExportPlan,
    JobRecord,
    Routes,
    SavedExport,
    Tick,
    Usage,
)
from .policies import Retrying

_logger = logging.getLogger(__name__)


class Operations:
    """The operations of one client, and the parts that they share."""

    # For the client, which imports no part of the library by itself.
    upload_options = Upload
    membership_options = Membership
    callback_or_bar = staticmethod(callback_or_bar)
    progress_bar = staticmethod(progress_bar)
    displayed = staticmethod(displayed)

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._endpoints = Endpoints(config.routes)
        self.session = self._make_session()
        store = _given_store(config, self.session.limiter)
        self._has_lasting_jobs = store is not None
        self.jobs = AppJobs(
            store or memory_store_for(config.app, config.clock),
            config.app,
            self.session.context.clock,
            label=f"process {os.getpid()} on {gethostname()}",
        )
        # Without retries: an export can do without this number, and must not wait.
        self._read_usage = partial(self.get_usage, retrying=NO_RETRIES)
        self.exports = ExportRequester(
            self.session,
            jobs=self.jobs,
            read_usage=self._read_usage,
            endpoints=self._endpoints,
            polling=config.polling,
            region=config.region if config.base_url is None else None,
            list_cohorts=self.list_cohorts,
            budget=self._make_budget(),
        )
        self.upload_cohort = partial(
            upload_cohort, self.session, self.jobs, list_cohorts=self.list_cohorts
        )
        self.update_membership = partial(update_membership, self.session, self.jobs)
        self.sync_membership = partial(
            sync_membership, self.session, self.jobs, exports=self.exports
        )
        self._ticker = Ticker(
            exports=self.exports, session=self.session, polling=config.polling
        )
        # Weak, so that a run lives as long as its iterator or its tasks.
        self._runs: WeakSet[ExportRun] = WeakSet()

    @staticmethod
    def prepare() -> None:
        """Import the rest of what calls need; takes 0.1 s, so runs in a thread."""
        with suppress(ImportError):  # a private module of anyio, which may move
            import_module("anyio._backends._asyncio")

        # The extra's library, which takes a tenth of what aiohttp takes.
        aiofastnet()
        converter.generate()

    async def aclose(self) -> None:
        """Stop the runs, wait for sent export requests, and close the connections."""
        await asyncio.gather(*(run.close_with_client() for run in list(self._runs)))
        await self.session.aclose()
        await self.jobs.aclose()

        if isinstance(self._config.jobs, (Path, str)):
            await self.jobs.store.aclose()

    async def list_cohorts(self, *, include_sync_info: bool = False) -> list[Cohort]:
        """Return all discoverable cohorts."""
        request = self._endpoints.list_cohorts(include_sync_info=include_sync_info)
        response = await self.session.send(request)
        odd: list[str] = []
        cohorts = await collect_cooperatively(
            responses.each_cohort(
                request, response, routes=self._config.routes, odd=odd
            )
        )

        if odd:
            _logger.warning(
                "the list of cohorts is unreadable in part", extra={"paths": odd[:5]}
            )
            self.session.context.emit(
                PartlyUnreadable(operation="list", count=len(odd), paths=tuple(odd[:5]))
            )

        return cohorts

    async def get_cohort(self, cohort: str | Cohort) -> Cohort:
        """Return one cohort of the list."""
        cohort_id = cohort_id_of(cohort)

        for listed in await self.list_cohorts():
            if listed.id == cohort_id:
                return listed

        raise NotFoundError(
            f"no discoverable cohort has the id {cohort_id!r}; check the id, the "
            f"project and the region, and whether the cohort is published",
            status=404,
        )

    async def get_usage(self, *, retrying: Retrying | None = None) -> Usage:
        """Return the usage of the month."""
        request = self._endpoints.usage()
        response = await self.session.send(request, retrying=retrying)
        usage = responses.usage(request, response)
        self.session.context.emit(UsageRead(used=usage.used, remaining=usage.remaining))

        return usage

    async def request_export(
        self,
        cohort: str | Cohort,
        *,
        properties: bool | Sequence[str],
        join: bool,
        reuse_within: float,
        on_unknown: OnUnknown,
        allowance: str | None,
    ) -> ExportJob:
        """Request an export, or join the one that answers the call."""
        cohort_id = cohort_id_of(cohort)

        if not join:
            started = await self.exports.request(
                cohort_id, properties, allowance=allowance
            )
            return ExportJob(started.export, started.delivery)

        call = Call(
            cohort_id=cohort_id,
            properties=checked_properties(properties),
            reuse_within=checked_reuse(reuse_within),
            on_unknown=checked_on_unknown(on_unknown),
        )
        started = await self.exports.join_or_request(call, allowance=allowance)
        return ExportJob(started.export, started.delivery)

    def resume_export(self, request_id_or_token: str) -> ExportJob:
        """Return the job of an export that was requested before; sends nothing."""
        return ExportJob(self.exports.resume(request_id_or_token))

    async def export(
        self,
        cohort: str | Cohort,
        to: str | os.PathLike[str] | Destination,
        *,
        properties: bool | Sequence[str],
        timeout: float,
        format: str | None,  # noqa: A002 - a public name
        if_changed_since: SavedExport | str | None,
        skip_unchanged: bool,
        reuse_within: float,
        occurrence: str | None,
        on_unknown: OnUnknown,
        manifest: bool,
        allowance: str | None,
        progress: Progress | None,
    ) -> SavedExport:
        """Go on with the export that answers the call, or request one; save its file."""
        checked_timeout(timeout)
        checked_progress(progress)
        call = Call(
            cohort_id=cohort_id_of(cohort),
            properties=checked_properties(properties),
            occurrence=checked_occurrence(occurrence),
            reuse_within=checked_reuse(reuse_within),
            on_unknown=checked_on_unknown(on_unknown),
        )

        with self.session.context.phase("export", cohort_id=call.cohort_id):
            return await self._export(
                call,
                to,
                timeout=timeout,
                format=format,
                if_changed_since=if_changed_since,
                skip_unchanged=skip_unchanged,
                manifest=manifest,
                allowance=allowance,
                progress=progress,
            )

    async def _export(
        self,
        call: Call,
        to: str | os.PathLike[str] | Destination,
        *,
        timeout: float,
        format: str | None,  # noqa: A002
        if_changed_since: SavedExport | str | None,
        skip_unchanged: bool,
        manifest: bool,
        allowance: str | None,
        progress: Progress | None,
    ) -> SavedExport:
        # First of all: what is requested from now on answers this call as well.
        since_sequence = await self.jobs.last_sequence(call.cohort_id)
        target = await anyio.to_thread.run_sync(checked_target, to, format, manifest)
        call = attrs.evolve(
            call,
            since_sequence=since_sequence,
            target=target_name(target),
            format=target.format.suffix,
        )

        async def listed() -> Mapping[str, Cohort]:
            """Return the listed cohorts, of which this one's size is kept."""
            nonlocal target
            found = await self.exports.listed()

            if cohort := found.get(call.cohort_id):
                target = attrs.evolve(target, expected_rows=cohort.size)

            return found

        saved = await self._unchanged(
            call,
            target,
            listed,
            if_changed_since=if_changed_since,
            skip_unchanged=skip_unchanged,
            progress=progress,
        )

        if saved is not None:
            return saved

        started = await self.exports.join_or_request(call, allowance=allowance)
        return await self.exports.save(
            started, target, timeout=timeout, progress=progress
        )

    async def _unchanged(
        self,
        call: Call,
        target: Target,
        listed: Callable[[], Awaitable[Mapping[str, Cohort]]],
        *,
        if_changed_since: SavedExport | str | None,
        skip_unchanged: bool,
        progress: Progress | None,
    ) -> SavedExport | None:
        if if_changed_since is not None:
            cohort = (await listed()).get(call.cohort_id)
            return await self.exports.saved.unchanged(
                if_changed_since,
                target,
                call.properties,
                cohort=cohort,
                progress=progress,
            )

        if skip_unchanged:
            return await self.exports.saved.unchanged_since_saved(
                call.cohort_id, target, call.properties, listed
            )

        return None

    def export_many(
        self,
        cohort_ids: Iterable[str | Cohort],
        directory: str | os.PathLike[str],
        *,
        properties: bool | Sequence[str],
        timeout: float,
        format: str,  # noqa: A002 - a public name
        max_concurrency: int,
        skip_unchanged: bool,
        reuse_within: float,
        on_unknown: OnUnknown,
        allowance: str | None,
        progress: bool,
    ) -> ExportBatch:
        """Return an iterator over the outcomes of many exports."""
        options = ManyOptions(
            wanted=checked_properties(properties),
            format=checked_format(format),
            timeout=checked_timeout(timeout),
            max_concurrency=max_concurrency,
            skip_unchanged=skip_unchanged,
            reuse_within=checked_reuse(reuse_within),
            on_unknown=checked_on_unknown(on_unknown),
            allowance=allowance,
        )

        folder = Path(directory)
        if address_of(folder) is not None:
            raise InvalidInputError(
                "many exports go to a folder of this machine; export() brings each to "
                "an address of its own"
            )

        run = ExportRun(self.exports, cohort_ids, folder, options)
        self._runs.add(run)
        return ExportBatch(run, progress_bar(progress, "", total=lambda: run.count))

    async def list_jobs(self, *, open_only: bool) -> list[JobRecord]:
        """Return the exports in the job store."""
        records = [known.record for known in await self.jobs.records()]

        return [record for record in records if record.is_open or not open_only]

    async def tick(self, record: JobRecord) -> Tick:
        """Make the next step of an export."""
        if not self._has_lasting_jobs:
            raise ConfigurationError(
                "a step of an export needs a job store that outlives this process: "
                "another process that makes a step would not know what is spent, and "
                "spend it again; set AMPLITUDE_JOBS or AMPLITUDE_LIMITER_URL, or pass "
                "jobs= (a MemoryJobStore() if no other process makes a step)"
            )

        return await self._ticker.tick(record)

    def run_jobs(
        self, *, forever: bool, progress: bool
    ) -> AsyncIterator[ExportOutcome]:
        """Return an iterator over the outcomes of what was left."""
        runner = JobRunner(
            jobs=self.jobs, ticker=self._ticker, context=self.session.context
        )
        outcomes = runner.outcomes(forever=forever)
        bar = progress_bar(
            progress, "", total=lambda: (runner.found or None) if not forever else None
        )
        return outcomes if bar is None else displayed_outcomes(bar, outcomes)

    async def plan(
        self,
        cohort_ids: Iterable[str | Cohort],
        *,
        properties: bool | Sequence[str],
        since: Iterable[SavedExport],
        job_seconds: float,
    ) -> ExportPlan:
        """Return the plan of exporting some cohorts."""
        wanted = checked_properties(properties)
        ids = distinct_cohort_ids(cohort_ids)
        limiter = self.session.limiter

        return make_plan(
            ids,
            cohorts=await self.exports.listed(),
            usage=await self.get_usage(),
            starts=limiter.expected_starts(len(ids), limits=self._config.limits),
            wanted=wanted,
            since={str(from_token(saved.token).cohort_id): saved for saved in since},
            job_seconds=job_seconds,
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
                max_size=config.downloading.max_size,
                hook=config.hook,
            ),
            origin=config.origin,
        )

    def _make_budget(self) -> Budget:
        limits = self._config.limits
        guards = limits.guard_month and self._config.routes is Routes.VENDOR

        return Budget(
            self._read_usage if guards else None,
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
            config.api_key, config.secret_key, *config.proxies.secrets
        ),
        session=config.session,
        proxies=config.proxies,
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


def _given_store(config: ClientConfig, limiter: Limiter) -> JobStore | None:
    if isinstance(config.jobs, JobStore):
        return config.jobs
    if isinstance(config.jobs, Path):
        return SqliteJobStore(config.jobs)
    if isinstance(config.jobs, str):
        return job_store_of_url(config.jobs)

    return limiter.job_store
