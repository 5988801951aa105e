"""
Progress bars of long calls, for ``progress=True``.

A bar shows the events of its call: of the tasks that the call has begun.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from functools import partial
from typing import TypeVar

import anyio.to_thread
import attrs

from ..errors import InvalidInputError
from ..events import (
    BatchWritten,
    BytesReceived,
    Event,
    ExportAdopted,
    ExportRequested,
    LinkRenewed,
    QuotaWait,
    RetryScheduled,
    StatusPolled,
)
from ..models import ExportOutcome
from .context import listening
from .progress_libraries import (
    BYTES,
    BarState,
    MakeRenderer,
    Renderer,
    installed_library,
    load_renderer,
)

T = TypeVar("T")

_logger = logging.getLogger(__name__)

Progress = Callable[[BytesReceived], None]
"""Called with the bytes of a file that were received."""

_IDS = " ids"
_EXPORTS = " exports"

_ESTIMATE = "usually 30 to 60 s"
_ESTIMATE_SECONDS = 60.0
"""What others have seen of a job; the vendor does not say how long one takes."""

_REFRESH_SECONDS = 0.5
"""How often a bar shows the time while there are no events."""


def _draw_here(draw: Callable[[], None]) -> None:
    draw()


draw_dispatcher: ContextVar[Callable[[Callable[[], None]], None]] = ContextVar(
    "draw_dispatcher", default=_draw_here
)
"""Lets a bar be drawn: at once, or in the thread of a blocking call."""


class ProgressBar:
    """
    The bar of one call.

    It never fails its call: an error while it is drawn is logged, and ends the drawing.

    Attributes:
        rows: Returns how many members were read; None where that is not known.
    """

    def __init__(
        self, name: str, *, total: Callable[[], int | None] | None = None
    ) -> None:
        """
        Choose the library; nothing is drawn before `start()`.

        Args:
            name: What the call is about, as in "cohort 26umsb5".
            total: For a bar that counts exports: returns how many there are, or None.
                Without it bytes are counted, or ids.

        Raises:
            MissingExtraError: Neither tqdm nor rich is installed.
        """
        self.rows: Callable[[], int] | None = None
        self._name = name
        self._total = total
        self._state = BarState(name, unit=BYTES if total is None else _EXPORTS)
        self._drawn: BarState | None = None
        self._ids = 0
        self._cohorts: dict[str, str] = {}
        self._library = installed_library()
        self._make: MakeRenderer | None = None
        self._renderer: Renderer | None = None
        self._is_closed = False
        # Several threads may draw, where they share a blocking client.
        self._lock = threading.Lock()

    async def load(self) -> None:
        """Import the library, in a thread: it reads files."""
        if self._make is None:
            self._make = await anyio.to_thread.run_sync(load_renderer, self._library)

    def start(self) -> None:
        """Show what the call is about."""
        self._dispatch(self._draw)

    def __call__(self, event: Event, /) -> None:
        """Show an event."""
        self._dispatch(partial(self._on_event, event))

    def count(self, outcome: ExportOutcome) -> None:
        """Count an export that has ended."""
        self._dispatch(partial(self._on_outcome, outcome))

    def refresh(self) -> None:
        """Show the time that has passed, and the rows that were read."""
        self._dispatch(self._refresh)

    def close(self) -> None:
        """Leave the bar as it is; nothing is drawn any more."""
        self._dispatch(self._close)

    def _dispatch(self, draw: Callable[[], None]) -> None:
        draw_dispatcher.get()(partial(self._draw_safely, draw))

    def _draw_safely(self, draw: Callable[[], None]) -> None:
        with self._lock:
            if self._is_closed:
                return

            try:
                draw()
            except Exception:
                _logger.warning("a progress bar could not be drawn", exc_info=True)
                self._is_closed, self._renderer = True, None

    def _on_event(self, event: Event) -> None:
        match event:
            case BytesReceived(received=received, total=total):
                if self._total is None:
                    self._set_count(received, total, BYTES)
                    self._describe("")
            case BatchWritten(operation=operation, ids=ids):
                self._ids += ids
                self._set_count(self._ids, None, _IDS)
                self._describe(f"{operation}, written")
            case RetryScheduled(operation=operation, seconds=seconds):
                self._describe(f"{operation} failed, tried again in {seconds:.0f} s")
            case QuotaWait(cohort_id=cohort_id, seconds=seconds):
                self._describe(f"waits {seconds:.0f} s for the limits", cohort_id)
            case ExportRequested(cohort_id=cohort_id, request_id=request_id):
                self._cohorts[request_id] = cohort_id
                self._describe(f"requested, {_ESTIMATE}", cohort_id)
            case ExportAdopted(cohort_id=cohort_id, request_id=request_id):
                self._cohorts[request_id] = cohort_id
                self._describe("goes on with an earlier export", cohort_id)
            case StatusPolled(request_id=request_id):
                self._describe(_status_text(event), self._cohorts.get(request_id, ""))
            case LinkRenewed(request_id=request_id, reason=reason):
                text = f"{reason}; goes on with a new link"
                self._describe(text, self._cohorts.get(request_id, ""))
            case _:
                pass

    def _on_outcome(self, outcome: ExportOutcome) -> None:
        self._set_count(self._state.completed + 1, None, _EXPORTS)
        self._describe(
            "saved" if outcome.error is None else "failed", outcome.cohort_id
        )

    def _set_count(self, completed: int, total: int | None, unit: str) -> None:
        self._state = attrs.evolve(
            self._state, completed=completed, total=total, unit=unit
        )

    def _describe(self, text: str, cohort_id: str = "") -> None:
        counts_exports = self._total is not None
        name = f"cohort {cohort_id}" if counts_exports and cohort_id else self._name
        description = ": ".join(filter(None, [name, _printable(text)]))
        self._state = attrs.evolve(self._state, description=description)
        self._draw()

    def _draw(self) -> None:
        if self._make is None:
            return

        rows = self.rows() if self.rows else 0
        parts = [self._state.description, f"{rows:,} members" if rows else ""]
        state = attrs.evolve(self._state, description=": ".join(filter(None, parts)))
        if self._total is not None:
            state = attrs.evolve(state, total=self._total())

        if self._renderer is None:
            self._renderer = self._make(state)
        elif state != self._drawn:
            self._renderer.update(state)

        self._drawn = state

    def _refresh(self) -> None:
        self._draw()
        if self._renderer is not None:
            self._renderer.refresh()

    def _close(self) -> None:
        self._draw()
        if self._renderer is not None:
            self._renderer.close()

        self._is_closed, self._renderer = True, None


def progress_bar(
    progress: object, name: str, *, total: Callable[[], int | None] | None = None
) -> ProgressBar | None:
    """Return the bar that ``progress=True`` asks for; None if it is False."""
    if not isinstance(progress, bool):
        raise InvalidInputError(
            f"progress= was given as {type(progress).__name__}; pass True for a bar, "
            f"or, where a file is downloaded, a function"
        )

    return ProgressBar(name, total=total) if progress else None


def callback_or_bar(
    progress: Progress | bool | None, name: str
) -> tuple[Progress | None, ProgressBar | None]:
    """Return the callback that *progress* is, or the bar that it asks for."""
    if progress is None or callable(progress):
        return progress, None

    return None, progress_bar(progress, name)


@asynccontextmanager
async def displayed(bar: ProgressBar | None) -> AsyncGenerator[None]:
    """Display what is done inside; close the bar then."""
    async with _opened(bar):
        with _subscribed(bar):
            yield


@asynccontextmanager
async def displayed_stream(
    bar: ProgressBar | None, stream: AbstractAsyncContextManager[T]
) -> AsyncGenerator[T]:
    """
    Enter a stream, and display it until it is left.

    Calls that are made meanwhile are not shown: only the tasks of the stream.
    """
    async with _opened(bar), AsyncExitStack() as stack:
        with _subscribed(bar):
            value = await stack.enter_async_context(stream)

        yield value


async def displayed_step(
    bar: ProgressBar, step: Callable[[], Awaitable[ExportOutcome | None]]
) -> ExportOutcome | None:
    """Return the next outcome, counted; the bar is closed after the last, or an error."""
    try:
        async with _refreshed(bar):
            with _subscribed(bar):
                outcome = await step()
    except BaseException:
        bar.close()
        raise

    if outcome is None:
        bar.close()
    else:
        bar.count(outcome)

    return outcome


async def displayed_outcomes(
    bar: ProgressBar, outcomes: AsyncGenerator[ExportOutcome]
) -> AsyncGenerator[ExportOutcome]:
    """Yield outcomes, and display what is done for them."""

    async def step() -> ExportOutcome | None:
        """Return the next one."""
        return await anext(outcomes, None)

    try:
        while (outcome := await displayed_step(bar, step)) is not None:
            yield outcome
    finally:
        bar.close()
        await outcomes.aclose()


@asynccontextmanager
async def _opened(bar: ProgressBar | None) -> AsyncGenerator[None]:
    if bar is None:
        yield
        return

    try:
        async with _refreshed(bar):
            yield
    finally:
        bar.close()


@asynccontextmanager
async def _refreshed(bar: ProgressBar) -> AsyncGenerator[None]:
    """Show the time while something is done inside."""
    await bar.load()
    bar.start()
    refreshing = asyncio.create_task(_refresh(bar))

    try:
        yield
    finally:
        refreshing.cancel()


async def _refresh(bar: ProgressBar) -> None:
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        bar.refresh()


@contextmanager
def _subscribed(bar: ProgressBar | None) -> Generator[None]:
    """Pass the events of what is begun inside to a bar."""
    if bar is None:
        yield
        return

    token = listening.set(bar)

    try:
        yield
    finally:
        listening.reset(token)


def _status_text(event: StatusPolled) -> str:
    is_usual = event.next_poll is not None and event.elapsed < _ESTIMATE_SECONDS

    return event.word.lower() + (f", {_ESTIMATE}" if is_usual else "")


def _printable(text: str) -> str:
    # Words of a service may hold what moves a terminal's cursor.
    return "".join(char if char.isprintable() else " " for char in text)
