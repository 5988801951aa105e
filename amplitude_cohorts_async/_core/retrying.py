"""
Again, or not: what one failed attempt means for the next.
"""

from __future__ import annotations

from ..errors import (
    CohortsError,
    RateLimitedError,
    ServerError,
    TransportError,
)
from ..policies import Retrying
from .wire import Replay

_DOUBLINGS = 60
"""
More of them are no longer wait than the longest anyway, and no number at last.
"""

_NOT_IMPLEMENTED = 501
_UNAVAILABLE = 503


NO_RETRIES = Retrying(attempts=1)


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
    Tell how long to wait before sending again; None says do not.

    Args:
        failure: What the attempt ended with.

        attempt: Sendings so far.

        waited: Seconds waited between them so far.

        jitter: Between 0 and 1.
    """
    if attempt >= retrying.attempts or not may_repeat(replay, failure):
        return None

    backoff = min(
        retrying.wait_max, retrying.wait_initial * 2.0 ** min(attempt - 1, _DOUBLINGS)
    )
    delay = backoff * (0.5 + jitter / 2)

    if isinstance(failure, RateLimitedError | ServerError) and failure.retry_after:
        if failure.retry_after > retrying.max_retry_after:
            return None
        delay += failure.retry_after

    return delay if waited + delay <= retrying.timeout else None


def may_repeat(replay: Replay, failure: CohortsError) -> bool:
    """
    Tell whether sending again can do no harm.
    """
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
