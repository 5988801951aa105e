"""The app of the page: its routes behind its guard."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import attrs
from fastapi import FastAPI, Form, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from ... import CohortsClient
from ...errors import CohortsError
from ...models import Cohort
from ...types import Clock
from ..fastapi.exports import CohortExports, worker_of
from ..fastapi.problems import Problem, ProblemError, install_problems, problem_of_any
from ..fastapi.records import key_occurrence
from ..fastapi.schemas import ExportOrder, ExportState, FileFormat
from ..fastapi.worker import Worker
from .access import Access, Guard
from .cards import cards_of
from .hook import downloads
from .received import MOST_BYTES, receive
from .templates import Templates
from .writes import Writes

__all__ = ("About", "make_app")

_HERE = Path(__file__).parent
_MOST_AT_ONCE = 100
_SESSION_LIFE = 30 * 86400
_INVALID = Problem(
    title="Unprocessable Entity",
    status=HTTPStatus.UNPROCESSABLE_ENTITY,
    detail="The page never sends such a request; load it again.",
)

_Chosen = Annotated[list[str], Query(max_length=_MOST_AT_ONCE)]
_Ordered = Annotated[list[str], Form(min_length=1, max_length=_MOST_AT_ONCE)]
_Flag = Literal["", "all"]


@attrs.frozen(kw_only=True)
class About:
    """
    What the head of the page says.

    Attributes:
        project: Of the keys, in a few words.
        is_live: Whether exports count in a real month.
        keep: Exports of the month that the page leaves to others.
        can_upload: Whether the client knows the project's number and an owner.
    """

    project: str
    is_live: bool
    keep: int = 0
    can_upload: bool = True


def make_app(
    to: str | Path,
    *,
    client: Callable[[], AbstractAsyncContextManager[CohortsClient]],
    access: Access,
    about: About,
    clock: Clock | None = None,
    uploads: Path | None = None,
    most_bytes: int = MOST_BYTES,
) -> tuple[FastAPI, CohortExports]:
    """
    Return the app of the page, and its exports; reads its templates.

    Args:
        to: The folder of the files, or the address of a bucket.
        uploads: The folder of files of ids; None is one beside the exports.
        client: Makes the client, whose hook is `on_event`.
        most_bytes: Of a form with a file of ids.
    """
    exports = CohortExports(to, client=client, clock=clock)
    app = FastAPI(
        lifespan=exports.lifespan,
        openapi_url=None,
        middleware=[Middleware(Guard, access=access)],
    )
    pages = _Pages(exports, access, about)
    writes = Writes(Path(to, "uploads") if uploads is None else uploads)
    forms = _Forms(exports, pages.templates, writes, most_bytes)
    add = app.add_api_route
    html = HTMLResponse
    add("/", pages.index, methods=["GET"], response_class=html)
    add("/session", pages.sign_in, methods=["POST"], response_class=Response)
    add("/fragments/cohorts", pages.cohorts, methods=["GET"], response_class=html)
    add("/fragments/usage", pages.usage, methods=["GET"], response_class=html)
    add("/fragments/plan", pages.plan, methods=["GET"], response_class=html)
    stream = EventSourceResponse
    add("/events", pages.events, methods=["GET"], response_class=stream)
    add("/exports", pages.start, methods=["POST"], response_class=html)
    add("/exports/{export_id}/cancel", pages.cancel, methods=["POST"])
    add("/exports/{export_id}/file", pages.file, methods=["GET"])
    add("/fragments/writes", forms.shown, methods=["GET"], response_class=html)
    add("/fragments/write-forms", forms.forms, methods=["GET"], response_class=html)
    add("/writes", forms.begin, methods=["POST"], response_class=html)
    add("/writes/{write_id}/write", forms.confirm, methods=["POST"])
    add("/writes/{write_id}/discard", forms.discard, methods=["POST"])
    app.mount("/static", StaticFiles(directory=_HERE / "static"))
    install_problems(app)
    app.add_exception_handler(Exception, pages.show_problem)
    app.add_exception_handler(CohortsError, pages.show_problem)
    app.add_exception_handler(ProblemError, pages.show_problem)
    app.add_exception_handler(RequestValidationError, pages.show_problem)

    return app, exports


class _Pages:
    """The routes: a page, its parts, and what its buttons do."""

    def __init__(self, exports: CohortExports, access: Access, about: About) -> None:
        self._exports = exports
        self._access = access
        self.templates = Templates(_HERE / "templates", about=about)
        self._cohorts: dict[str, Cohort | None] = {}
        self._sent = count(1)

    async def index(self, request: Request) -> HTMLResponse:
        """Show the page, or the way in."""
        if not self._access.is_signed_in(request.headers):
            return HTMLResponse(
                self.templates.render("sign_in.html"), HTTPStatus.UNAUTHORIZED
            )

        return HTMLResponse(self.templates.render("index.html", **await self._listed()))

    async def sign_in(self, token: Annotated[str, Form(max_length=200)]) -> Response:
        """Exchange the token for a cookie."""
        if not self._access.is_token(token):
            return Response(status_code=HTTPStatus.FORBIDDEN)

        response = Response(status_code=HTTPStatus.NO_CONTENT)
        response.set_cookie(
            self._access.cookie,
            self._access.session,
            max_age=_SESSION_LIFE,
            httponly=True,
            samesite="strict",
            secure=self._access.is_secure,
        )

        return response

    async def cohorts(self) -> HTMLResponse:
        """List the cohorts to choose from."""
        listed = sorted(await self._list(), key=_order)

        return self._part("cohorts.html", cohorts=listed)

    async def usage(self) -> HTMLResponse:
        """Show the month."""
        worker = self._worker
        usage = await worker.unless_stopped(worker.client.get_usage())

        return self._part("usage.html", usage=usage)

    async def plan(
        self,
        cohort_id: _Chosen = [],  # noqa: B006 - FastAPI copies it
        format: FileFormat = "csv",  # noqa: A002 - the name of the field
        properties: _Flag = "",
    ) -> HTMLResponse:
        """Show what the chosen exports would cost, with the button that starts them."""
        if not cohort_id:
            return self._part("plan.html", plan=None)

        worker = self._worker
        planning = worker.client.plan(cohort_id, properties=bool(properties))
        plan = await worker.unless_stopped(planning)

        return self._part(
            "plan.html",
            plan=plan,
            format=format,
            properties=properties,
            key=secrets.token_urlsafe(16),
        )

    async def start(
        self,
        cohort_id: _Ordered,
        key: Annotated[str, Form(min_length=16, max_length=64)],
        format: Annotated[FileFormat, Form()] = "csv",  # noqa: A002 - as above
        properties: Annotated[_Flag, Form()] = "",
    ) -> HTMLResponse:
        """Start the exports that a form names: the same form again spends none."""
        problem: Problem | None = None
        started = 0

        for each in cohort_id:
            order = ExportOrder(
                cohort_id=each, format=format, properties=bool(properties)
            )
            try:
                await self._worker.start(order, key_occurrence(f"{key}:{each}"))
            except (CohortsError, ProblemError) as error:
                problem = _problem_of(error)
                break
            started += 1

        return self._part(
            "started.html",
            problem=problem,
            started=started,
            wanted=len(cohort_id),
            **await self._listed(),
        )

    async def cancel(self, export_id: str) -> HTMLResponse:
        """Put an export aside."""
        state = await self._worker.cancel(export_id)

        return self._part("cancelled.html", cancelled=state, **await self._listed())

    async def file(self, export_id: str) -> FileResponse:
        """Send the file of an export."""
        state = await self._worker.view.state(export_id)

        return await self._worker.files.answer(state)

    async def events(self) -> AsyncGenerator[ServerSentEvent]:
        """Send the list of exports, and again when it looks different."""
        view = self._worker.view
        told = ""
        await self._learn_names(await view.states())

        async for states in view.snapshots():
            shown = self.templates.render("exports.html", **self._shown(states))
            if shown != told:
                told = shown
                revision = max((each.revision for each in states), default=0)
                # A problem changes what is shown, and the revision of no record.
                number = next(self._sent)
                yield ServerSentEvent(raw_data=shown, id=f"{revision}-{number}")

        # Without it the browser connects again, to the next process.
        if not view.stopping.is_set():
            yield ServerSentEvent(raw_data="", event="end")

    async def show_problem(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        """Show an error where the page shows messages."""
        problem = _problem_of(error)
        headers = {"HX-Retarget": "#problem", "HX-Reswap": "innerHTML"}
        if problem.retry_after is not None:
            headers["Retry-After"] = str(problem.retry_after)

        return HTMLResponse(
            self.templates.render("problem.html", problem=problem),
            problem.status,
            headers,
        )

    @property
    def _worker(self) -> Worker:
        return worker_of(self._exports)

    async def _list(self) -> list[Cohort]:
        worker = self._worker
        listed = await worker.unless_stopped(worker.client.list_cohorts())
        self._cohorts |= {each.id: each for each in listed}

        return listed

    async def _learn_names(self, states: list[ExportState]) -> None:
        """Read the names of cohorts that were exported before this process began."""
        unknown = {each.cohort_id for each in states} - self._cohorts.keys()

        if unknown:
            with suppress(CohortsError, ProblemError):
                await self._list()
            # Of those that are in no list any more, it is not asked again.
            self._cohorts = dict.fromkeys(unknown) | self._cohorts

    async def _listed(self) -> dict[str, object]:
        return self._shown(await self._worker.view.states())

    def _shown(self, states: list[ExportState]) -> dict[str, object]:
        view = self._worker.view

        return {
            "cards": cards_of(view, states, self._cohorts, downloads),
            "now": datetime.now(UTC),
        }

    def _part(self, name: str, **values: object) -> HTMLResponse:
        return HTMLResponse(self.templates.render(name, **values))


class _Forms:
    """The routes of the forms with a file: what they check, and then write."""

    def __init__(
        self,
        exports: CohortExports,
        templates: Templates,
        writes: Writes,
        most_bytes: int,
    ) -> None:
        self._exports = exports
        self._templates = templates
        self._writes = writes
        self._most_bytes = most_bytes

    async def shown(self, of: str = "") -> HTMLResponse:
        """Show the writes; *of* names the process that a page saw them of."""
        has_restarted = of not in {"", self._writes.instance}

        return self._part("writes.html", has_restarted=has_restarted)

    async def forms(self) -> HTMLResponse:
        """Show empty forms, with a key of their own each."""
        return self._part("write_forms.html")

    async def begin(self, request: Request) -> HTMLResponse:
        """Check what a form asks for: the same form again does nothing more."""
        worker = worker_of(self._exports)
        receiving = receive(
            request.stream(),
            request.headers.get("content-type", ""),
            self._writes.folder,
            most=self._most_bytes,
        )
        received = await worker.unless_stopped(receiving)
        await self._writes.begin(worker, received)

        return self._part("write_begun.html", has_restarted=False)

    async def confirm(
        self, write_id: str, removals: Annotated[str, Form(max_length=20)] = ""
    ) -> HTMLResponse:
        """Write what was checked."""
        self._writes.confirm(write_id, removals)

        return self._part("writes.html", has_restarted=False)

    async def discard(self, write_id: str) -> HTMLResponse:
        """Give up what was checked."""
        await self._writes.discard(write_id)

        return self._part("writes.html", has_restarted=False)

    def _part(self, name: str, **values: object) -> HTMLResponse:
        html = self._templates.render(
            name, writes=self._writes.shown(), of=self._writes, **values
        )

        return HTMLResponse(html)


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        return _INVALID

    return problem_of_any(error)


def _order(cohort: Cohort) -> tuple[str, str]:
    return (cohort.name or "").casefold(), cohort.id
