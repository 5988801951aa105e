"""
Again, or not: what one failed attempt means for the next.
"""

from __future__ import annotations

import attrs

from ..errors import (
    CohortsError,
    ConfigurationError,
    RateLimitedError,
    ServerError,
    TransportError,
)
from .wire import Replay

_NOT_IMPLEMENTED = 501
_UNAVAILABLE = 503


@attrs.frozen(kw_only=True)
class Retrying:
    """
    How often a request is tried, and for how long.

    Attributes:
        attempts: Sendings at most, the first included.

        first: Seconds before the second attempt; doubles with each.

        most: Longest backoff of our own, in seconds.

        budget: Seconds that all waits of one request may take together; the
            waits for slots and windows are not counted.

        retry_after: Longest ``Retry-After`` that is honoured, in seconds; a
            longer one ends the request.
    """

    attempts: int = 6
    first: float = 0.5
    most: float = 30.0
    budget: float = 300.0
    retry_after: float = 120.0

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1 or min(self.first, self.most, self.budget) < 0:
            raise ConfigurationError(
                f"retrying needs attempts >= 1 and seconds >= 0, got {self}"
            )


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

    backoff = min(retrying.most, retrying.first * 2.0 ** (attempt - 1))
    delay = backoff * (0.5 + jitter / 2)

    if isinstance(failure, RateLimitedError | ServerError) and failure.retry_after:
        if failure.retry_after > retrying.retry_after:
            return None
        delay += failure.retry_after

    return delay if waited + delay <= retrying.budget else None


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
