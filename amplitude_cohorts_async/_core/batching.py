"""
Checks of the ids of members, and batches of them.

The caller passes some hundred ids at a time and lets other tasks run in between;
nothing here takes longer than a few milliseconds.
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

# Ids in one request, and members of one cohort.
# Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
MOST_IDS = 100_000
MOST_MEMBERS = 2_000_000

# The page's ways out for larger ones.
LARGER_COHORTS = (
    "split them into cohorts, or sync a larger cohort from Amplitude to Amazon Kinesis, "
    "to a webhook or to the Profile API, see "
    "https://amplitude.com/docs/apis/analytics/behavioral-cohorts"
)

MOST_CHARACTERS = 1_024

# Ids handled in one call: a millisecond of work.
IDS_AT_ONCE = 500

_SHOWN = 40
_FORBIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# The page's own example has letters at the end, "10101010101010ID1", so only what is
# surely of another kind is refused: a name, an address, a UUID.
_AMPLITUDE_ID = re.compile("[0-9][0-9A-Za-z]*")
_HINTS: dict[type, str] = {
    float: "a float may have lost digits already (a missing value makes floats of a "
    "column of numbers): read the column as text",
    bytes: "decode it first",
}


@attrs.frozen(kw_only=True)
class Batch:
    """
    The ids of one request; `index` is its position in the write, from 0.

    Attributes:
        digest: SHA-256 of the ids, each followed by a newline, in hex.
        pieces: The inside of a JSON array of the ids, in pieces.
    """

    index: int
    count: int
    digest: str
    pieces: Sequence[bytes] = attrs.field(repr=False)


def checked_member_ids(
    ids: Sequence[object], *, position: int = 0, amplitude: bool = False
) -> list[str]:
    """
    Return *ids* as text; whole numbers become their decimal digits.

    Raises `InvalidInputError` for an id that is empty, too long, of another type, or
    holds a line break, a control character or half a surrogate pair; with *amplitude*,
    also for what cannot be Amplitude's own id. The message counts on from *position*.
    """
    if set(map(type, ids)) <= {str}:
        texts = list[str](ids)  # type: ignore[arg-type]  # checked in the line above
    else:
        texts = [_as_text(id_, position + n) for n, id_ in enumerate(ids, 1)]

    # All ids at once, in C; each single one only if any is suspicious.
    if (
        "" in texts
        or not "".join(texts).isprintable()
        or any(map(str.isspace, texts))
        or max(map(len, texts), default=0) > MOST_CHARACTERS
    ):
        for n, text in enumerate(texts, 1):
            _check(text, position + n)

    # All at once, in C, as above.
    if amplitude and not ((joined := "".join(texts)).isascii() and joined.isdecimal()):
        for n, text in enumerate(texts, 1):
            _check_amplitude_id(text, position + n)

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

    hint = _HINTS.get(type(value), "pass it as text")

    raise InvalidInputError(
        f"id number {position} is a {type(value).__name__}, not a str or int; {hint}"
    )


def _is_missing(value: object) -> bool:
    # pandas.NA and NaT are recognised by name, so that pandas is not imported.
    return (
        value is None
        or type(value).__name__ in {"NAType", "NaTType"}
        or (isinstance(value, float) and math.isnan(value))
    )


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


def _check_amplitude_id(text: str, position: int) -> None:
    if not _AMPLITUDE_ID.fullmatch(text):
        raise InvalidInputError(
            f"id number {position} is {text[:_SHOWN]!r}, and an Amplitude id is a "
            f"number, as in 356896327775; pass id_type=IdType.USER_ID for ids of yours"
        )


class Batcher:
    """Cuts a stream of ids into batches, and encodes them; *first* ids come first."""

    def __init__(self, *, size: int, first: int | None = None) -> None:
        self._size = size
        self._room = size if first is None else first
        self._index = 0
        self._begin()

    def feed(self, ids: Sequence[str]) -> Iterator[Batch]:
        """Yield the batches that these ids fill."""
        while ids:
            free = self._room - self._count
            self._add(ids[:free])
            ids = ids[free:]

            if self._count == self._room:
                yield self._end()

    def flush(self) -> Iterator[Batch]:
        """Yield the last batch, if any id is left."""
        if self._count:
            yield self._end()

    def _begin(self) -> None:
        self._count = 0
        self._pieces: list[bytes] = []
        self._hash = hashlib.sha256()

    def _add(self, ids: Sequence[str]) -> None:
        # Encoded piece by piece: one call for 100,000 ids would hold the loop for
        # 10 ms, in a worker thread too.
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
        self._room = self._size
        self._begin()

        return batch
