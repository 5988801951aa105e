"""
What can go wrong, as values to queue: `emulator.fail_next("file", ...)`.

A fault is used up by one request. Two faults of the same request are joined
with ``|``: ``changed() | ignores_conditions()``.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import attrs

__all__ = (
    "STEPS",
    "Fault",
    "FaultQueue",
    "Step",
    "bad_rows",
    "broken",
    "changed",
    "corrupt",
    "cut_off",
    "edited",
    "grown",
    "hang",
    "html",
    "ignores_conditions",
    "ignores_range",
    "job_failed",
    "link_expired",
    "lost_answer",
    "never_ends",
    "refused",
    "shrunk",
    "slow",
    "stalled",
    "throttled",
    "torn",
    "with_header",
    "without_etag",
    "works",
    "wrong_etag",
)

Step = Literal[
    "list", "usage", "export", "status", "file", "store", "upload", "membership"
]
STEPS: tuple[Step, ...] = get_args(Step)

_JOB = frozenset({"export", "status"})
_OBJECT = frozenset({"file", "store"})

Edit = Callable[[bytes], bytes]


@attrs.frozen(kw_only=True)
class Refusal:
    """
    An answer given instead of doing anything.

    Attributes:
        body: Sent as it is; None for the step's own kind of error.
    """

    status: int
    details: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    body: bytes | None = None


@attrs.frozen(kw_only=True)
class Fault:
    """
    What happens to one request; made by the functions of this module.

    Attributes:
        steps: The steps it can happen in.
        refusal: Answered, and nothing is done.
        delay: Seconds before the answer, on the emulator's clock; infinite
            for no answer at all.
        lost: Everything is done, then the connection closes without an answer.
        cut_at: Bytes of the body after which the connection closes.
        stall_at: Bytes of the body after which nothing more comes.
        flip_at: The byte of the body that arrives with a wrong bit.
        rate: Bytes a second, on the emulator's clock.
        headers: Headers of the answer to set, or with None to leave out.
        ignored: Headers of the request that are ignored.
        expired: The link that is issued is too old.
        job: What becomes of the job from now on.
        edits: What becomes of the text of the job's file from now on.
        stored_edits: What becomes of the bytes in the store from now on.
    """

    steps: frozenset[str] = frozenset(STEPS)
    refusal: Refusal | None = None
    delay: float | None = None
    lost: bool | None = None
    cut_at: int | None = None
    stall_at: int | None = None
    flip_at: int | None = None
    rate: float | None = None
    headers: Mapping[str, str | None] = attrs.field(factory=dict[str, str | None])
    ignored: frozenset[str] = frozenset()
    expired: bool | None = None
    job: Literal["failed", "endless"] | None = None
    edits: tuple[Edit, ...] = ()
    stored_edits: tuple[Edit, ...] = ()

    def __or__(self, other: Fault) -> Fault:
        """Return a fault that is both; where they disagree, the other wins."""
        theirs = {
            name: value
            for name, value in attrs.asdict(other, recurse=False).items()
            if value is not None
        }
        theirs["steps"] = self.steps & other.steps
        theirs["headers"] = {**self.headers, **other.headers}
        theirs["ignored"] = self.ignored | other.ignored
        theirs["edits"] = self.edits + other.edits
        theirs["stored_edits"] = self.stored_edits + other.stored_edits

        return attrs.evolve(self, **theirs)


class FaultQueue:
    """The faults queued for one step."""

    def __init__(self) -> None:
        self._next: deque[Fault] = deque()
        self._always: Iterator[Fault] | None = None

    def __bool__(self) -> bool:
        """Whether a fault waits."""
        return bool(self._next) or self._always is not None

    def put(self, faults: Sequence[Fault], times: int | None) -> None:
        """Queue faults, *times* over; None for always, once the rest is used up."""
        if times is None:
            self._always = itertools.cycle(faults)
        else:
            self._next.extend([*faults] * times)

    def take(self) -> Fault:
        """Return the next one, and remove it."""
        if self._next:
            return self._next.popleft()

        return Fault() if self._always is None else next(self._always)


def works() -> Fault:
    """Let a request through: a place in the queue where nothing goes wrong."""
    return Fault()


def throttled(
    retry_after: float | None = None,
    *,
    details: str = "Too Many Requests: Exceeded rate limit with query of cost 1",
) -> Fault:
    """
    Answer 429.

    Args:
        retry_after: Seconds for a Retry-After header. The live service has
            never been seen to send one.
        details: The text of the error envelope.
    """
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}

    return Fault(refusal=Refusal(status=429, details=details, headers=headers))


def broken(status: int = 503, *, retry_after: float | None = None) -> Fault:
    """Answer with an error of the server."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}

    return Fault(
        refusal=Refusal(status=status, details="Service Unavailable", headers=headers)
    )


def refused(status: int, details: str) -> Fault:
    """Answer with an error that says why."""
    return Fault(refusal=Refusal(status=status, details=details))


def html(status: int = 200) -> Fault:
    """Answer with a web page, as a proxy or a login wall would."""
    page = b"<!DOCTYPE html><html><body><h1>Please log in</h1></body></html>"
    headers = {"Content-Type": "text/html; charset=utf-8"}

    return Fault(refusal=Refusal(status=status, headers=headers, body=page))


def hang(seconds: float = math.inf) -> Fault:
    """
    Take *seconds* more for the answer; without them, never answer.

    What was asked for is done at once. The request counts as in flight all
    the while, whether or not its client is still there.
    """
    return Fault(delay=seconds)


def lost_answer() -> Fault:
    """Do what was asked, then close the connection without an answer."""
    return Fault(lost=True)


def cut_off(at: int = 0) -> Fault:
    """
    Announce the whole body, send *at* bytes of it, close the connection.

    A body that is no longer than that loses its last byte.
    """
    return Fault(cut_at=at)


def stalled(at: int = 0) -> Fault:
    """Send *at* bytes of the body, then no more, with the connection open."""
    return Fault(stall_at=at)


def slow(bytes_per_second: float) -> Fault:
    """Send the body no faster than this."""
    return Fault(rate=bytes_per_second)


def corrupt(at: int = 0) -> Fault:
    """Flip a bit of byte *at* of the body on its way."""
    return Fault(flip_at=at)


def link_expired() -> Fault:
    """Issue a link that the store no longer accepts."""
    return Fault(steps=frozenset({"file"}), expired=True)


def ignores_range() -> Fault:
    """Answer a Range with all of the object, and 200."""
    return Fault(steps=_OBJECT, ignored=frozenset({"range"}))


def ignores_conditions() -> Fault:
    """Ignore If-Match, If-None-Match and If-Range."""
    names = {"if-match", "if-none-match", "if-range"}

    return Fault(steps=_OBJECT, ignored=frozenset(names))


def with_header(name: str, value: str | None) -> Fault:
    """Send this header; None leaves it out."""
    return Fault(headers={name: value})


def without_etag() -> Fault:
    """Send no ETag."""
    return with_header("ETag", None)


def wrong_etag(value: str = '"00000000000000000000000000000000"') -> Fault:
    """Send another ETag than the object's; the object stays the same."""
    return with_header("ETag", value)


def edited(edit: Edit) -> Fault:
    """
    From now on, hold another file for this job: *edit* of its CSV text.

    The object in the store gets another ETag with it.
    """
    return Fault(steps=_OBJECT, edits=(edit,))


def bad_rows(text: bytes = b'"356896327775"\n') -> Fault:
    """Insert *text* below the header of the file; a row of one field by default."""
    return edited(lambda csv: csv.replace(b"\n", b"\n" + text, 1))


def changed() -> Fault:
    """Put another object of the same text length in the store."""
    return edited(_swap_digits)


def grown(rows: int = 1) -> Fault:
    """Put an object with more rows in the store; the last row, repeated."""
    return edited(lambda csv: csv + csv[csv.rfind(b"\n", 0, -1) + 1 :] * rows)


def shrunk(rows: int = 1) -> Fault:
    """Put an object with fewer rows in the store; the last ones are missing."""

    def shrink(csv: bytes) -> bytes:
        for _ in range(rows):
            csv = csv[: csv.rfind(b"\n", 0, -1) + 1] or csv

        return csv

    return edited(shrink)


def torn(at: int) -> Fault:
    """
    Let the stored object, as it is compressed, end after *at* bytes.

    Negative counts from the end. Lengths and ETag are those of the torn one.
    """
    return Fault(steps=_OBJECT, stored_edits=(lambda data: data[:at],))


def job_failed() -> Fault:
    """Let the job fail: its status says so from now on."""
    return Fault(steps=_JOB, job="failed")


def never_ends() -> Fault:
    """Let the job run for ever."""
    return Fault(steps=_JOB, job="endless")


def _swap_digits(csv: bytes) -> bytes:
    head, newline, rows = csv.partition(b"\n")

    return (
        head + newline + rows.translate(bytes.maketrans(b"0123456789", b"1234567890"))
    )
