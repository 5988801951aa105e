"""
The emulator: the vendor's service on this machine, strict, with a record of
all that happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

from anyio.from_thread import start_blocking_portal

from .api import OpenApi, VendorApi
from .clock import Clock, SystemClock
from .cohorts import (
    MANUAL,
    CohortRecord,
    GeneratedMembers,
    MemberInput,
    listed_members,
    property_names,
)
from .faults import STEPS, Fault, Step
from .files import default_cache_dir, generated_object
from .http import ApiOrigin, StoreOrigin
from .object_store import ObjectCache
from .options import Assumptions, Compression, KnownUsers, Options, Routes, Seconds
from .quotas import Quotas, RequestRecord, Violation
from .service import Service

__all__ = ("CohortsEmulator",)

_AGE = timedelta(minutes=1)
_APIS = {"vendor": VendorApi, "openapi": OpenApi}


def knows_user(name: str) -> bool:
    """Whether the project has this user: all but ``unknown-...``."""
    return not name.startswith("unknown-")


class CohortsEmulator:
    """
    Amplitude's Behavioral Cohorts API on two ports of this machine.

    Stricter than the vendor, and it keeps a record: afterwards look at
    `requests()`, `violations`, `max_in_flight` and `spent`.

    ``async with`` runs it in the running event loop, ``with`` in a thread and
    a loop of its own; its methods may be called from any thread.
    """

    def __init__(
        self,
        *,
        api_key: str = "demo-api-key",
        secret_key: str = "demo-secret-key",  # noqa: S107 - for a demo
        app_id: int = 153957,
        owner: str = "datamonster@amplitude.com",
        routes: Routes = "vendor",
        clock: Clock | None = None,
        quotas: Quotas | None = None,
        assumptions: Assumptions | None = None,
        job_seconds: float = 1.0,
        link_seconds: float = 60.0,
        inline_below: float = 1_000,
        compress: Compression | None = "gzip",
        latency: Seconds = 0.0,
        known_users: KnownUsers = knows_user,
        host: str = "127.0.0.1",
        port: int = 0,
        store_port: int = 0,
        cache_dir: Path | None = None,
        seed: int = 0,
    ) -> None:
        """
        Set up an emulator; entering it makes it listen.

        Args:
            app_id: The project of the keys; uploads have to name it.
            owner: Of the cohorts that are added without one.
            routes: "vendor" is Amplitude's own reference page, "openapi" a
                third-party description that differs from it.
            clock: The time here; share it with the client. The real time by
                default.
            quotas: The limits; the vendor's by default.
            assumptions: Switches for what the vendor does not say.
            job_seconds: From the request of an export to its file.
            link_seconds: The life of a link into the store.
            inline_below: Files of fewer members than this are sent by the
                API itself; 0 for none, infinity for all.
            compress: How files are kept: gzip, gzip without saying so in a
                Content-Encoding, or None for plain text.
            latency: Seconds that each request of the API takes, or a function
                of the request that returns them. It is in flight meanwhile, even
                if its client has gone.
            known_users: Ids the project has, users' and Amplitude's; by
                default all that do not begin with ``unknown-``.
            port: Of the API; 0 for any that is free.
            store_port: Of the store.
            cache_dir: Where generated files are kept for the next time; a
                folder of this user's among the temporary files by default.
            seed: Of the ids it invents: the same seed, the same ids.
        """
        if routes not in _APIS:
            msg = f"no routes {routes!r}; pass one of {', '.join(_APIS)}"
            raise ValueError(msg)

        self.clock: Clock = clock or SystemClock()
        self.options: Options = Options(
            api_key=api_key,
            secret_key=secret_key,
            app_id=app_id,
            owner=owner,
            routes=routes,
            clock=self.clock,
            quotas=quotas or Quotas(),
            assumptions=assumptions or Assumptions(),
            job_seconds=job_seconds,
            link_seconds=link_seconds,
            inline_below=inline_below,
            compress=compress,
            latency=latency,
            known_users=known_users,
            cache_dir=cache_dir or default_cache_dir(),
            seed=seed,
        )
        self._host, self._port, self._store_port = host, port, store_port
        self._lock = RLock()
        self._service = Service(self.options)
        self._cache = ObjectCache(self.options)
        self._store = StoreOrigin(self._service, cache=self._cache, lock=self._lock)
        self._api = ApiOrigin(
            self._service,
            _APIS[routes](self._service, store_url=lambda: self.store_url),
            cache=self._cache,
            lock=self._lock,
        )
        self._open: AsyncExitStack | None = None
        self._thread: ExitStack | None = None

    # -- Life --------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Listen."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._cache.aclose)
            await self._store.listen(stack, self._host, self._store_port)
            await self._api.listen(stack, self._host, self._port)
            self._open = stack.pop_all()

        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening, and close all connections."""
        stack, self._open = self._open, None

        if stack:
            await stack.aclose()

    def __enter__(self) -> Self:
        """Listen in a thread with an event loop of its own."""
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._thread = stack.pop_all()

        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening, and end the thread."""
        stack, self._thread = self._thread, None

        if stack:
            stack.close()

    # -- Where it is -------------------------------------------------------

    @property
    def base_url(self) -> str:
        """The origin of the API."""
        return self._api.url

    @property
    def store_url(self) -> str:
        """The origin of the store."""
        return self._store.url

    @property
    def api_key(self) -> str:
        """The key that is good here."""
        return self.options.api_key

    @property
    def secret_key(self) -> str:
        """The secret that goes with it."""
        return self.options.secret_key

    def environment(self) -> dict[str, str]:
        """Return the variables that point a client here."""
        return {
            "AMPLITUDE_API_KEY": self.api_key,
            "AMPLITUDE_SECRET_KEY": self.secret_key,
            "AMPLITUDE_BASE_URL": self.base_url,
            "AMPLITUDE_APP_ID": str(self.options.app_id),
            "AMPLITUDE_OWNER": self.options.owner,
        }

    # -- What it has -------------------------------------------------------

    def add_cohort(
        self,
        cohort_id: str,
        *,
        members: Sequence[MemberInput] | None = None,
        size: int | None = None,
        properties: Mapping[str, Sequence[str]] | None = None,
        anonymous: int = 10,
        name: str | None = None,
        description: str | None = None,
        group: str | None = None,
        type: str | None = None,  # noqa: A002 - the vendor's word
        owner: str | None = None,
        published: bool = True,
        archived: bool = False,
        computed: bool = True,
        syncs: Sequence[Mapping[str, object]] = (),
        job_seconds: float | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> None:
        """
        Add a cohort that is a minute old, or put another in its place now.

        Args:
            members: User ids; or (amplitude id, user id or None) with or
                without properties after it; or group names.
            size: Instead of members: make up so many, as a stream. Millions
                are made in seconds, and kept on disk for the next time.
            properties: Values by name of property; members that have none of
                their own take them in turn.
            anonymous: Every how many-th generated member has no user id; 0
                for none.
            group: The count group, if it is not users that it counts.
            type: As in the list; "manual_upload" for cohorts of listed
                members, which can be written to, else "redshift".
            published: Whether it is listed and can be exported.
            computed: Without it the list has no size, as for a cohort that
                was never computed.
            syncs: The list's `syncMetadata`.
            job_seconds: How long its exports take, if not as all others'.
            overrides: Keys of its object in the list that are replaced by these.
        """
        if (members is None) == (size is None):
            msg = f"cohort {cohort_id}: pass either members or size"
            raise ValueError(msg)

        values_by_property = properties or {}
        rule = GeneratedMembers(
            size=size or 0,
            seed=self.options.seed,
            anonymous=anonymous,
            group=group is not None,
            properties={
                key: tuple(values) for key, values in values_by_property.items()
            },
        )
        cohort_members = rule if members is None else listed_members(members, rule)
        is_new = cohort_id not in self._service.cohorts
        # The list tells seconds: one that was added in the second in which an export
        # was requested may have changed after it, so that no call would go on with it.
        changed_at = self.clock.utcnow() - (_AGE if is_new else timedelta())
        record = CohortRecord(
            id=cohort_id,
            name=name or f"Cohort {cohort_id}",
            app_id=self.options.app_id,
            members=cohort_members,
            group=group,
            type=type or ("redshift" if members is None else MANUAL),
            description=description,
            owners=(owner or self.options.owner,),
            published=published,
            archived=archived,
            properties=property_names(cohort_members, values_by_property),
            created_at=changed_at,
            modified_at=changed_at,
            computed_at=changed_at if computed else None,
            syncs=syncs,
            overrides=overrides or {},
            job_seconds=job_seconds,
        )

        with self._lock:
            self._service.add_cohort(record)

    def generate(self) -> None:
        """
        Make the files of generated cohorts now, not when first asked for.

        Blocks for about a second a million members, unless they are there
        from an earlier time.
        """
        with self._lock:
            cohorts = list(self._service.cohorts.values())

        for cohort in cohorts:
            if isinstance(cohort.members, GeneratedMembers):
                generated_object(
                    cohort.members,
                    self._service.columns(cohort, ()),
                    compress=self.options.compress is not None,
                    cache_dir=self.options.cache_dir,
                )

    def members_of(self, cohort_id: str, *, by: str = "name") -> frozenset[str]:
        """
        Return the members of a cohort now.

        Args:
            by: "name" for user ids (or groups), with the Amplitude ids of
                those who have none; "amplitude_id" for Amplitude ids.
        """
        with self._lock:
            rows = self._service.cohorts[cohort_id].members.rows()

            if by == "name":
                return frozenset(row[1] or row[0] for row in rows)

            return frozenset(row[0] for row in rows)

    @property
    def cohort_ids(self) -> list[str]:
        """The cohorts there are, uploaded ones included, oldest first."""
        with self._lock:
            return list(self._service.cohorts)

    # -- What goes wrong ---------------------------------------------------

    def fail_next(self, step: Step, *faults: Fault, times: int | None = 1) -> None:
        """
        Queue faults for the next requests of a step, one for each.

        Args:
            step: "list", "usage", "export", "status", "file", "store",
                "upload" or "membership".
            faults: See `amplitude_cohorts_async.testing.faults`.
            times: How often to go through them; None for always.
        """
        if step not in STEPS:
            msg = f"no step {step!r}; the steps are {', '.join(STEPS)}"
            raise ValueError(msg)

        if not faults:
            msg = "no faults; pass one, as in fail_next('file', link_expired())"
            raise ValueError(msg)

        for fault in faults:
            if step not in fault.steps:
                places = ", ".join(sorted(fault.steps))
                msg = f"this fault cannot happen at {step!r}, only at: {places}"
                raise ValueError(msg)

        with self._lock:
            self._service.faults[step].put(faults, times)

    # -- What has happened -------------------------------------------------

    def requests(self, step: Step) -> int:
        """Return the number of requests of a step, refused ones included."""
        with self._lock:
            return self._service.log.counts[step]

    @property
    def log(self) -> list[RequestRecord]:
        """All requests, in the order of their arrival."""
        with self._lock:
            return list(self._service.log.requests)

    @property
    def violations(self) -> list[Violation]:
        """All rules that requests broke; empty for a good client."""
        with self._lock:
            return list(self._service.log.violations)

    @property
    def max_in_flight(self) -> int:
        """The most requests of the API that were in flight at once."""
        return self._service.log.max_in_flight

    @property
    def in_flight(self) -> int:
        """The requests of the API that are in flight now."""
        return self._service.log.in_flight

    @property
    def spent(self) -> int:
        """The exports counted this month."""
        with self._lock:
            return self._service.spent

    @property
    def links(self) -> int:
        """The links into the store that were issued."""
        return len(self._service.links)
