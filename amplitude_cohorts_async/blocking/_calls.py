"""
One call: a task in the loop, and the thread that waits for it.

The thread runs what the call needs of it meanwhile: the caller's iterables and
callbacks. Whatever is raised in it, Ctrl-C above all, cancels the task, waits for its
end, and takes the notes of the cancellation along, which hold the token of an export.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import ParamSpec, Self, TypeVar, cast

import attrs

from .._io.progress import draw_dispatcher
from ..events import Event, EventHook, TracingHook
from ._portal import Portal

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_logger = logging.getLogger(__name__)

_WAKE_SECONDS = 0.1 if sys.platform == "win32" else None
"""A thread of Windows that waits for a lock hears of Ctrl-C when it wakes up."""

_KEPT_EVENTS = 10_000
"""Events kept for the next call, while no thread is in one."""

_TOKEN = "an export was requested; resume_export() goes on with it: "  # noqa: S105


@attrs.frozen
class ThreadTask:
    """What a call needs of its thread: `refuse` instead of `run` after Ctrl-C."""

    run: Callable[[], object]
    refuse: Callable[[], object]


class Call:
    """A call of one thread; made and waited for there, and run in the loop."""

    def __init__(self, portal: Portal, relay: HookRelay | None = None) -> None:
        self._portal = portal
        self._relay = relay
        # None wakes the thread: the call has ended.
        self._thread_tasks: SimpleQueue[ThreadTask | None] = SimpleQueue()
        self._work: Callable[[], Awaitable[object]] | None = None
        self._task: asyncio.Task[object] | None = None
        self._error: BaseException | None = None
        self.result: object = None
        self.has_ended: bool = False

    def run(
        self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what an async function returns in the loop."""
        return self.run_with(self._start, lambda: function(*args, **kwargs))

    def run_sync(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what a plain function returns in the loop."""

        async def call() -> T:
            """Call it there."""
            return function(*args, **kwargs)

        return self.run(call)

    def run_with(
        self, start: Callable[[Call], None], work: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what *work* returns, once *start* has the loop `execute()` this call."""
        results: list[T] = []

        async def kept() -> T:
            """Keep the result with its type."""
            results.append(await work())
            return results[0]

        self._work = kept
        self._wait(start)

        try:
            if self._error is not None:
                raise self._error
        finally:
            # A traceback that holds the call would hold itself.
            self._error = None

        return results[0]

    async def execute(self) -> None:
        """Do the work, in a task of the loop that may go on after it."""
        task, work = asyncio.current_task(), self._work

        if task is None or work is None:
            return  # withdrawn before it was begun

        self._task = task
        tokens = _current.set(self), draw_dispatcher.set(self._draw)
        if self._relay is not None:
            self._relay.calls.append(self)

        try:
            self.result = await work()
        except BaseException as error:  # noqa: BLE001 - raised in the thread
            self._error = _without_own_frames(error)

        _current.reset(tokens[0])
        draw_dispatcher.reset(tokens[1])
        if self._relay is not None:
            self._relay.calls.remove(self)
        while task.cancelling():
            task.uncancel()

        self._end()

    def in_thread(self, task: ThreadTask) -> None:
        """Let the thread of the call run something."""
        self._thread_tasks.put(task)

    async def ask(self, function: Callable[[], R]) -> R:
        """Return what a function returns in the thread of the call."""
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()
        results: list[R] = []
        errors: list[BaseException] = []

        def run() -> None:
            """Run it there; what is no `Exception` interrupts the call."""
            try:
                results.append(function())
            except Exception as error:  # noqa: BLE001 - raised in the loop
                errors.append(error)
            loop.call_soon_threadsafe(answered.set)

        def refuse() -> None:
            """Go on without an answer."""
            errors.append(asyncio.CancelledError())
            loop.call_soon_threadsafe(answered.set)

        self.in_thread(ThreadTask(run, refuse))
        await answered.wait()

        if errors:
            raise errors.pop()

        return results.pop()

    def _draw(self, draw: Callable[[], None]) -> None:
        call = self._relay.call_for(self) if self._relay else self

        if call is not None:
            call.in_thread(ThreadTask(draw, draw))

    def _start(self, call: Call) -> None:
        async def run_alone() -> None:
            """Run it in a task of its own."""
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - for the type checkers
            self._portal.working(task)
            await call.execute()

        self._portal.start(run_alone)

    def _wait(self, start: Callable[[Call], None]) -> None:
        self._portal.check()

        if self._relay is not None:
            self._relay.tell_kept()

        try:
            start(self)
            # Its end comes last.
            while (task := self._next()) is not None:
                task.run()
        except BaseException as error:
            self._interrupt(error)
            raise

    def _next(self) -> ThreadTask | None:
        while True:
            try:
                return self._thread_tasks.get(timeout=_WAKE_SECONDS)
            except Empty:
                pass

    def _interrupt(self, error: BaseException) -> None:
        """Cancel the call, wait for its end, and give *error* its notes."""
        # Comes to the loop after what has started the call, if anything has. A second
        # Ctrl-C leaves here, and the call ends by itself.
        if not self.has_ended:
            self._portal.start(self._withdraw)

        while not self.has_ended:
            self._refuse(self._next())

        # What came right before the end, as an event, or the end of a bar.
        with suppress(Empty):
            while True:
                self._refuse(self._thread_tasks.get_nowait())

        for note in self._notes():
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        self._error = None

    @staticmethod
    def _refuse(task: ThreadTask | None) -> None:
        if task is not None:
            task.refuse()

    def _withdraw(self) -> None:
        if self.has_ended:
            return

        if self._task is None:
            self._end()
        else:
            self._task.cancel()

    def _end(self) -> None:
        self._work = self._task = None
        self.has_ended = True

        if not self._portal.is_stopping:
            # Or the process ends, and with it, silently, the threads that still wait.
            self._thread_tasks.put(None)

    def _notes(self) -> list[str]:
        # What was called may have ended just now, with a job or an error.
        tokens = [getattr(each, "token", None) for each in (self.result, self._error)]

        return [
            *getattr(self._error, "__notes__", ()),
            *(f"{_TOKEN}{token}" for token in tokens if isinstance(token, str)),
        ]


def _without_own_frames(error: BaseException) -> BaseException:
    """
    Return an error whose traceback begins in what was called, not in this package.

    The caller's frames come before it. Its cause, and all later frames, are kept.
    """
    trace = error.__traceback__

    while (
        trace is not None
        and trace.tb_next is not None
        and trace.tb_frame.f_globals.get("__package__") == __package__
    ):
        trace = trace.tb_next

    return error.with_traceback(trace)


_current: ContextVar[Call | None] = ContextVar("call", default=None)


class HookRelay:
    """
    Passes events of the loop to a hook, in the threads of calls.

    An event goes to the call that it is about; if that has ended, to any other, or it
    is kept for the next one.
    """

    def __init__(self, hook: EventHook | None) -> None:
        self._hook = hook
        self._kept: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self.calls: list[Call] = []

    @classmethod
    def of(cls, hook: object) -> Self:
        """Return the relay of a keyword, which the client in the loop checks."""
        return cls(cast("EventHook | None", hook))

    @property
    def hook(self) -> EventHook | None:
        """
        What the client in the loop calls.

        A `TracingHook` itself, which needs the context of the task: the present span is
        a context variable, and the task of a call began with those of its thread.
        """
        if self._hook is None or isinstance(self._hook, TracingHook):
            return self._hook

        return self._heard

    def call_for(self, call: Call | None) -> Call | None:
        """Return a call, or another one if it has ended."""
        if call is not None and not call.has_ended:
            return call

        return self.calls[-1] if self.calls else None

    def tell_kept(self) -> None:
        """Pass on what was kept; called in the thread of a call."""
        # Another thread may do the same.
        with suppress(IndexError):
            while True:
                self._tell(self._kept.popleft())

    def _heard(self, event: Event, /) -> None:
        call = self.call_for(_current.get())

        if call is None:
            self._kept.append(event)
            return

        def tell() -> None:
            """Tell it in the thread, after Ctrl-C, too: it has happened."""
            self._tell(event)

        call.in_thread(ThreadTask(tell, tell))

    def _tell(self, event: Event) -> None:
        assert self._hook is not None  # noqa: S101 - or nothing would be heard

        try:
            self._hook(event)
        except Exception:
            # As `Context.emit()` does.
            _logger.warning("event hook failed", exc_info=True)
