"""The caller's iterables and callbacks, as a client in the loop takes them."""

from __future__ import annotations

import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from functools import partial
from inspect import iscoroutinefunction
from typing import TypeAlias, cast

import attrs

from .. import _id_source
from .._exports.downloader import checked_progress
from .._io.progress import Progress
from .._writes.id_stream import IdFile, ids_of, slices_of
from .._writes.writer import OnSkipped as AsyncOnSkipped
from ..errors import ConfigurationError, InvalidInputError
from ..events import BytesReceived
from ..models import MembershipOperation
from ._calls import Call, ThreadTask

IdSource: TypeAlias = Iterable[str | int] | os.PathLike[str]
"""An iterable of ids, or the path of a file with one id a line."""

OnSkipped: TypeAlias = Callable[[Sequence[str]], None]
"""Called with the ids that a batch skipped, as soon as they are known."""

_IDS_AT_ONCE = 10_000

_PLAIN = (list, tuple, set, frozenset)
"""What runs no code of the caller's when it is iterated."""


def ids_in(call: Call, source: IdSource | None) -> _id_source.IdSource:
    """Return ids that are read in the thread of a call."""
    if source is None or isinstance(source, (os.PathLike, IdFile)):
        return cast("_id_source.IdSource", source)

    if isinstance(source, AsyncIterable):
        raise InvalidInputError(
            f"ids were given as {type(source).__name__}, an async iterable, which a "
            f"blocking client cannot read; pass an iterable, or the path of a file"
        )

    ids = ids_of(source)

    if type(source) in _PLAIN:
        return source

    return attrs.evolve(ids, open=partial(_slices, call, source))


async def _slices(
    call: Call, source: Iterable[object]
) -> AsyncGenerator[Sequence[object]]:
    parts = slices_of(source, _IDS_AT_ONCE)

    while part := await call.ask(partial(next, parts, ())):
        yield part


def operations_in(
    call: Call, operations: Iterable[MembershipOperation] | None
) -> list[MembershipOperation] | None:
    """Return operations whose ids are read in the thread of a call."""
    if operations is None:
        return None

    return [
        attrs.evolve(each, ids=ids_in(call, cast("IdSource", each.ids)))
        # Anything else is refused by the client.
        if isinstance(each, MembershipOperation)
        else each
        for each in operations
    ]


def progress_in(call: Call, progress: Progress | bool | None) -> Progress | bool | None:
    """Return a callback that is called in the thread of a call; nobody waits for it."""
    if progress is None or isinstance(progress, bool):
        return progress  # a bar is drawn there anyway

    checked_progress(progress)
    function: Callable[[BytesReceived], object] = progress

    def tell(event: BytesReceived) -> None:
        """Tell it in the thread; what it raises there ends the call."""
        _check_plain("progress=", function(event))

    return lambda event: call.in_thread(
        ThreadTask(partial(tell, event), refuse=_nothing)
    )


def skipped_in(call: Call, on_skipped: OnSkipped | None) -> AsyncOnSkipped | None:
    """Return a callback that is called in the thread of a call, and waited for."""
    if on_skipped is None:
        return None

    if iscoroutinefunction(on_skipped):
        raise InvalidInputError(
            "on_skipped= is an async function, which a blocking client cannot await; "
            "pass a plain one"
        )

    function: Callable[[Sequence[str]], object] = on_skipped

    async def told(ids: Sequence[str]) -> None:
        """Tell the ids in the thread."""
        await call.ask(lambda: _check_plain("on_skipped=", function(ids)))

    return told


def refuse_session(session: object) -> None:
    """Raise `ConfigurationError` if the caller passes an aiohttp session."""
    if session is not None:
        raise ConfigurationError(
            "session= belongs to an event loop of yours, and a blocking client has one "
            "of its own; pass proxy= for a proxy, or use the async client"
        )


def _check_plain(name: str, result: object) -> None:
    if isinstance(result, Awaitable):
        if isinstance(result, Coroutine):
            result.close()
        raise InvalidInputError(
            f"{name} returned an awaitable, and is called without await; pass a plain "
            f"function"
        )


def _nothing() -> None:
    pass
