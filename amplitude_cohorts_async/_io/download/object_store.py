"""What the store answers to a link, and whether it may be used."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from ..._core.links import Part, link_target, part_of
from ..._core.responses import retry_after
from ...errors import TransportError
from ..http.streamed_response import StreamedResponse
from ..sinks.disk_writer import Taker
from .link_refresh import DownloadState, LinkFailed, ObjectChanged

_MOVED = frozenset({301, 302, 303, 307, 308})
_REDIRECTS = 3
_SLOW_DOWN = frozenset({429, 500, 502, 503, 504})
_STORE_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


@asynccontextmanager
async def open_object(
    state: DownloadState, link: str, headers: dict[str, str]
) -> AsyncGenerator[StreamedResponse]:
    """
    Follow a link to an answer with bytes of the object in it: 200 or 206.

    Raises:
        ObjectChanged: The object is not the one that the headers ask for.

        LinkFailed: The store refuses, or cannot be reached.
    """
    for _ in range(_REDIRECTS + 1):
        try:
            async with state.transport.fetch(link, headers) as answer:
                if answer.status not in _MOVED:
                    await _check(state, answer)
                    yield answer
                    return

                location = answer.headers.get("location")
                show = state.transport.redactor.url
                link = link_target(link, location, show=show)
        except TransportError as error:
            raise LinkFailed(str(error), pause=None) from None

    raise LinkFailed("the store redirects in circles", pause=None)


def range_headers(etag: str, start: int, end: int | None = None) -> dict[str, str]:
    """
    Ask for a part of the object that has this tag, and of no other.

    Args:
        end: The position behind the last byte; None for the rest.
    """
    last = "" if end is None else end - 1

    # If-Range would do in theory; in practice no store minds a wrong one.
    return {"Range": f"bytes={start}-{last}", "If-Match": etag}


def checked_part(
    answer: StreamedResponse, *, etag: str, start: int, total: int | None
) -> Part:
    """
    Return which part of the object an answer holds: the one that was asked for.

    Raises:
        ObjectChanged: It is another part, or of another object.
    """
    part = part_of(answer.status, answer.headers)

    if (
        answer.status != 206  # noqa: PLR2004 - all of it, to whom asked for less
        or part is None
        or part.start != start
        or not etag
        or answer.headers.get("etag") != etag
        or (total is not None and part.total not in {total, None})
    ):
        raise ObjectChanged("the store sent another part, or another file")

    return part


async def pour(
    answer: StreamedResponse, taker: Taker, tally: Callable[[int], None]
) -> None:
    """
    Give the body of an answer to a taker.

    Raises:
        LinkFailed: The connection broke, or stood still for too long.
    """
    try:
        await answer.pour(taker, tally)
    except TransportError as error:
        raise LinkFailed(str(error)) from None


def strong(etag: str | None) -> str:
    """
    Return a tag that proves two objects the same, byte for byte; "" for any other.
    """
    return etag if etag is not None and etag.startswith('"') else ""


async def _check(state: DownloadState, answer: StreamedResponse) -> None:
    if answer.status in {200, 206}:
        return

    if answer.status in {412, 416}:
        raise ObjectChanged("the file changed in the store")

    code = _STORE_CODE.search(await state.transport.glance(answer))
    said = f" ({code[1].decode()})" if code else ""
    asked = retry_after(answer.headers, now=state.context.clock.utcnow())
    pause = None if answer.status in _SLOW_DOWN else 0.0

    if asked is not None:
        pause = min(asked, state.context.retrying.max_retry_after)

    raise LinkFailed(f"the store answered {answer.status}{said}", pause=pause)
