"""
The vendor's limits, and the log of the requests that are held against them.

Rules: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import attrs

__all__ = (
    "Quotas",
    "RequestLog",
    "RequestRecord",
    "Violation",
    "WindowKind",
    "window_counters",
)

WindowKind = Literal["log", "fixed", "bucket"]


@attrs.frozen(kw_only=True)
class Quotas:
    """
    How much the emulator allows; the vendor's figures by default.

    Attributes:
        concurrent: Requests in flight at once, over all endpoints; None for
            any number.
        windows: Pairs of a count and seconds, for requests to get one cohort, of
            all cohorts together.
        window: How starts are counted: "log" counts any window that ends
            now, "fixed" restarts on the hour, as it were, and "bucket"
            refills while it drains. The vendor does not say which it is.
        refused_count: Whether a refused start fills a window as well.
        refused_spend: Whether a start that a window refuses counts in the month
            as well. The vendor counts each request, and is silent on refused ones.
        month: Requests to get one cohort in a month, of all cohorts together; None
            for an unlimited plan.
        used: Requests already spent this month.
        ids: Identifiers in one request.
        members: Members of one cohort.
    """

    concurrent: int | None = 5
    windows: tuple[tuple[int, float], ...] = ((4, 60.0), (60, 600.0))
    window: WindowKind = "log"
    refused_count: bool = False
    refused_spend: bool = False
    month: int | None = 500
    used: int = 0
    ids: int = 100_000
    members: int = 2_000_000

    @classmethod
    def unlimited(cls) -> Quotas:
        """Return quotas that let any number of requests through."""
        return cls(concurrent=None, windows=(), month=None)


class WindowCounter(Protocol):
    """Counts starts against one window."""

    def has_room(self, now: float) -> bool:
        """Whether one more may start."""
        ...

    def count_start(self, now: float) -> None:
        """Count a start."""
        ...


class _Log:
    """At most `count` starts in any window."""

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._starts: deque[float] = deque()

    def has_room(self, now: float) -> bool:
        while self._starts and now - self._starts[0] >= self._per:
            self._starts.popleft()

        return len(self._starts) < self._count

    def count_start(self, now: float) -> None:
        self._starts.append(now)


class _Fixed:
    """At most `count` starts in each period of the clock."""

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._period = -1
        self._started = 0

    def has_room(self, now: float) -> bool:
        period = math.floor(now / self._per)

        if period != self._period:
            self._period, self._started = period, 0

        return self._started < self._count

    def count_start(self, now: float) -> None:
        del now
        self._started += 1


class _Bucket:
    """A bucket of `count` tokens that refills evenly."""

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._tokens = float(count)
        self._filled_at = 0.0

    def has_room(self, now: float) -> bool:
        fresh = max(0.0, now - self._filled_at) * self._count / self._per
        self._tokens = min(float(self._count), self._tokens + fresh)
        self._filled_at = now
        # The refill is a sum of fractions: rounding must not refuse a whole token.
        return self._tokens > 1 - 1e-9

    def count_start(self, now: float) -> None:
        del now
        self._tokens -= 1


def window_counters(quotas: Quotas) -> list[WindowCounter]:
    """Return a fresh counter for each window."""
    kinds: dict[WindowKind, Callable[[int, float], WindowCounter]] = {
        "log": _Log,
        "fixed": _Fixed,
        "bucket": _Bucket,
    }

    return [kinds[quotas.window](count, per) for count, per in quotas.windows]


_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


@attrs.define(kw_only=True, eq=False)
class RequestRecord:
    """
    One request, as it arrived.

    Attributes:
        step: What it asked for; "other" for a path that is none.
        target: Path and query, byte for byte as received; shown without
            what is behind ``X-Amz-Signature=``.
        headers: Names in lower case; the values of credentials are hidden.
        at: When it arrived, on the emulator's clock.
        ended: When its answer was given, or None.
        status: The status of the answer, or None when none was given.
        ids: Identifiers in its body.
        order: The place of its arrival among all arrivals and endings.
        end_order: The place of its ending.
    """

    step: str
    method: str
    target: str = attrs.field(repr=lambda target: repr(_unsigned(target)))
    headers: Mapping[str, str] = attrs.field(repr=False)
    at: float
    order: int = attrs.field(repr=False)
    ended: float | None = None
    status: int | None = None
    ids: int = 0
    end_order: int = attrs.field(default=-1, repr=False)


@attrs.frozen(kw_only=True)
class Violation:
    """
    A rule the client broke.

    Attributes:
        rule: Its name, as in "concurrency" or "window".
        details: What was wrong.
        request: The request that broke it.
    """

    rule: str
    details: str
    request: RequestRecord


class RequestLog:
    """Records requests and violations. Not locked: its owner is."""

    def __init__(self) -> None:
        self.requests: list[RequestRecord] = []
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        self.in_flight: int = 0
        self.max_in_flight: int = 0
        self._order = itertools.count()

    def _next_order(self) -> int:
        return next(self._order)

    def add(
        self,
        step: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        at: float,
    ) -> RequestRecord:
        """Record the arrival of a request."""
        record = RequestRecord(
            step=step,
            method=method,
            target=target,
            headers=_without_secrets(headers),
            at=at,
            order=self._next_order(),
        )
        self.requests.append(record)
        self.counts[step] += 1

        if step != "store":
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)

        return record

    def end(self, record: RequestRecord, status: int | None, *, at: float) -> None:
        """Record the end of a request; only the first one counts."""
        if record.ended is not None:
            return

        record.ended, record.status, record.end_order = at, status, self._next_order()

        if record.step != "store":
            self.in_flight -= 1

    def add_violation(self, record: RequestRecord, rule: str, details: str) -> None:
        """Record that a request broke a rule."""
        self.violations.append(Violation(rule=rule, details=details, request=record))


def _unsigned(target: str) -> str:
    return target.partition("X-Amz-Signature=")[0]


def _without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    names = {name.lower(): value for name, value in headers.items()}

    return {
        name: "<hidden>" if name in _SECRET else value for name, value in names.items()
    }
