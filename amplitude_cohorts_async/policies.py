"""Policies for polling, retrying and downloading, to pass to `CohortsClient`."""

from __future__ import annotations

import attrs

from .errors import ConfigurationError

__all__ = ("Downloading", "Polling", "Retrying")


@attrs.frozen(kw_only=True)
class Polling:
    """
    When to poll the status of a job.

    The vendor does not say how long a job takes. Others have seen 30 to 60 seconds,
    whatever the size of the cohort, so the first poll comes late; each poll takes one
    of the five slots.

    Attributes:
        initial_delay: Seconds from the export request to the first poll.
        interval: Seconds between polls.
        jitter: Share of each wait by which it varies, so that many jobs are not
            polled at the same time.
    """

    initial_delay: float = 10.0
    interval: float = 5.0
    jitter: float = 0.2

    def __attrs_post_init__(self) -> None:
        if not (self.initial_delay >= 0 and self.interval > 0 and 0 <= self.jitter < 1):
            raise ConfigurationError(
                f"polling needs initial_delay >= 0, interval > 0 and "
                f"0 <= jitter < 1, got {self}"
            )


@attrs.frozen(kw_only=True)
class Retrying:
    """
    How often a request is tried, and for how long.

    Attributes:
        attempts: Maximum number of attempts, the first included.
        wait_initial: Seconds before the second attempt; doubles with each.
        wait_max: Maximum backoff, in seconds.
        timeout: Seconds that all waits between the attempts of one request may
            take; waits for slots and windows are not counted.
        max_retry_after: Longest ``Retry-After`` that is honoured, in seconds; a
            longer one ends the request.
    """

    attempts: int = 6
    wait_initial: float = 0.5
    wait_max: float = 30.0
    timeout: float = 300.0
    max_retry_after: float = 120.0

    def __attrs_post_init__(self) -> None:
        waits = (self.wait_initial, self.wait_max, self.timeout, self.max_retry_after)

        # `>=`, so that a NaN is refused.
        if self.attempts < 1 or not all(seconds >= 0 for seconds in waits):
            raise ConfigurationError(
                f"retrying needs attempts >= 1 and seconds >= 0, got {self}"
            )


@attrs.frozen(kw_only=True)
class Downloading:
    """
    How a file is downloaded.

    Attributes:
        max_connections: Connections to the store for one file. More than one are
            opened only while the store limits the speed of each, for a large file
            that goes to disk as it is served. 1 turns that off.
        fast: Whether to use the fast path for files; see `docs/design.md`. The
            environment variable AMPLITUDE_FAST=0 switches it off as well.
        max_size: Bytes of text that a file may hold, decompressed. Two million
            members of 8,000 bytes each fit; more is a `MalformedFileError`, so that
            a compressed file cannot fill a disk. No ratio of compression is refused.
    """

    max_connections: int = 16
    fast: bool = True
    max_size: int = 16 << 30

    def __attrs_post_init__(self) -> None:
        if self.max_connections < 1:
            raise ConfigurationError(
                f"downloading needs max_connections >= 1, got {self.max_connections}"
            )

        if self.max_size < 1:
            raise ConfigurationError(
                f"downloading needs max_size >= 1, got {self.max_size}"
            )
