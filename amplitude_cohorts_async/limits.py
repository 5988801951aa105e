"""
The limits of one app, as values.

The numbers of `DOCUMENTED` are the vendor's, from "Limits and considerations" at
https://amplitude.com/docs/apis/analytics/behavioral-cohorts :

- "The concurrency limit is 5 requests across cohort downloads and the
  Dashboard REST API."
- "Cohort Download limits single cohort requests to 60 requests per 10 minutes
  per app, and 4 parallel requests per minute per app."

The last one can be read as four *started* in any minute or as four *running*;
the default keeps both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import attrs

from .errors import ConfigurationError

__all__ = ("DOCUMENTED", "LEAVE_ROOM", "UNLIMITED", "Kind", "Limits", "Rate")

Kind = Literal["export", "poll", "file", "write", "other"]
"""
The kind of a request: "export" requests one cohort and counts in every window and
in the monthly quota; "poll" asks for a job's status; "file" for its file; "write"
uploads or changes a cohort; "other" is any other, the Dashboard REST API included.
"""


def _error(instance: object, name: str, value: object, advice: str) -> Exception:
    return ConfigurationError(
        f"{type(instance).__name__}.{name} is {value!r}; {advice}"
    )


def _whole(least: int, instance: object, name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        advice = f"give a whole number, {least} or more"
        raise _error(instance, name, value, advice)


def _at_least_one(instance: object, field: attrs.Attribute[int], value: int) -> None:
    _whole(1, instance, field.name, value)


def _not_negative(instance: object, field: attrs.Attribute[int], value: int) -> None:
    _whole(0, instance, field.name, value)


def _seconds(
    instance: object, field: attrs.Attribute[float], value: float | None
) -> None:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise _error(instance, field.name, value, "give seconds, zero or more")


def _positive_seconds(
    instance: object, field: attrs.Attribute[float], value: float
) -> None:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _error(instance, field.name, value, "give seconds, more than zero")


@attrs.frozen
class Rate:
    """At most *count* starts in any *per* seconds."""

    count: int = attrs.field(validator=_at_least_one)
    per: float = attrs.field(kw_only=True, validator=_positive_seconds)


def _as_rates(value: Rate | Iterable[Rate]) -> tuple[Rate, ...]:
    rates = (value,) if isinstance(value, Rate) else tuple(value)

    for rate in rates:
        if not isinstance(rate, Rate):
            raise ConfigurationError(
                f"Limits.exports holds {rate!r}; "
                "give rates, as in exports=[Rate(4, per=60)]"
            )

    return rates


def _rate(
    instance: object, field: attrs.Attribute[Rate | None], value: Rate | None
) -> None:
    if not isinstance(value, Rate | None):
        advice = f"give a rate, as in {field.name}=Rate(3, per=1), or None"
        raise _error(instance, field.name, value, advice)


def _pace() -> Rate | None:
    return Rate(3, per=1.0)


@attrs.frozen(kw_only=True)
class Limits:
    """
    The limits of one app, and how to keep them.

    The vendor documents no rate of polls or writes. Those below are ours, so that
    neither fills the slots that exports, files and people's dashboards share: a
    burst of so many, then an even pace. They are kept within each process, and need
    the event loop's own clock.

    Attributes:
        in_flight: Requests at the same time, of all kinds. Lower it when others use
            the app: people with dashboards, processes without this package.
        exports: Rates of export requests; all of them hold, in any window, however
            the service counts. Empty for no limit.
        polls: Pace of status requests; None for no limit.
        writes: Pace of uploads and changes of cohorts; None for no limit.
        guard_month: Whether to read the month's usage, and to refuse an export
            before it is sent when the monthly quota is exhausted.
        monthly_reserve: Export requests of the month to leave for others.
        clock_margin: Seconds added to each window for differences between the
            clocks of the service's own machines.
        release_delay: Seconds a slot stays taken after an attempt that was cancelled
            or failed, because the service may still be busy with it.
        max_wait: Seconds; a longer wait for a window or a pause raises
            `QuotaWaitError` at once. None waits.
    """

    in_flight: int = attrs.field(default=5, validator=_at_least_one)
    exports: tuple[Rate, ...] = attrs.field(
        default=(Rate(4, per=60.0), Rate(60, per=600.0)),
        converter=_as_rates,
    )
    polls: Rate | None = attrs.field(factory=_pace, validator=_rate)
    writes: Rate | None = attrs.field(factory=_pace, validator=_rate)
    guard_month: bool = True
    monthly_reserve: int = attrs.field(default=0, validator=_not_negative)
    clock_margin: float = attrs.field(default=0.25, validator=_seconds)
    release_delay: float = attrs.field(default=1.0, validator=_seconds)
    max_wait: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_seconds)
    )

    def share(self, processes: int) -> Limits:
        """
        Return the share of each process, if so many keep the limits independently.

        Raise `ConfigurationError` if there is not one place for each.
        """
        _whole(1, self, "share(processes)", processes)
        least = min([self.in_flight, *(rate.count for rate in self.exports)])

        if processes > least:
            raise ConfigurationError(
                f"{processes} processes cannot share limits with {least} places; "
                f"share among {least} at most"
            )

        return attrs.evolve(
            self,
            in_flight=self.in_flight // processes,
            exports=[
                Rate(rate.count // processes, per=rate.per) for rate in self.exports
            ],
            polls=_slower(self.polls, processes),
            writes=_slower(self.writes, processes),
        )


def _slower(rate: Rate | None, times: int) -> Rate | None:
    return None if rate is None else Rate(rate.count, per=rate.per * times)


DOCUMENTED = Limits()
"""As the vendor documents: 5 requests at once, 4 exports a minute, 60 in 10 minutes."""

LEAVE_ROOM = Limits(in_flight=4)
"""As documented, but one of the five slots stays free for people's dashboards."""

UNLIMITED = Limits(
    in_flight=1_000,
    exports=(),
    polls=None,
    writes=None,
    guard_month=False,
    clock_margin=0.0,
    release_delay=0.0,
)
"""No waiting and no monthly count. For tests, never for the service."""
