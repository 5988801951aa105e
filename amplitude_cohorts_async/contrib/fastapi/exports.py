"""The exports of a FastAPI service: its lifespan, its dependency and its router."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from ... import CohortsClient
from ...errors import ConfigurationError, InvalidInputError
from ...jobs import JobRecord
from ...limits import Limits
from ...types import Clock
from .files import MEDIA_TYPES, Files
from .problems import PROBLEM_RESPONSE, ProblemRoute
from .records import ExportRoot, key_occurrence
from .schemas import CohortInfo, ExportOrder, ExportState, PlanInfo, UsageInfo
from .termination import on_termination
from .worker import Worker

__all__ = ("CohortExports",)

_KEEP_FILES = 7 * 86400.0
_LONGEST_WAIT = 5.0
_LONGEST_KEY = 255
_STORES = ("AMPLITUDE_LIMITER_URL", "AMPLITUDE_JOBS")

_BINARY = {
    "content": {
        name.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
        for name in MEDIA_TYPES.values()
    }
}
_FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {**_BINARY, "description": "The file"},
    HTTPStatus.PARTIAL_CONTENT.value: {
        **_BINARY,
        "description": "The part of it that `Range` asks for",
    },
}

_Names = Annotated[list[str], Query(min_length=1, max_length=500)]
_Properties = Annotated[list[str] | None, Query(max_length=100)]
_Key = Annotated[str | None, Header(min_length=1, max_length=_LONGEST_KEY)]


def from_env() -> CohortsClient:
    """
    Return the client of the environment, which has to name a job store.

    It refuses to wait long where the service asks for a pause: web requests end.
    """
    if not any(os.environ.get(name) for name in _STORES):
        raise ConfigurationError(
            f"exports have to outlive this process: set {' or '.join(_STORES)}, or pass "
            f"client= with a job store, as in CohortExports(..., client=lambda: "
            f"CohortsClient.from_env(jobs='exports.db'))"
        )

    return CohortsClient.from_env(limits=Limits(max_wait=_LONGEST_WAIT))


class CohortExports:
    """
    Exports of one project, for a FastAPI service of any number of workers.

    Make one where the app is made, pass its `lifespan` to the app, and mount its
    `router()`::

        exports = CohortExports("/srv/exports")
        app = FastAPI(lifespan=exports.lifespan)
        app.include_router(exports.router(auth=signed_in), prefix="/amplitude")
        install_problems(app)
    """

    def __init__(
        self,
        to: str | os.PathLike[str],
        *,
        client: Callable[[], AbstractAsyncContextManager[CohortsClient]] = from_env,
        keep_files: float = _KEEP_FILES,
        clock: Clock | None = None,
    ) -> None:
        """
        Set up the exports; nothing is opened before the app starts.

        Args:
            to: The folder of the files, which all workers share under the same path; or
                the address of a bucket, as in "s3://bucket/exports", which then keeps
                them as its own rules say.
            client: Makes the client, whose job store has to be one that all workers
                share: AMPLITUDE_LIMITER_URL or AMPLITUDE_JOBS.
            keep_files: Seconds until a file in the folder is deleted.
            clock: The source of time, for tests.

        Raises:
            ConfigurationError: *keep_files* is no number of seconds.
            InvalidInputError: *to* is an address that holds credentials, or of no
                bucket, or it is a `Destination`: a record in the store cannot carry an
                object of one process to the worker that goes on.
        """
        if not keep_files >= 0:
            raise ConfigurationError(
                f"keep_files is {keep_files!r}; give seconds, zero or more"
            )

        self._to = _checked_to(to)
        if "://" in self._to:
            # What a record of it would refuse, at once.
            JobRecord.new("any", f"{self._to.rstrip('/')}/any.csv")
        self._make_client = client
        self._keep_files = keep_files
        self._clock = clock
        self._worker: Worker | None = None

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncGenerator[None]:  # noqa: ARG002
        """
        Go on with the exports in the store while the app runs.

        In a lifespan of your own: ``async with exports.lifespan(app): yield``.
        """
        root = ExportRoot(await asyncio.to_thread(_made_root, self._to))
        utcnow = self._clock.utcnow if self._clock else partial(datetime.now, UTC)
        files = Files(root, self._keep_files, utcnow)

        async with self._make_client() as client:
            worker = Worker(client, root, files, clock=self._clock)
            with on_termination(self.stop):
                async with worker.running():
                    self._worker = worker
                    try:
                        yield
                    finally:
                        self._worker = None

    def stop(self) -> None:
        """
        End the streams of events, and begin no step any more.

        SIGTERM and SIGINT do so by themselves where the server handles them in Python,
        as uvicorn does. Call it for any other one, before it waits for its connections.
        """
        if self._worker is not None:
            self._worker.view.stop()

    async def client(self) -> CohortsClient:
        """
        Return the client: a dependency for routes of your own.

        As in ``client: Annotated[CohortsClient, Depends(exports.client)]``.
        """
        return self._running().client

    def router(self, *, auth: Callable[..., object] | None) -> APIRouter:
        """
        Return a router of the exports, to include in an app.

        Args:
            auth: A dependency that raises an `HTTPException` for who may not spend
                exports and read their files. None lets everybody do so who can connect.
        """
        router = APIRouter(
            route_class=ProblemRoute,
            dependencies=[] if auth is None else [Depends(auth)],
            tags=["cohorts"],
            responses={"default": PROBLEM_RESPONSE},
        )

        def add(
            method: str,
            path: str,
            answer: Callable[..., object],
            summary: str,
            **rest: Any,
        ) -> None:
            """Add a route; *answer* without its underscore is its public name."""
            name = answer.__name__.removeprefix("_")
            router.add_api_route(
                path,
                answer,
                methods=[method],
                name=name,
                operation_id=name,
                summary=summary,
                **rest,
            )

        one = "/exports/{export_id}"
        stream: dict[str, Any] = {"response_class": EventSourceResponse}
        file: dict[str, Any] = {
            "response_class": FileResponse,
            "responses": _FILE_RESPONSES,
        }
        known: dict[str, Any] = {"dependencies": [Depends(self._known)]}
        accepted: dict[str, Any] = {"status_code": HTTPStatus.ACCEPTED}
        add("GET", "/cohorts", self._list_cohorts, "List the cohorts")
        add("GET", "/usage", self._get_usage, "Get the month's usage")
        add("GET", "/plan", self._plan_exports, "Plan exports")
        add("GET", "/exports", self._list_exports, "List the exports")
        add("POST", "/exports", self._start_export, "Start an export", **accepted)
        add("GET", "/exports/events", self._stream_exports, "Stream exports", **stream)
        add("GET", one, self._get_export, "Get an export")
        add("DELETE", one, self._cancel_export, "Cancel an export")
        add(
            "GET",
            f"{one}/events",
            self._stream_export,
            "Stream an export",
            **stream,
            **known,
        )
        add("GET", f"{one}/file", self._get_export_file, "Get an export's file", **file)

        return router

    async def _list_cohorts(self) -> list[CohortInfo]:
        """List the cohorts that can be exported."""
        worker = self._running()
        listed = await worker.unless_stopped(worker.client.list_cohorts())

        return [CohortInfo.of(each) for each in listed]

    async def _get_usage(self) -> UsageInfo:
        """Tell how many of this month's exports are spent."""
        worker = self._running()

        return UsageInfo.of(await worker.unless_stopped(worker.client.get_usage()))

    async def _plan_exports(
        self, cohort_id: _Names, properties: _Properties = None
    ) -> PlanInfo:
        """Tell what some exports would take; spends none."""
        worker = self._running()
        planning = worker.client.plan(cohort_id, properties=properties or False)

        return PlanInfo.of(await worker.unless_stopped(planning))

    async def _list_exports(self, request: Request) -> list[ExportState]:
        """List the exports of the last seven days, the newest first."""
        return [_linked(each, request) for each in await self._running().view.states()]

    async def _start_export(
        self,
        order: ExportOrder,
        request: Request,
        response: Response,
        idempotency_key: _Key = None,
    ) -> ExportState:
        """
        Start an export, and tell where to look for it; spends one export.

        A request that is sent again with the same `Idempotency-Key` spends none. Nor does
        one without a key, while an earlier export of the same cohort is not over.
        """
        occurrence = idempotency_key and key_occurrence(idempotency_key)
        state = await self._running().start(order, occurrence or None)
        response.headers["Location"] = f"{_exports_path(request)}/{state.id}"

        return _linked(state, request)

    async def _get_export(self, export_id: str, request: Request) -> ExportState:
        """Tell the state of an export."""
        return _linked(await self._running().view.state(export_id), request)

    async def _cancel_export(self, export_id: str, request: Request) -> ExportState:
        """
        Put an export aside: its token goes on with it. In the queue, it is removed.
        """
        return _linked(await self._running().cancel(export_id), request)

    async def _known(self, export_id: str) -> None:
        # Before the stream begins: then it is too late for a status.
        await self._running().view.state(export_id)

    async def _stream_export(
        self, export_id: str, request: Request
    ) -> AsyncGenerator[ServerSentEvent]:
        """Tell the state of an export now, and each change of it until it is over."""
        async for event in self._stream(export_id, request):
            yield event

    async def _stream_exports(
        self, request: Request
    ) -> AsyncGenerator[ServerSentEvent]:
        """Tell the states of all exports now, and each change until all are over."""
        async for event in self._stream(None, request):
            yield event

    async def _stream(
        self, name: str | None, request: Request
    ) -> AsyncGenerator[ServerSentEvent]:
        view = self._running().view

        async for state in view.changes(name):
            yield ServerSentEvent(
                data=_linked(state, request), event="export", id=str(state.revision)
            )

        # Without it a browser connects again: to another worker, or to the next one.
        if not view.stopping.is_set():
            yield ServerSentEvent(data={}, event="end")

    async def _get_export_file(self, export_id: str) -> FileResponse:
        """Send the file of an export."""
        worker = self._running()
        state = await worker.view.state(export_id)

        return await worker.files.answer(state)

    def _running(self) -> Worker:
        if self._worker is None:
            raise ConfigurationError(
                "the exports are not running; pass their lifespan to the app, as in "
                "FastAPI(lifespan=exports.lifespan)"
            )

        return self._worker


def worker_of(exports: CohortExports) -> Worker:
    """Return what works for some exports, for the page that is built on them."""
    return exports._running()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def _checked_to(to: str | os.PathLike[str]) -> str:
    # Also for those whose editor checks no types.
    place: object = os.fspath(to) if isinstance(to, os.PathLike) else to

    if isinstance(place, str):
        return place

    raise InvalidInputError(
        f"exports go to a folder or to the address of a bucket, as in "
        f"'s3://bucket/exports', not to a {type(to).__name__}: whichever worker goes on "
        f"with an export finds the place in its record, which carries a text"
    )


def _made_root(to: str) -> str:
    """Return an address, or a folder with its links resolved, which is made."""
    if "://" in to:
        return to.rstrip("/")

    Path(to).mkdir(parents=True, exist_ok=True)
    return str(Path(to).resolve())


def _exports_path(request: Request) -> str:
    """Return the path of the exports in the app that has mounted the router."""
    return request.url.path.rpartition("/exports")[0] + "/exports"


def _linked(state: ExportState, request: Request) -> ExportState:
    if not state.has_file:
        return state

    return state.model_copy(
        update={"file": f"{_exports_path(request)}/{state.id}/file"}
    )
