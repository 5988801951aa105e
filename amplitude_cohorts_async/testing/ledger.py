"""
What the emulator remembers: requests, how many at once, rules broken.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping

import attrs

__all__ = ("Ledger", "RequestRecord", "Violation")

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


class Ledger:
    """
    Takes down what happens. Not locked: its owner is.
    """

    def __init__(self) -> None:
        self.log: list[RequestRecord] = []
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        self.in_flight: int = 0
        self.max_in_flight: int = 0
        self._order = itertools.count()

    def _tick(self) -> int:
        return next(self._order)

    def arrive(
        self,
        step: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        at: float,
    ) -> RequestRecord:
        """
        Take down a request.
        """
        record = RequestRecord(
            step=step,
            method=method,
            target=target,
            headers=_without_secrets(headers),
            at=at,
            order=self._tick(),
        )
        self.log.append(record)
        self.counts[step] += 1

        if step != "store":
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)

        return record

    def end(self, record: RequestRecord, status: int | None, *, at: float) -> None:
        """
        Take down that a request is over; only the first time counts.
        """
        if record.ended is not None:
            return

        record.ended, record.status, record.end_order = at, status, self._tick()

        if record.step != "store":
            self.in_flight -= 1

    def object_to(self, record: RequestRecord, rule: str, details: str) -> None:
        """
        Take down that a request broke a rule.
        """
        self.violations.append(Violation(rule=rule, details=details, request=record))


def _unsigned(target: str) -> str:
    return target.partition("X-Amz-Signature=")[0]


def _without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    names = {name.lower(): value for name, value in headers.items()}

    return {
        name: "<hidden>" if name in _SECRET else value for name, value in names.items()
    }
