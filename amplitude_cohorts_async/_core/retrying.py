"""
Whether and when a failed attempt is made again.

Everything that decides whether something is tried again:

=============================== ====================================================
`may_repeat()`, `retry_delay()` A request to Amplitude, in `Session.attempts()`.
`may_ask_again()`               A poll of a job, within one `wait()`: the next poll
                                comes anyway, so these failures do not count.
`may_be_unknown()`              A 404 for the status of a young export, in `polling`:
                                the next poll comes, as above.
`LinkRefresh`                   A link to a file, in `_io/download`: a fresh one, five
                                times without a new byte; `_SLOW_DOWN` beside it lists
                                the store's answers that call for a pause first.
`_once()`                       Nothing: keeps aiohttp from repeating by itself, in
                                the transport.
`_may_have_happened()`          An upload whose answer was lost is looked up in the
                                list, and never sent again.
`_can_be_mended()`              A step of `tick()`, in `_exports/ticker`: the next
                                one is made by who asked for it.
`_NOT_MENDED`,                  In `contrib/airflow`: a task, a question of a
`_MENDED_LATER`                 trigger. The rest is Airflow's ``retries=``.
=============================== ====================================================

`backoff()` is the one formula for the wait in between. A limiter's wait after a 429
is a pause for all requests, not a retry of one: see `pacing`.
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

# More doublings exceed any longest wait anyway, and overflow in the end.
_MAX_DOUBLINGS = 60

_NOT_IMPLEMENTED = 501
_UNAVAILABLE = 503


NO_RETRIES = Retrying(attempts=1)


def backoff(retrying: Retrying, attempt: int, *, jitter: float) -> float:
    """
    Return the delay after *attempt* failed attempts: doubled each time, with jitter.

    The *jitter* is between 0 and 1.
    """
    doubled = retrying.wait_initial * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)

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

    *attempt* counts the attempts so far, and *waited* the seconds between them;
    *jitter* is between 0 and 1.
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
            # Refused before anything was done.
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
    """Whether a failed poll leaves the job's status open."""
    return isinstance(failure, RateLimitedError | ServerError | TransportError)


def was_refused(failure: CohortsError) -> bool:
    """Whether a failed request for an export is taken to have left no job."""
    if isinstance(failure, ApiError) and not isinstance(failure, ServerError):
        return True

    return may_repeat(Replay.COSTLY, failure)
