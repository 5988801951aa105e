"""
Again, or not: what one failed attempt means for the next.

Everything that decides whether something is tried again:

=============================== ====================================================
`may_repeat()`, `retry_delay()` A request to Amplitude, in `Session.attempts()`.
`may_ask_again()`               A question about a job, within one `wait()`: the next
                                question comes anyway, so these failures do not count.
`LinkRefresh`                   A link to a file, in `_io/download`: a fresh one, five
                                times without a new byte; `_SLOW_DOWN` beside it says
                                which answers of the store ask for a pause first.
`_once()`                       Nothing: keeps aiohttp from repeating by itself, in
                                the transport.
`_may_have_happened()`          An upload whose answer was lost is looked for in the
                                list, and never sent again.
=============================== ====================================================

`backoff()` is the one formula for how long to wait in between. What a limiter waits
after a 429 is a pause for all requests, not a retry of one: see `pacing`.
"""

from __future__ import annotations

from ..errors import (
    ApiError,
    CohortsError,
    RateLimitedError,
    ServerError,
    TransportError,
)
from ..policies import Retrying
from .messages import Replay

_DOUBLINGS = 60
"""More of them wait no longer than the longest anyway, and overflow in the end."""

_NOT_IMPLEMENTED = 501
_UNAVAILABLE = 503


NO_RETRIES = Retrying(attempts=1)


def backoff(retrying: Retrying, attempt: int, *, jitter: float) -> float:
    """
    Return the delay after a number of failed attempts: doubled each time, and spread.

    Args:
        attempt: Attempts so far, 1 or more.

        jitter: Between 0 and 1.
    """
    doubled = retrying.wait_initial * 2.0 ** min(attempt - 1, _DOUBLINGS)

    return min(retrying.wait_max, doubled) * (0.5 + jitter / 2)


def retry_delay(
    retrying: Retrying,
    replay: Replay,
    failure: CohortsError,
    *,
    attempt: int,
    waited: float,
    jitter: float,
) -> float | None:
    """
    Return the delay before the next attempt; None if there is none.

    Args:
        failure: What the attempt ended with.

        attempt: Attempts so far.

        waited: Seconds waited between them so far.

        jitter: Between 0 and 1.
    """
    if attempt >= retrying.attempts or not may_repeat(replay, failure):
        return None

    delay = backoff(retrying, attempt, jitter=jitter)

    if isinstance(failure, RateLimitedError | ServerError) and failure.retry_after:
        if failure.retry_after > retrying.max_retry_after:
            return None
        delay += failure.retry_after

    return delay if waited + delay <= retrying.timeout else None


def may_repeat(replay: Replay, failure: CohortsError) -> bool:
    """Whether sending a request again can do no harm."""
    match failure:
        case RateLimitedError():
            # Refused at the door: nothing was done.
            return True
        case ServerError(status=status):
            if replay is Replay.SAFE:
                return status != _NOT_IMPLEMENTED
            return replay is Replay.COSTLY and status == _UNAVAILABLE
        case TransportError(may_have_happened=may_have_happened):
            return replay is Replay.SAFE or not may_have_happened
        case _:
            return False


def may_ask_again(failure: CohortsError) -> bool:
    """Whether a failed question about a job leaves its answer open."""
    return isinstance(failure, RateLimitedError | ServerError | TransportError)


def was_refused(failure: CohortsError) -> bool:
    """Whether a request for an export surely spent none."""
    if isinstance(failure, ApiError) and not isinstance(failure, ServerError):
        return True

    return may_repeat(Replay.COSTLY, failure)
