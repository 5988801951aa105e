"""What the limiters that keep `Limits` have in common."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs
from aiolimiter import AsyncLimiter

from ..._core.pacing import Pace, Refusal
from ...errors import QuotaWaitError
from ...limits import Kind, Limits, Rate
from .base import Limiter, Permit, Statistics
from .fifo_lock import FifoLock
from .window import EDGE

_log = logging.getLogger(__name__)

WITHHELD_FOR = 600.0
"""Seconds that a place stays free for others who evidently use the app."""

P = TypeVar("P")


@attrs.define(eq=False)
class Admission(Permit, Generic[P]):
    """
    A permit of a `LimitsKeeper`.

    Attributes:
        windows: Its places in the windows, if its kind counts there.

        slot: Its place in flight.

        sent_at: When it was given, on the clock of *now*.

        refusals: Answers of 429 that were reported.
    """

    kind: Kind
    windows: Sequence[P]
    slot: P
    now: Callable[[], float]
    sent_at: float = attrs.field(init=False)
    refusals: list[Refusal] = attrs.field(factory=list[Refusal])

    def __attrs_post_init__(self) -> None:
        self.sent_at = self.now()

    def throttled(self, retry_after: float | None = None, *, details: str = "") -> None:
        """Report a 429: all requests pause once this one has ended."""
        self.refusals.append(
            Refusal(
                kind=self.kind,
                sent_at=self.sent_at,
                at=self.now(),
                retry_after=retry_after,
                details=details,
            )
        )


class Pacer:
    """
    Keeps the pace of one kind of request: a leaky bucket for each event loop.

    A bucket lets a burst through and then an even pace, which is what a rate of
    our own means. It cannot keep a window that the service counts, see
    docs/limits.md. aiolimiter reads the time of its event loop and no other clock.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._drop = rate.per / rate.count + EDGE
        self._mutex = threading.Lock()
        self._buckets: dict[
            asyncio.AbstractEventLoop, tuple[FifoLock, AsyncLimiter]
        ] = {}

    async def wait(self) -> None:
        """Wait until the bucket has room for one more; first come, first served."""
        lock, bucket = self._bucket()

        async with lock:
            # acquire() alone would poll the clock at the very edge until rounding
            # errors have passed: for ever where time stands still between timers.
            while not bucket.has_capacity():  # noqa: ASYNC110 - time is the event
                await asyncio.sleep(self._drop)

            await bucket.acquire()

    def _bucket(self) -> tuple[FifoLock, AsyncLimiter]:
        loop = asyncio.get_running_loop()

        if loop not in self._buckets:
            made = FifoLock(), AsyncLimiter(self._rate.count, self._rate.per)
            # A bucket refers to its loop, so a weak dictionary would keep both.
            with self._mutex:
                alive = {k: v for k, v in self._buckets.items() if not k.is_closed()}
                self._buckets = {**alive, loop: made}

        return self._buckets[loop]


class LimitsKeeper(Limiter):
    """A limiter that keeps `Limits` and counts what it lets through."""

    def __init__(self, limits: Limits, *, paced: bool = True) -> None:
        """
        Prepare the counters.

        Args:
            paced: Whether to keep the rates that have no window; they need the
                event loop's own clock.
        """
        self._limits = limits
        self._mutex = threading.Lock()
        rates: dict[Kind, Rate | None] = {"poll": limits.polls, "write": limits.writes}
        self._pacers = {
            kind: Pacer(rate) for kind, rate in rates.items() if rate and paced
        }
        self._counts: dict[str, float] = dict.fromkeys(
            ("started", "in_flight", "waiting", "waited", "throttled"), 0
        )

    @property
    def limits(self) -> Limits:
        """The limits it keeps."""
        return self._limits

    def statistics(self) -> Statistics:
        """
        Return counters of what was let through in this process.

        Returns:
            "started" and "started.export", "started.poll" and so on,
            "in_flight", "waiting", "waited" (seconds, of all together) and
            "throttled".
        """
        with self._mutex:
            return dict(self._counts)

    def _count(self, **by: float) -> None:
        with self._mutex:
            for name, number in by.items():
                self._counts[name] = self._counts.get(name, 0) + number

    def _count_start(self, kind: Kind, *, waited: float) -> None:
        started = {"started": 1, f"started.{kind}": 1, "waited": waited}
        self._count(waiting=-1, in_flight=+1, **started)

    def _refuse_if_longer(self, seconds: float, kind: Kind) -> None:
        most = self._limits.max_wait

        if most is not None and seconds > most:
            raise QuotaWaitError(
                f"the next place for a request of kind {kind!r} is {seconds:.1f} s "
                f"away, and max_wait is {most:g} s; ask again later, or with a "
                f"larger Limits.max_wait",
                seconds=seconds,
            )

    def _note_slowdown(self, refusal: Refusal, before: Pace, after: Pace) -> None:
        self._count(throttled=1)
        facts = {
            "kind": refusal.kind,
            "pause_seconds": max(0.0, after.paused_until - refusal.at),
            "spacing_seconds": after.spacing(self._limits.exports),
        }
        _log.warning("the service asked to slow down", extra=facts)
        if after.counted != before.counted:
            _log.warning("polls and files count in the windows from now on")
