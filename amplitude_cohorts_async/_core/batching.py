"""
Ids into batches: what may be an id, and where a batch ends.

The caller hands over some hundred ids at a time and lets other tasks run in
between; nothing here takes longer than a few milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from numbers import Integral

import attrs

from ..errors import InvalidInputError

MOST_IDS = 100_000
"""
Ids in one request.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

MOST_MEMBERS = 2_000_000
"""
Members of one cohort.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

MOST_CHARACTERS = 1_024

SLICE = 500
"""Ids handled in one go: a millisecond of work."""

_SHOWN = 40
_FORBIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MISSING = {"NAType", "NaTType"}


@attrs.frozen(kw_only=True)
class Batch:
    """
    The ids of one request.

    Attributes:
        index: Its place in the write, counted from 0.

        count: How many ids.

        digest: SHA-256 of the ids, each followed by a newline, in hex.

        pieces: The inside of a JSON array of the ids, in pieces.
    """

    index: int
    count: int
    digest: str
    pieces: Sequence[bytes] = attrs.field(repr=False)


def checked_ids(ids: Sequence[object], *, position: int = 0) -> list[str]:
    """
    Return *ids* as text.

    Args:
        ids: Text or whole numbers; a number is sent as its decimal digits.

        position: How many ids came before these, for the message.

    Raises:
        InvalidInputError: One is empty, over-long, of another type, or holds
            a line break, a control character or half a surrogate pair.
    """
    if set(map(type, ids)) <= {str}:
        texts = list[str](ids)  # type: ignore[arg-type]  # asked for just above
    else:
        texts = [_as_text(id_, position + n) for n, id_ in enumerate(ids, 1)]

    # All ids at once, in C; each of them is looked at only if one is suspicious.
    suspicious = (
        "" in texts
        or not "".join(texts).isprintable()
        or any(map(str.isspace, texts))
        or max(map(len, texts), default=0) > MOST_CHARACTERS
    )

    if suspicious:
        for n, text in enumerate(texts, 1):
            _check(text, position + n)

    return texts


def _as_text(value: object, position: int) -> str:
    if isinstance(value, str):
        return str(value)

    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))

    if _is_missing(value):
        raise InvalidInputError(
            f"id number {position} is missing ({value!r}); leave out what has no id"
        )

    hints: dict[type, str] = {
        float: "a float may have lost digits already: read the column as text",
        bytes: "decode it first",
    }
    hint = hints.get(type(value), "pass it as text")

    raise InvalidInputError(
        f"id number {position} is a {type(value).__name__}, not a str or int; {hint}"
    )


def _is_missing(value: object) -> bool:
    # pandas.NA and NaT are recognised by name, so that pandas is not needed here.
    if value is None or type(value).__name__ in _MISSING:
        return True

    return isinstance(value, float) and math.isnan(value)


def _check(text: str, position: int) -> None:
    if not text or text.isspace():
        raise InvalidInputError(
            f"id number {position} is empty; leave out what has no id"
        )

    if len(text) > MOST_CHARACTERS:
        raise InvalidInputError(
            f"id number {position} has {len(text):,} characters, more than "
            f"{MOST_CHARACTERS:,}: {text[:_SHOWN]!r}...; is this one id a line?"
        )

    if _FORBIDDEN.search(text):
        raise InvalidInputError(
            f"id number {position} holds a line break or a control character: "
            f"{text[:_SHOWN]!r}; pass one id at a time"
        )


class Batcher:
    """Cuts a stream of ids into batches, encoding as it goes."""

    def __init__(self, *, size: int) -> None:
        self._size = size
        self._index = 0
        self._begin()

    def feed(self, ids: Sequence[str]) -> Iterator[Batch]:
        """Yield the batches that more ids fill."""
        while ids:
            room = self._size - self._count
            self._take(ids[:room])
            ids = ids[room:]

            if self._count == self._size:
                yield self._end()

    def flush(self) -> Iterator[Batch]:
        """Yield the last batch, if any id is left."""
        if self._count:
            yield self._end()

    def _begin(self) -> None:
        self._count = 0
        self._pieces: list[bytes] = []
        self._hash = hashlib.sha256()

    def _take(self, ids: Sequence[str]) -> None:
        # The commas between pieces are written by hand: one call for 100,000
        # ids would hold the loop for 10 ms, in a thread as well.
        comma = "," if self._pieces else ""
        self._pieces.append(
            f"{comma}{json.dumps(ids, separators=(',', ':'))[1:-1]}".encode()
        )
        self._hash.update("".join(f"{id_}\n" for id_ in ids).encode())
        self._count += len(ids)

    def _end(self) -> Batch:
        batch = Batch(
            index=self._index,
            count=self._count,
            digest=self._hash.hexdigest(),
            pieces=self._pieces,
        )
        self._index += 1
        self._begin()

        return batch
