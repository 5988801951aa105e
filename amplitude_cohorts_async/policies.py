"""
How patient a client is: values to pass to `CohortsClient`.
"""

from __future__ import annotations

import attrs

from .errors import ConfigurationError

__all__ = ("Downloading", "Polling", "Retrying")


@attrs.frozen(kw_only=True)
class Polling:
    """
    How a job is watched.

    Most jobs take 30 to 60 seconds whatever the size of the cohort, so the
    first question comes late; each one takes one of the five slots.

    Attributes:
        first: Seconds from the request of the export to the first question.

        every: Seconds between questions.

        spread: Share of *every* by which each wait varies, so that many jobs
            do not ask at once.
    """

    first: float = 10.0
    every: float = 5.0
    spread: float = 0.2

    def __attrs_post_init__(self) -> None:
        if not (self.first >= 0 and self.every > 0 and 0 <= self.spread < 1):
            raise ConfigurationError(
                f"polling needs first >= 0, every > 0 and 0 <= spread < 1, got {self}"
            )


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
        waits = (self.first, self.most, self.budget, self.retry_after)

        # Not a number is not zero or more, either.
        if self.attempts < 1 or not all(seconds >= 0 for seconds in waits):
            raise ConfigurationError(
                f"retrying needs attempts >= 1 and seconds >= 0, got {self}"
            )


@attrs.frozen(kw_only=True)
class Downloading:
    """
    How a file is brought.

    Attributes:
        connections: To the store for one file, at most. More than one are
            opened only while a large file is held up by what the store gives
            to each, and only when it goes to disk as it is served. One turns
            that off.

        fast: Whether to receive files on the shortest way there is; see
            `docs/design.md`. Environment variable AMPLITUDE_FAST=0 switches it off
            as well.
    """

    connections: int = 16
    fast: bool = True

    def __attrs_post_init__(self) -> None:
        if self.connections < 1:
            raise ConfigurationError(
                f"downloading needs connections >= 1, got {self.connections}"
            )
